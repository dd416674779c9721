"""a2.9 to a2.11: the causal mask, the attention formula, the attention layer."""

import math

import pytest
import torch

from lm_course.grading.comparisons import check_true

MODULE = "transformer_lm.attention"
CPU = torch.device("cpu")


# a2.9


def mask_causes(expected, num_queries, num_keys, window):
    """Return likely cause -> the wrong mask that it gives."""
    diagonal = num_keys - num_queries
    whole = torch.ones(num_queries, num_keys, dtype=torch.bool)
    causes = {
        "the meaning is inverted: True is where a query MAY look": ~expected,
        "rows and columns are swapped: query i looks at the keys before it": whole.triu(diagonal),
        "a query also looks at itself: yours stops one key before": whole.tril(diagonal - 1),
        "yours goes one key too far: position p looks at keys 0 to p": whole.tril(diagonal + 1),
        "the queries are the LAST positions of the keys: query i has position "
        "num_keys - num_queries + i": whole.tril(0),
        "sliding_window is ignored": whole.tril(diagonal),
    }
    if window:
        causes |= {
            "the window is one too long: w counts the position itself and w - 1 before it": (
                whole.tril(diagonal).triu(diagonal - window)
            ),
            "the window is one too short: w counts the position itself and w - 1 before it": (
                whole.tril(diagonal).triu(diagonal - window + 2)
            ),
            "the window ignores the cached keys: shift it by num_keys - num_queries": (
                whole.tril(diagonal).triu(1 - window)
            ),
            "the window is right, but later positions are visible: mask them too": (
                whole.triu(diagonal - window + 1)
            ),
        }
    return causes


def check_mask(a2, got, num_queries, num_keys, window=None):
    expected = a2.visible(num_queries, num_keys, True, window)
    what = f"causal_mask({num_queries}, {num_keys}, device"
    what += f", sliding_window={window})" if window else ")"
    causes = mask_causes(expected, num_queries, num_keys, window)
    a2.check(got, expected, what, causes, dtype=torch.bool)


@pytest.mark.task("a2.9")
def test_mask_by_hand(implementation, a2):
    got = implementation(MODULE).causal_mask(3, 3, CPU)
    expected = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    causes = mask_causes(expected, 3, 3, None)
    a2.check(got, expected, "causal_mask(3, 3, device)", causes, dtype=torch.bool)


@pytest.mark.task("a2.9")
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 4)])
def test_mask_behind_a_cache(implementation, a2, num_queries, num_keys):
    check_mask(
        a2, implementation(MODULE).causal_mask(num_queries, num_keys, CPU), num_queries, num_keys
    )


@pytest.mark.task("a2.9")
@pytest.mark.parametrize(("num_queries", "num_keys", "window"), [(5, 5, 2)])
def test_mask_with_a_window(implementation, a2, num_queries, num_keys, window):
    got = implementation(MODULE).causal_mask(num_queries, num_keys, CPU, window)
    check_mask(a2, got, num_queries, num_keys, window)


@pytest.mark.task("a2.9")
@pytest.mark.usefixtures("compiler_loaded")  # PyTorch looks at its parts for the device "meta"
def test_mask_is_made_on_the_device(implementation):
    module = implementation(MODULE)
    module.causal_mask(2, 3, torch.device("cpu"))  # a mask that is kept must not be handed out here
    got = module.causal_mask(2, 3, torch.device("meta"))
    check_true(
        got.device.type == "meta",
        f"causal_mask(2, 3, device=meta) is on {got.device}: create every tensor on `device`",
    )


# a2.10


def by_hand(a2):
    """Return q, k, v with scores 0 and ln 3 (after the division by sqrt(4)): weights 1/4, 3/4."""
    q = torch.tensor([[2.0, 0, 0, 0]])
    k = torch.tensor([[0.0, 5, 5, 5], [math.log(3), 0, 0, 0]])
    v = torch.tensor([[0.0, 4], [8, 0]])
    return q, k, v


@pytest.mark.task("a2.10")
def test_attention_by_hand(implementation, a2):
    q, k, v = by_hand(a2)
    got = implementation(MODULE).scaled_dot_product_attention(q, k, v)
    causes = {
        "the scores are not divided by sqrt(d_k)": a2.attend(q, k, v, scale=1.0),
        "divided by d_k: divide by its root": a2.attend(q, k, v, scale=0.25),
        "the scores are multiplied by sqrt(d_k): divide": a2.attend(q, k, v, scale=2.0),
        "divided by the root of the number of keys or of d_v": a2.attend(q, k, v, scale=0.5**0.5),
        "the weights are not divided by their sum": torch.tensor([[24.0, 4]]),
    }
    what = "attention with weights 1/4 and 3/4 (the handout's example)"
    a2.check(got, torch.tensor([[6.0, 1]]), what, causes)


@pytest.mark.task("a2.10")
def test_the_mask_says_where_a_query_may_look(implementation, a2):
    q, k, v = a2.random(3, 4), a2.random(5, 4, seed=1), a2.random(5, 2, seed=2)
    mask = torch.tensor([[1, 0, 0, 1, 0], [1, 1, 0, 1, 1], [0, 0, 1, 0, 0]]).bool()
    got = implementation(MODULE).scaled_dot_product_attention(q, k, v, mask)
    after = torch.softmax(q.double() @ k.double().T / 2, -1) * mask @ v.double()
    causes = {
        "the mask is ignored": a2.attend(q, k, v),
        "True is where a query MAY look: you mask these positions": a2.attend(q, k, v, ~mask),
        "weights were set to 0 after the softmax, so the rest does not sum to 1: set masked "
        "scores to -inf before it": after,
        "the mask was added to the scores as 0 and 1: set masked scores to -inf": (
            torch.softmax(q.double() @ k.double().T / 2 + mask, -1) @ v.double()
        ),
    }
    causes["masked scores are 0, and exp(0) is 1: set them to -inf"] = (
        torch.softmax(q.double() @ k.double().T / 2 * mask, -1) @ v.double()
    )
    a2.check(got, a2.attend(q, k, v, mask), "attention with a mask", causes)


@pytest.mark.task("a2.10")
def test_what_is_hidden_does_not_count(implementation, a2):
    attention = implementation(MODULE).scaled_dot_product_attention
    q, k, v = a2.random(2, 3, 4), a2.random(2, 5, 4, seed=1), a2.random(2, 5, 4, seed=2)
    mask = a2.visible(3, 5)
    before = attention(q, k, v, mask)
    hidden = (~mask).any(0)  # of some query; the last sees all
    k[:, hidden], v[:, hidden] = 50.0, -1e4
    what = "the result of a query, after a change of keys that it does not see,"
    a2.check(attention(q, k, v, mask)[:, 0], before[:, 0].double(), what)


@pytest.mark.task("a2.10")
@pytest.mark.parametrize(
    ("leading", "mask_shape"),
    [((2, 4), (3, 5)), ((2, 4), (4, 3, 5))],
    ids=["batch-and-heads", "mask-of-each-head"],
)
def test_attention_by_formula(implementation, a2, leading, mask_shape):
    q = a2.random(*leading, 3, 6)
    k = a2.random(*leading, 5, 6, seed=1)
    v = a2.random(*leading, 5, 7, seed=2)
    mask = a2.random(*mask_shape, seed=3) > 0
    mask[..., 2], mask[..., 3] = True, False  # every query sees something, and not all
    got = implementation(MODULE).scaled_dot_product_attention(q, k, v, mask)
    causes = {
        "the scores are not divided by sqrt(d_k)": a2.attend(q, k, v, mask, scale=1.0),
        "the mask is ignored": a2.attend(q, k, v),
        "True is where a query MAY look": a2.attend(q, k, v, ~mask),
        "the scores are divided by sqrt(d_v), not by sqrt(d_k)": a2.attend(
            q, k, v, mask, scale=7**-0.5
        ),
    }
    what = f"attention of q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    a2.check(got, a2.attend(q, k, v, mask), what, causes)


@pytest.mark.task("a2.10")
def test_attention_with_large_scores(implementation, a2):
    q, k, v = 100 * a2.random(3, 4), 100 * a2.random(5, 4, seed=1), a2.random(5, 2, seed=2)
    got = implementation(MODULE).scaled_dot_product_attention(q, k, v, a2.visible(3, 5))
    causes = {"exp overflows: use your softmax of a2.1": lambda x: not bool(x.isfinite().all())}
    a2.check(got, a2.attend(q, k, v, a2.visible(3, 5)), "attention with scores of 10,000", causes)


# a2.11


def config_of(implementation, **changes):
    values = {
        "vocab_size": 11,
        "context_length": 32,
        "d_model": 12,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 6,
        "d_ff": 16,
        "rope_theta": 100.0,
    }
    return implementation("transformer_lm.model_config").ModelConfig(**(values | changes))


def layer_of(implementation, a2, config, layer=0, backend="eager"):
    """Return the layer with known weights, and these weights."""
    module = implementation(MODULE).CausalSelfAttention(config, layer, attention_backend=backend)
    return module, a2.fill(module, a2.attention_shapes(config), "CausalSelfAttention")


def rotary_of(implementation, config):
    module = implementation("transformer_lm.rotary_embedding")
    return module.RotaryEmbedding(config.head_dim, config.context_length, config.rope_theta)


def check_layer(implementation, a2, config, mistakes, positions=None, rotary=True):
    module, weights = layer_of(implementation, a2, config)
    x = a2.random(2, 7, config.d_model, seed=1)
    positions = torch.arange(7) if positions is None else positions
    table = rotary_of(implementation, config) if rotary else None
    got = module(x, table, positions)
    causes = {
        a2.ATTENTION_MISTAKES[name]: a2.attention(config, weights, x, positions, name, rotary)
        for name in mistakes
    }
    expected = a2.attention(config, weights, x, positions, has_rotary=rotary)
    changed = f"{config.num_heads} query heads, {config.num_kv_heads} key-value heads"
    a2.check(got, expected, f"CausalSelfAttention ({changed})", causes, rtol=1e-4, atol=1e-5)


HEADS = ["no mask", "no scale", "heads without transpose", "heads joined without transpose"]


@pytest.mark.task("a2.11")
def test_layer_by_hand(implementation, a2):
    """Queries of 0 make all scores equal, so each position gets the mean of those that it sees."""
    config = config_of(implementation, d_model=2, num_heads=1, num_kv_heads=1, head_dim=2)
    module = implementation(MODULE).CausalSelfAttention(config, 0, attention_backend="eager")
    a2.check_parameters(module, a2.attention_shapes(config), "CausalSelfAttention")
    with torch.no_grad():
        module.query.weight.zero_()
        for linear in (module.key, module.value, module.output):
            linear.weight.copy_(torch.eye(2))
    got = module(torch.tensor([[[2.0, 0], [0, 4], [4, 2]]]), None, torch.arange(3))
    causes = {
        a2.ATTENTION_MISTAKES["no mask"]: torch.full((1, 3, 2), 2.0),
    }
    expected = torch.tensor([[[2.0, 0], [1, 2], [2, 2]]])
    a2.check(got, expected, "the mean of [2, 0], [0, 4], [4, 2] up to each position", causes)


@pytest.mark.task("a2.11")
@pytest.mark.parametrize("heads", [4])
def test_heads(implementation, a2, heads):
    config = config_of(implementation, num_heads=heads, num_kv_heads=heads)
    check_layer(implementation, a2, config, HEADS if heads > 1 else HEADS[:2], rotary=False)


@pytest.mark.task("a2.11")
@pytest.mark.parametrize("kv_heads", [2])
def test_grouped_heads(implementation, a2, kv_heads):
    config = config_of(implementation, num_kv_heads=kv_heads)
    mistakes = ["key heads tiled", "first key head alone", *HEADS]
    check_layer(implementation, a2, config, mistakes[kv_heads == 1 :], rotary=False)


@pytest.mark.task("a2.11")
def test_positions(implementation, a2):
    mistakes = ["no rotary", "rotary on queries alone", "rotary on values", "positions from 0"]
    config = config_of(implementation, num_kv_heads=2)
    # A shift alone would change nothing: products depend on distances.
    positions = torch.tensor([2, 3, 5, 9, 10, 20, 31])
    check_layer(implementation, a2, config, mistakes, positions)


@pytest.mark.task("a2.11")
def test_norms_of_queries_and_keys(implementation, a2):
    config = config_of(implementation, qk_norm=True, norm_eps=0.01)
    mistakes = ["no head norm", "head norm after rotary"]
    check_layer(implementation, a2, config, mistakes, torch.arange(7) * 3)


@pytest.mark.task("a2.11")
@pytest.mark.parametrize("window", [1])
def test_sliding_window(implementation, a2, window):
    config = config_of(implementation, sliding_window=window)
    check_layer(implementation, a2, config, ["no window", "window one longer", "no mask"])


@pytest.mark.task("a2.11")
def test_biases(implementation, a2):
    check_layer(implementation, a2, config_of(implementation, biases=True), ["no biases"])


@pytest.mark.task("a2.11")
def test_no_position_sees_what_follows(implementation, a2):
    config = config_of(implementation, num_kv_heads=2)
    module, _ = layer_of(implementation, a2, config)
    rotary, x = rotary_of(implementation, config), a2.random(1, 9, 12)
    before = module(x, rotary, torch.arange(9)).detach()
    for place in range(1, 9):
        changed = x.clone()
        changed[:, place:] = a2.random(1, 9 - place, 12, seed=place)
        after = module(changed, rotary, torch.arange(9)).detach()
        moved = (after - before).abs().amax(-1)[0]
        check_true(
            bool((moved[:place] < 1e-6).all()),
            f"position {int(moved.argmax())} changes when only those from {place} on do: mask "
            "later positions",
        )
        check_true(bool(moved[place] > 1e-4), f"position {place} does not see itself: unmask it")


@pytest.mark.task("a2.11")
@pytest.mark.parametrize("pieces", [[1] * 7, [4, 1, 2]], ids=["ones", "pieces"])
def test_with_a_cache_as_without(implementation, a2, pieces):
    config = config_of(implementation, num_kv_heads=2, sliding_window=5, qk_norm=True)
    module, weights = layer_of(implementation, a2, config, layer=1)
    rotary, cache = rotary_of(implementation, config), a2.GrowingCache()
    x = a2.random(2, 7, 12)
    expected = a2.attention(config, weights, x, torch.arange(7))
    start = 0
    for size in pieces:
        positions = torch.arange(start, start + size)
        got = module(x[:, start : start + size], rotary, positions, cache)
        what = f"the result of {size} positions after {start} in the cache"
        end = start + size
        causes = {
            "the result of cache.append, all keys and values, is not used": a2.attention(
                config, weights, x[:, start:end], positions
            )
        }
        for mistake in ("no mask", "no window", "first with first"):
            causes[a2.ATTENTION_MISTAKES[mistake]] = a2.attention(
                config, weights, x[:, :end], torch.arange(end), mistake, last=size
            )
        right = expected[:, start : start + size]
        a2.check(got, right, what, causes, rtol=1e-4, atol=1e-5)
        start += size
    check_true(
        cache.appended == [1] * len(pieces),
        "cache.append must be called once per forward pass, with the layer's number",
        {"expected": [1] * len(pieces), "got": cache.appended},
    )


@pytest.mark.task("a2.11")
def test_what_the_cache_is_given(implementation, a2):
    config = config_of(implementation, num_kv_heads=2)
    module, weights = layer_of(implementation, a2, config)
    cache, x = a2.GrowingCache(), a2.random(2, 3, 12)
    positions = torch.tensor([4, 5, 6])
    module(x, rotary_of(implementation, config), positions, cache)
    check_true(0 in cache.layers, "cache.append was not called with the layer's number, 0")
    keys, values = cache.layers[0]
    projected = {
        name: (x.double() @ weights[f"{name}.weight"].T).view(2, 3, 2, 6).transpose(1, 2)
        for name in ("key", "value")
    }
    turned = a2.rotate(projected["key"], positions, 100.0)
    repeated = "the cache must get the keys before they are repeated for the query heads"
    causes = {
        "the cache must get the keys after they are rotated by their positions": projected["key"],
        repeated: lambda got: got.shape[1] == 4,
    }
    a2.check(keys, turned, "the tensor of keys in the cache", causes, atol=1e-5)
    a2.check(values, projected["value"], "the tensor of values in the cache", atol=1e-5)


@pytest.mark.task("a2.11")
@pytest.mark.parametrize("backend", ["auto", "matmul"])
@pytest.mark.parametrize("window", [None])
def test_every_backend_gives_the_same(implementation, a2, backend, window):
    config = config_of(implementation, num_kv_heads=2, sliding_window=window)
    module, weights = layer_of(implementation, a2, config, backend=backend)
    rotary, cache = rotary_of(implementation, config), a2.GrowingCache()
    x, positions = a2.random(2, 7, 12), torch.arange(7)
    expected = a2.attention(config, weights, x, positions)
    what = f"the result with attention_backend={backend!r}, sliding_window={window}"
    mistakes = ["no mask", "no window"] if window else ["no mask"]
    causes = {
        a2.ATTENTION_MISTAKES[name]: a2.attention(config, weights, x, positions, name)
        for name in mistakes
    }
    a2.check(module(x, rotary, positions), expected, what, causes, rtol=1e-4, atol=1e-5)
    module(x[:, :4], rotary, positions[:4], cache)
    got = module(x[:, 4:], rotary, positions[4:], cache)
    name = "first with first"
    causes = {
        a2.ATTENTION_MISTAKES[name]: a2.attention(config, weights, x, positions, name, last=3)
    }
    what += ", the last 3 of 7 positions, with 4 in the cache"
    a2.check(got, expected[:, 4:], what, causes, rtol=1e-4, atol=1e-5)
