"""a6.4 on drawn inputs: sequences of calls of a KVCache."""

import torch
from cache_operations import CacheOracle, results_of
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "inference.kv_cache.KVCache"
counts = st.sampled_from([1, 1, 1, 2, 3, 5])
seeds = st.integers(0, 99)


@st.composite
def sizes(draw):
    """Layers, texts, key-value heads, tokens, width, type."""
    return (
        draw(st.integers(1, 3)),
        draw(near_constants(st.integers(1, 3), 1, 40)),
        draw(st.integers(1, 3)),
        draw(near_constants(st.integers(1, 12), 1, 300)),
        draw(near_constants(st.integers(1, 4), 1, 70)),
        draw(st.sampled_from(["float32", "float32", "float64", "bfloat16"])),
    )


def operations(**likely):
    """Draw calls, some of them refused; the keywords make some kinds more likely."""
    kinds = {
        "pass": st.tuples(st.just("pass"), counts, seeds),
        "append": st.tuples(st.just("append"), st.just(0), counts, seeds),
        "texts": st.tuples(st.just("texts"), st.integers(1, 4), seeds),
        "truncate": st.tuples(st.just("truncate"), st.integers(-1, 12)),
        "repeat": st.tuples(st.just("repeat"), st.sampled_from([1, 2, 2, 3])),
    }
    each = [kinds[name] for name in kinds for _ in range(likely.get(name, 1))]
    first = st.tuples(st.just("pass"), counts, seeds)
    return st.tuples(first, st.lists(st.one_of(each), max_size=7)).map(lambda x: [x[0], *x[1]])


def called(module, sizes, operations):
    return results_of(module.KVCache, (*sizes[:-1], getattr(torch, sizes[-1])), operations)


def by_oracle(sizes, operations):
    return results_of(CacheOracle, (*sizes[:-1], getattr(torch, sizes[-1])), operations)


def space(method, draws, **likely):
    return Space(
        "a6.4",
        f"{NAME}.{method}",
        arguments({"sizes": sizes(), "operations": operations(**likely)}),
        called,
        oracle=by_oracle,
        draws=draws,
    )


SPACES = [
    space("append", 20, **{"pass": 4, "append": 2}),
    space("truncate", 16, **{"pass": 3, "truncate": 4}),
    space("repeat_texts", 12, **{"pass": 2, "repeat": 4}),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
