"""a6.21: the bytes and FLOPs of a step, and the time that they take at least."""

import math

import latency_oracle as oracle
import pytest

pytestmark = pytest.mark.task("a6.21")
MODULE = "inference.latency_model"

FIELDS = {
    "vocab_size": 10,
    "context_length": 64,
    "d_model": 4,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 2,
    "d_ff": 6,
}
NEW, CACHED = [1, 3], [5, 0]


def config(**changes):
    return oracle.config_of({**FIELDS, **changes})


def check_number(a6, got, expected, what, causes=None):
    """A float, within the rounding of float64."""
    a6.true(
        isinstance(got, int | float) and not isinstance(got, bool),
        f"{what}: expected a number, got {a6.shown(got)}",
    )
    found = float(got)
    if math.isclose(found, expected, rel_tol=1e-9):
        return
    likely = [
        cause
        for cause, wrong in (causes or {}).items()
        if math.isclose(found, wrong, rel_tol=1e-9)
        and not math.isclose(wrong, expected, rel_tol=1e-9)
    ]
    values = {"expected": f"{expected:,.10g}", "got": f"{found:,.10g}"}
    raise a6.GradedFailure(
        a6.message_of(f"{what} is wrong", values | ({"likely": likely[0]} if likely else {}))
    )


def step(implementation, shape, *arguments):
    return implementation(MODULE).step_cost(shape, *arguments)


SHAPES = [
    {},
    {"tie_embeddings": False},
    {"mlp": "gelu"},
    {"mlp": "geglu"},
    {"mlp": "squared_relu"},
    {"head_dim": 6},
    {"num_kv_heads": 2},
    {"biases": True, "position": "learned", "norm": "layernorm"},
    {"qk_norm": True},
]


def test_the_bytes_of_the_weights(implementation, a6):
    for changes in SHAPES:
        shape = config(**changes)
        right = oracle.weights(shape)
        got = step(implementation, shape, NEW, CACHED).weight_bytes
        causes = {
            "a tied head is read, too: its matrix is the embedding's": (
                2 * oracle.weights(shape, heads=0)
            ),
            "the embedding is counted beside the head: only a few of its rows are looked up": (
                2 * oracle.weights(shape, embeddings=1)
            ),
            "this is the number of weights: 16 bits are 2 bytes": right,
            "these are bits: divide by 8": 16 * right,
            "the weights are read once per step, not once per request": 2 * 2 * right,
            "the weights are read once per step, not once per token": 2 * 4 * right,
            "gated layers (swiglu, geglu) have three matrices, the others two": (
                2 * oracle.weights(shape, gates=1 if shape.mlp not in oracle.GATED else -1)
            ),
            "key and value have num_kv_heads heads": 2 * oracle.weights(shape, kv=shape.num_heads),
            "count the matrices of every layer": (
                2 * oracle.weights(shape.model_copy(update={"num_layers": 1}))
            ),
        }
        what = f"weight_bytes of the handout's shape with {changes or 'no changes'}"
        check_number(a6, got, 2 * right, what, causes)


def test_bits_of_weights_and_of_the_cache(implementation, a6):
    shape = config()
    got = step(implementation, shape, NEW, CACHED, 4.5, 8)
    check_number(a6, got.weight_bytes, 280 * 4.5 / 8, "weight_bytes with 4.5 bits per weight")
    causes = {"this is with 4.5 bits: cache_bits is the last argument": 144 * 4.5 / 16}
    check_number(a6, got.cache_bytes, 72, "cache_bytes with 8 bits per number", causes)


@pytest.mark.parametrize("window", [None, 1, 2, 4, 6, 30])
def test_the_bytes_of_the_cache(implementation, a6, window):
    for new, cached in ((NEW, CACHED), ([1], [0]), ([4], [7]), ([1, 1, 1], [9, 9, 2])):
        shape = config(sliding_window=window)
        token = oracle.bytes_per_token(shape, 16)
        tokens = oracle.tokens_read(shape, new, cached)
        got = step(implementation, shape, new, cached).cache_bytes
        each_token = sum(c + i + 1 for n, c in zip(new, cached, strict=True) for i in range(n))
        shared = max(n + c for n, c in zip(new, cached, strict=True))
        causes = {
            "the new tokens are read, too": (tokens - sum(new)) * token,
            "a chunk reads the cache once, not once for each of its tokens": each_token * token,
            "each request reads its own keys and values; they are not shared": shared * token,
            "there are num_kv_heads heads in the cache": (
                tokens * oracle.bytes_per_token(shape, 16, shape.num_heads)
            ),
            "count keys and values": tokens * token / 2,
            "these are numbers, not bytes: 16 bits are 2 bytes": tokens * token / 2,
            "these are bits: divide by 8": tokens * token * 8,
        }
        if window is not None:
            total = sum(new) + sum(cached)
            most = sum(min(n + c, window) for n, c in zip(new, cached, strict=True))
            late = sum(n + min(c, window) for n, c in zip(new, cached, strict=True))
            causes |= {
                "the sliding window is ignored": total * token,
                "the first new token of a chunk sees window - 1 tokens before it, and the others "
                "see it": most * token,
                "a token's window includes itself, so it sees window - 1 cached ones": late * token,
            }
        what = f"cache_bytes of new {new}, cached {cached}, sliding_window {window}"
        check_number(a6, got, tokens * token, what, causes)


@pytest.mark.parametrize("window", [None, 1, 2, 4, 30])
def test_the_flops(implementation, a6, window):
    for new, cached in ((NEW, CACHED), ([1], [0]), ([5], [0]), ([4], [7])):
        shape = config(sliding_window=window)
        got = step(implementation, shape, new, cached).flops
        both = list(zip(new, cached, strict=True))
        square = sum(n * (n + c) for n, c in both)
        causes = {
            "a new token sees only tokens up to itself: this counts the whole rectangle of queries "
            "and keys": {"num_pairs": square},
            "half of the rectangle is not exact: new token i sees cached + i + 1 tokens": (
                {"num_pairs": square / 2}
            ),
            "each new token sees itself, too": {
                "num_pairs": sum(c + i for n, c in both for i in range(n))
            },
            "the sliding window is ignored": {
                "num_pairs": sum(c + i + 1 for n, c in both for i in range(n))
            },
            "the head computes one token per request, not every new token": (
                {"head_rows": sum(new)}
            ),
            "the head's FLOPs are missing": {"head_rows": 0},
            "the head computes one token for each request": {"head_rows": 1},
            "every query head computes scores, not only num_kv_heads": (
                {"heads": shape.num_kv_heads}
            ),
            "attention has two products: scores, and weights times values": {"per_pair": 2},
            "attention is missing": {"num_pairs": 0},
            "a multiplication and an addition are two FLOPs": {"per_weight": 1, "per_pair": 2},
        }
        wrong = {cause: oracle.flops(shape, new, cached, **rule) for cause, rule in causes.items()}
        right = oracle.flops(shape, new, cached)
        what = f"flops of new {new}, cached {cached}, sliding_window {window}"
        check_number(a6, got, right, what, wrong)


def test_the_example_of_the_handout(implementation, a6):
    module = implementation(MODULE)
    cost = module.step_cost(config(), NEW, CACHED)
    for name, right in (("weight_bytes", 560), ("cache_bytes", 144), ("flops", 2464)):
        check_number(a6, getattr(cost, name), right, f"{name} of the handout's example")
    memory = module.memory_for_cache(config(), [5, 8], 4)
    for name, right in (("block_bytes", 256), ("wasted_bytes", 48), ("table_bytes", 16)):
        check_number(a6, getattr(memory, name), right, f"{name} of the handout's example")


@pytest.mark.parametrize(
    ("new", "cached"), [([1], []), ([1, 1], [3]), ([0], [3]), ([1, -1], [3, 3]), ([1], [-1])]
)
def test_impossible_steps(implementation, a6, new, cached):
    what = f"step_cost of new {new}, cached {cached}"
    a6.raises(ValueError, lambda: step(implementation, config(), new, cached), what)


def test_a_step_without_requests(implementation, a6):
    got = step(implementation, config(), [], [])
    causes = {"a step without requests reads no weights": lambda got: got[0] > 0}
    a6.expect(
        tuple(map(float, got)), (0.0, 0.0, 0.0), "the cost of a step without requests", causes
    )


def test_the_roofline(implementation, a6):
    module = implementation(MODULE)
    machine = module.Machine(bytes_per_second=100.0, flops_per_second=400.0)
    for cost, right in (((300, 100, 800), 4.0), ((10, 30, 800), 2.0), ((0, 0, 0), 0.0),
                        ((50, 50, 400), 1.0)):  # fmt: skip
        weight_bytes, cache_bytes, flops = cost
        reading, computing = (weight_bytes + cache_bytes) / 100, flops / 400
        got = module.roofline_seconds(module.StepCost(*cost), machine)
        causes = {
            "a machine reads and computes at the same time: take the larger, not the sum": (
                reading + computing
            ),
            "the slower of the two decides": min(reading, computing),
            "the bytes of the cache are read, too": max(weight_bytes / 100, computing),
            "bytes are divided by bytes_per_second, FLOPs by flops_per_second": max(
                (weight_bytes + cache_bytes) / 400, flops / 100
            ),
        }
        what = f"roofline_seconds of {weight_bytes} + {cache_bytes} bytes and {flops} FLOPs"
        check_number(a6, got, right, what, causes)


@pytest.mark.parametrize(("batch", "length"), [(1, 0), (1, 30), (8, 30), (200, 30)])
def test_tokens_per_second(implementation, a6, batch, length):
    module = implementation(MODULE)
    machine = module.Machine(bytes_per_second=1e4, flops_per_second=2e5)

    def rate(weight, cache, flops):
        return batch / max((weight + cache) / 1e4, flops / 2e5)

    new = [1] * batch
    weight, cache, flops = oracle.cost_of(config(), new, [length] * batch, 16, 16)
    once = oracle.cost_of(config(), [1], [length], 16, 16)[1]
    got = module.decode_tokens_per_second(config(), batch, length, machine)
    causes = {
        "a step gives one token for each request": rate(weight, cache, flops) / batch,
        "these are seconds per token": 1 / rate(weight, cache, flops),
        "the cache is read once for each request, not once for the batch": (
            rate(weight, once, flops)
        ),
        "length is the number of cached tokens: the new one comes in addition": rate(
            *oracle.cost_of(config(), new, [max(0, length - 1)] * batch, 16, 16)
        ),
        "the weights are read once for the batch": rate(batch * weight, cache, flops),
    }
    what = f"tokens per second of {batch} requests with {length} cached tokens"
    check_number(a6, got, rate(weight, cache, flops), what, causes)
    weight, cache, flops = oracle.cost_of(config(), new, [length] * batch, 4, 8)
    got = module.decode_tokens_per_second(config(), batch, length, machine, 4, 8)
    causes = {"4 are the bits of a weight, 8 those of a number in the cache": rate(
        *oracle.cost_of(config(), new, [length] * batch, 8, 4)
    )}  # fmt: skip
    check_number(a6, got, rate(weight, cache, flops), f"{what}, with 4 and 8 bits", causes)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_memory_for_cache(implementation, a6, size):
    for lengths in ([5, 8], [0], [], [1, 16, 17, 4, 0, 15]):
        got = implementation(MODULE).memory_for_cache(config(), lengths, size, 8)
        right = oracle.memory_of(config(), lengths, size, 8)
        token = oracle.bytes_per_token(config(), 8)
        together = -(-sum(lengths) // size) if lengths else 0
        one_more = sum(length // size + 1 for length in lengths)
        what = f"of lengths {lengths} in blocks of {size}, 8 bits"
        causes = {
            "each request has blocks of its own": together * size * token,
            "a request that fills its last block needs no further one": one_more * size * token,
            "round the number of blocks up": (
                sum(length // size for length in lengths) * size * token
            ),
        }
        check_number(a6, got.block_bytes, right[0], f"block_bytes {what}", causes)
        causes = {"these are places: each has a key and a value in every layer": right[1] / token}
        check_number(a6, got.wasted_bytes, right[1], f"wasted_bytes {what}", causes)
        causes = {"a block number is 4 bytes": right[2] / 4, "4 bytes, not 8": right[2] * 2}
        check_number(a6, got.table_bytes, right[2], f"table_bytes {what}", causes)
