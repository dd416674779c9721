"""a2.17 to a2.19 on drawn inputs: attention by tiles, its gradients, its memory traffic.

The result is compared with the formula on whole tensors in float64, which takes less time than the
reference's own loop.
"""

from importlib import import_module

import pytest
import torch
from attention_formulas import attend, visible
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import Differentiated, within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import FLOATS, TensorInput, laid_out, tensor
from lm_course.drawn_inputs.input_spaces import Space, arguments

pytestmark = pytest.mark.usefixtures("a2", "gradients_loaded")
lengths = near_constants(st.sampled_from([1, 2, 3, 5, 8, 13, 20]), 1, 140)
tile_sizes = near_constants(st.sampled_from([None, 1, 2, 3, 4, 7, 16]), 1, 200)
kv_counts = near_constants(st.integers(1, 3), 1, 17)
width_pairs = st.sampled_from([(1, 1), (4, 4), (5, 3), (8, 2), (16, 16)])
grad_layouts = st.sampled_from(["contiguous", "transposed", "split", "equal"])
wanted = st.sampled_from(["qkv", "qkv", "v", "k", "q", "kv"])  # inputs that need a gradient
windows = near_constants(st.sampled_from([None, None, 1, 2, 3, 6, 30]), 1, 300)
booleans = st.booleans()


@st.composite
def attentions(draw, with_gradient):
    dtype = draw(st.sampled_from(FLOATS))
    batch, kv_heads, group = draw(kv_counts), draw(kv_counts), draw(kv_counts)
    queries, keys, (width, d_v) = draw(lengths), draw(lengths), draw(width_pairs)
    is_causal = draw(booleans)
    exact = dtype in ("float32", "float64")
    sizes = (1.0, 1.0, 3.0, 4.0, 20.0) if exact and not with_gradient else (1.0,)
    high, low = (0.0,), (0.0,)
    if exact and not with_gradient:  # some scores are all far below 0
        high, low = (0.0, 10.0), (0.0, -10.0)
    if dtype == "float64" and not with_gradient:
        high, low = (*high, 100.0), (*low, -300.0)
    inputs = {
        "q": tensor(draw, (batch, kv_heads * group, queries, width), (dtype,), sizes, high),
        "k": tensor(draw, (batch, kv_heads, keys, width), (dtype,), sizes, low),
        "v": tensor(draw, (batch, kv_heads, keys, d_v), (dtype,), offsets=(0.0, 2.0)),
        "is_causal": is_causal,
        "query_tile": draw(tile_sizes),
        "key_tile": draw(tile_sizes),
        "sliding_window": draw(windows) if is_causal else None,
    }
    if not with_gradient:
        return inputs
    return inputs | {"grad_layout": draw(grad_layouts), "wanted": draw(wanted)}


def options_of(is_causal, query_tile, key_tile, sliding_window):
    given = {"query_tile": query_tile, "key_tile": key_tile, "sliding_window": sliding_window}
    return {"is_causal": is_causal} | {name: x for name, x in given.items() if x is not None}


def call_forward(module, q, k, v, **options):
    with torch.no_grad():
        return module.tiled_attention(q, k, v, **options_of(**options))


def formula(q, k, v, is_causal, sliding_window, **_):
    """Compute it in float64, from inputs of any type."""
    group = q.shape[1] // k.shape[1]
    wide = [x.repeat_interleave(group, 1) for x in (k, v)]
    return attend(q, *wide, visible(q.shape[2], k.shape[2], is_causal, sliding_window))


def forward_oracle(q, k, v, **options):
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{k.shape[1]} key-value heads do not divide {q.shape[1]} heads")
    if options["sliding_window"] and not options["is_causal"]:
        raise ValueError("a window needs is_causal=True")
    return formula(q, k, v, **options).to(q.dtype)


# The last place of the type: two numbers that are nearly equal may be rounded apart.
ONE_ROUNDING = {
    torch.float64: (1e-9, 1e-10),
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (2**-7, 1e-5),
    torch.float16: (2**-10, 1e-5),
}


def view_forward(value):
    return within(*ONE_ROUNDING[value.dtype])(value)


# a2.18


def weigher(grad_layout):
    """Return the gradient that the result receives; how it lies in memory is drawn."""

    def weigh(result, number):
        generator = torch.Generator().manual_seed(100 + number)
        values = torch.randn(result.shape, generator=generator).to(result.dtype)
        return torch.ones_like(values) if grad_layout == "equal" else laid_out(values, grad_layout)

    return weigh


def call_backward(module, q, k, v, grad_layout, wanted, **options):
    inputs = {"q": q, "k": k, "v": v}

    def attend(**leaves):
        return module.tiled_attention(**(inputs | leaves), **options_of(**options))

    leaves = {name: inputs[name] for name in wanted}
    return Differentiated(attend, leaves, weigh=weigher(grad_layout), step=1e-2)


def backward_oracle(q, k, v, grad_layout, wanted, **options):
    """Compute results and gradients in float64, and round them once."""
    inputs = {name: x.double() for name, x in (("q", q), ("k", k), ("v", v))}
    leaves = {name: inputs[name] for name in wanted}

    def weigh(result, number):
        return weigher(grad_layout)(result.to(q.dtype), number).double()

    exact = Differentiated(
        lambda **leaves: formula(**(inputs | leaves), **options), leaves, weigh=weigh
    )
    exact.results = tuple(result.to(q.dtype) for result in exact.results)
    exact.gradients = {name: x.to(q.dtype) for name, x in exact.gradients.items()}
    return exact


# The weights of v's gradient are exact; those of q and k contain the rounded result (delta).
GRADIENTS = {
    torch.float64: (1e-8, 1e-9),
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (2**-6, 2**-5),
    torch.float16: (2**-9, 2**-8),
}


def view_backward(value):
    (result,) = value.results
    seen = within(*ONE_ROUNDING[result.dtype], GRADIENTS[result.dtype])(value)
    if "v" not in value.gradients:
        return seen
    rtol, atol = ONE_ROUNDING[result.dtype]
    of_v = within(rtol, max(atol, 1e-5))(value.gradients["v"])
    return seen | {"the gradient of v": of_v}


# Three hundred tiles of one query each add the same to k's gradient: in half precision, such a sum
# stops growing.
MANY_TILES = [
    {
        "q": TensorInput((1, 1, 300, 4), dtype, size=0.0, offset=1.0),
        "k": TensorInput((1, 1, 2, 4), dtype, size=0.0),
        "v": TensorInput((1, 1, 2, 4), dtype, seed=seed),
        "is_causal": False,
        "query_tile": 1,
        "key_tile": None,
        "sliding_window": None,
        "grad_layout": "equal",
        "wanted": "qkv",
    }
    for seed, dtype in enumerate(("bfloat16", "float16"))
]


# Tiles whose scores lie some twenty below the largest: their weights are small, not 0.
FAR_APART = [
    {
        "q": TensorInput((1, 1, 1 + seed % 2, 4), "float64", seed=seed, size=3.0),
        "k": TensorInput((1, 1, 60, 4), "float64", seed=seed, size=3.0),
        "v": TensorInput((1, 1, 60, 4), "float64", seed=seed, offset=2.0),
        "is_causal": False,
        "query_tile": None,
        "key_tile": 2,
        "sliding_window": None,
    }
    for seed in range(4)
]


FAR_BELOW = [
    {
        **FAR_APART[0],
        "q": TensorInput((1, 1, 3, 4), "float64", offset=100.0),
        "k": TensorInput((1, 1, 60, 4), "float64", seed=1, offset=-300.0),
    }
]

# Neither a window without a causal mask, nor heads that do not fit, however wide or few they are.
REFUSED = [
    {
        "q": TensorInput((1, heads, 5, 4)),
        "k": TensorInput((1, 2, 5, 4)),
        "v": TensorInput((1, 2, 5, 4)),
        "is_causal": False,
        "query_tile": None,
        "key_tile": None,
        "sliding_window": window,
    }
    for heads, window in ((2, 1), (2, 5), (2, 100), (3, None), (1, None))
]


# a2.19


@st.composite
def traffics(draw):
    queries, keys, is_causal = draw(lengths), draw(lengths), draw(booleans)
    return {
        "visible": (queries, keys, is_causal, draw(windows) if is_causal else None),
        "head_dim": draw(near_constants(st.sampled_from([1, 8, 16, 80]), 1, 300)),
        "query_tile": draw(near_constants(st.integers(1, 21), 1, 300)),
        "key_tile": draw(near_constants(st.integers(1, 21), 1, 300)),
        "bytes_per_value": draw(st.sampled_from([1, 2, 4, 8])),
    }


def numbers(cost):
    return cost.bytes_read, cost.bytes_written, cost.flops


def call_traffic(name):
    def call(module, visible, head_dim, query_tile, key_tile, bytes_per_value):
        tiles = import_module("transformer_lm.tiled_attention")
        seen = tiles.VisibleKeys(*visible)
        if name == "tile_pairs":
            pairs = module.tile_pairs(seen, query_tile, key_tile)
            return sorted(tuple(map(tuple, pair)) for pair in pairs)
        count = getattr(module, name)
        return numbers(count(seen, head_dim, query_tile, key_tile, bytes_per_value))

    return call


def call_eager(module, queries, keys, head_dim, bytes_per_value, query_tile):
    return (
        numbers(module.eager_forward(queries, keys, head_dim, bytes_per_value)),
        module.on_chip_bytes(query_tile, keys, head_dim, bytes_per_value),
    )


def call_cost(module, bytes_read, bytes_written, flops, speeds):
    cost = module.AttentionCost(bytes_read, bytes_written, flops)
    numbers = cost.intensity, cost.least_seconds(*speeds)
    return torch.tensor(numbers, dtype=torch.float64)


counts = near_constants(st.integers(1, 10**9), 1, 10**12)
sizes = near_constants(st.integers(1, 300), 1, 10**5)

SPACES = [
    Space(
        "a2.17",
        "transformer_lm.tiled_attention.tiled_attention",
        attentions(with_gradient=False),
        call_forward,
        view_forward,
        oracle=forward_oracle,
        draws=60,
        examples=[*FAR_APART, *FAR_BELOW, *REFUSED],
    ),
    Space(
        "a2.18",
        "transformer_lm.tiled_attention.tiled_attention, differentiated",
        attentions(with_gradient=True),
        call_backward,
        view_backward,
        oracle=backward_oracle,
        draws=60,
        examples=MANY_TILES,
    ),
    *(
        Space(
            "a2.19",
            f"transformer_lm.attention_cost.{name}",
            traffics(),
            call_traffic(name),
            draws=60,
        )
        for name in ("tile_pairs", "flash_forward", "flash_backward")
    ),
    Space(
        "a2.19",
        "transformer_lm.attention_cost.eager_forward",
        arguments(
            {
                "queries": sizes,
                "keys": sizes,
                "head_dim": sizes,
                "bytes_per_value": st.sampled_from([1, 2, 4, 8]),
                "query_tile": sizes,
            }
        ),
        call_eager,
        draws=30,
    ),
    Space(
        "a2.19",
        "transformer_lm.attention_cost.AttentionCost",
        arguments(
            {
                "bytes_read": counts,
                "bytes_written": counts,
                "flops": counts,
                "speeds": st.tuples(st.floats(1, 1e15), st.floats(1, 1e13)),
            }
        ),
        call_cost,
        within(1e-12, 0.0),
        draws=30,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
