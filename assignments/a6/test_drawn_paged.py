"""a6.12 on drawn inputs: places, writes, copies, attention."""

import pytest
import torch
from hypothesis import strategies as st
from paged_oracle import attention_in_float64

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import SEEDS, TensorInput, tensor
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within

NAME = "inference.paged_attention."
pytestmark = pytest.mark.usefixtures("a6")  # one thread

block_sizes = near_constants(st.integers(1, 5), 1, 70)


@st.composite
def requests(draw, most_blocks=5):
    """A block size, and a block table with numbers in any order."""
    size = draw(block_sizes)
    blocks = draw(st.lists(st.integers(0, 7), min_size=1, max_size=most_blocks))
    return size, blocks


@st.composite
def places(draw):
    size, blocks = draw(requests())
    first = draw(st.integers(0, len(blocks) * size))
    count = draw(st.integers(0, len(blocks) * size - first))
    as_tuple = draw(st.booleans())
    blocks = tuple(blocks) if as_tuple else blocks
    return {"blocks": blocks, "block_size": size, "first": first, "count": count}


@st.composite
def caches(draw):
    return {
        "shape": (
            draw(st.integers(1, 3)),
            draw(st.integers(1, 5)),
            draw(near_constants(st.integers(1, 4), 1, 40)),
            draw(st.integers(1, 3)),
            draw(st.integers(1, 4)),
        ),
        "dtype": draw(st.sampled_from(["float32", "float32", "bfloat16", "float64"])),
        "seed": draw(SEEDS),
    }


def filled(module, shape, dtype, seed):
    made = module.PagedKVCache(*shape, getattr(torch, dtype))
    for name, number in (("keys", seed), ("values", seed + 100)):
        getattr(made, name).copy_(TensorInput(shape, "float32", "contiguous", number).build())
    return made


@st.composite
def writes(draw):
    """Two writes to layers of one cache; no place occurs twice in one of them."""
    cache = draw(caches())
    layers, blocks, size, *vector = cache["shape"]
    given = {"cache": cache, "layers": draw(st.tuples(*[st.integers(0, layers - 1)] * 2))}
    for number in range(2):
        count = draw(st.integers(0, min(6, blocks * size)))
        order = draw(st.permutations(range(blocks * size)))
        given[f"places_{number}"] = order[:count]
        for name in ("keys", "values"):
            given[f"{name}_{number}"] = tensor(
                draw, (count, *vector), ("float32", "float32", "bfloat16")
            )
    return given


def write(module, cache, layers, **rows):
    made, other = filled(module, **cache), filled(module, **cache)
    returned = [
        made.write(
            layer,
            torch.tensor(rows[f"places_{number}"], dtype=torch.int64),
            rows[f"keys_{number}"],
            rows[f"values_{number}"],
        )
        for number, layer in enumerate(layers)
    ]
    return returned, made.keys, made.values, other.keys


@st.composite
def copies(draw):
    cache = draw(caches())
    block = st.integers(0, cache["shape"][1] - 1)
    return {"cache": cache, "pairs": draw(st.lists(st.tuples(block, block), max_size=4))}


def copy_blocks(module, cache, pairs):
    made = filled(module, **cache)
    made.copy_blocks(pairs)
    return made.keys, made.values


@st.composite
def attentions(draw):
    size, blocks = draw(requests())
    keys = draw(st.integers(max(1, (len(blocks) - 1) * size), len(blocks) * size))
    queries = draw(st.integers(1, min(keys, 4)))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dim = draw(near_constants(st.sampled_from([1, 2, 3, 4, 8]), 1, 70))
    kinds = ("float32", "float32", "float32", "float64", "bfloat16")
    shape = 8, size, kv_heads, dim
    layouts = ("contiguous", "contiguous", "split", "spaced", "padded", "offset")
    pool_kind = draw(st.sampled_from(kinds))
    return {
        "q": tensor(draw, (queries, kv_heads * group, dim), kinds, (1.0, 10.0), (0.0, 3.0)),
        "key_blocks": tensor(draw, shape, (pool_kind,), (1.0,), (0.0, 3.0, -9.0), layouts),
        "value_blocks": tensor(draw, shape, (pool_kind,), (1.0,), (0.0,), layouts),
        "blocks": tuple(blocks) if draw(st.booleans()) else blocks,
        "num_keys": keys,
        "sliding_window": draw(st.none() | near_constants(st.integers(1, keys + 1), 1, 300)),
    }


def attend(module, q, key_blocks, value_blocks, blocks, num_keys, sliding_window):
    window = () if sliding_window is None else (sliding_window,)
    return module.paged_attention(q, key_blocks, value_blocks, blocks, num_keys, *window)


def attend_exactly(q, key_blocks, value_blocks, blocks, num_keys, sliding_window):
    arguments = q, key_blocks, value_blocks, blocks, num_keys, sliding_window
    return attention_in_float64(*arguments).to(q.dtype)


def within_type(value):
    rtol, atol = {
        torch.bfloat16: (1e-2, 1e-3), torch.float32: (1e-3, 3e-4), torch.float64: (1e-6, 1e-6)
    }[value.dtype]  # fmt: skip
    return Within(value, rtol, atol)


SPACES = [
    Space("a6.12", f"{NAME}places_of", places(), draws=30),
    Space("a6.12", f"{NAME}PagedKVCache.write", writes(), write, draws=25),
    Space("a6.12", f"{NAME}PagedKVCache.copy_blocks", copies(), copy_blocks, draws=25),
    Space(
        "a6.12",
        f"{NAME}paged_attention",
        attentions(),
        attend,
        within_type,
        draws=40,
        oracle=attend_exactly,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
