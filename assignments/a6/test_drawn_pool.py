"""a6.9 to a6.11 on drawn inputs: the space of each graded function."""

from types import SimpleNamespace

import pool_oracle
from hypothesis import strategies as st
from pool_programs import run_pool, run_tables, run_texts

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "inference.block_pool."
ORACLE = SimpleNamespace(**vars(pool_oracle))
DRAWS = 30

num_blocks = near_constants(st.integers(1, 6), 1, 60)
block_sizes = near_constants(st.integers(1, 4), 1, 40)


def programs(operations, length=24, blocks=num_blocks, sizes=block_sizes):
    return arguments(
        {
            "num_blocks": blocks,
            "block_size": sizes,
            "operations": st.lists(operations, max_size=length).map(tuple),
        }
    )


# a6.9


def pool_space(function, *names, draws=DRAWS):
    """A space of programs with these calls; each list begins with the simplest."""
    operation = st.tuples(st.sampled_from(["allocate", *names]), st.integers(0, 47))
    return Space(
        "a6.9",
        f"{NAME}BlockPool.{function}",
        programs(operation),
        call=run_pool,
        oracle=lambda **inputs: run_pool(ORACLE, **inputs),
        draws=draws,
    )


@st.composite
def sizes_of_pools(draw):
    """At most one of the two numbers is wrong."""
    made = {
        "num_blocks": draw(near_constants(st.sampled_from([3, 1, 2, 40]), 1, 3000)),
        "block_size": draw(near_constants(st.sampled_from([16, 1, 2, 32]), 1, 3000)),
    }
    if wrong := draw(st.sampled_from(["", "", *made])):
        made[wrong] = draw(st.sampled_from([0, -1, -20]))
    return made


def new_pool(module, num_blocks, block_size):
    pool = module.BlockPool(num_blocks, block_size)
    other = module.BlockPool(2, 3)
    pool.allocate()
    seen = [each.allocate() for each in (pool, other) if each.num_available]
    return pool.num_blocks, pool.block_size, pool.num_available, other.num_available, seen


POOL = [
    Space(
        "a6.9",
        f"{NAME}BlockPool.__init__",
        sizes_of_pools(),
        call=new_pool,
        told=r"-?\d+(?=,)",
        draws=DRAWS,
    ),
    pool_space("allocate", "allocate", "release"),
    pool_space("num_available", "share", "release", "record"),
    pool_space("references", "share", "release"),
    pool_space("share", "record", "release", "release", "share found"),
    pool_space("release", "record", "record", "release", "release"),
    pool_space("record", "record", "record", "share", "release"),
    pool_space("find", "record", "find", "release", "share found"),
    pool_space("forget", "record", "record", "forget", "release"),
]

# a6.10

small = st.integers(0, 1)
wide = st.sampled_from([0, 1, 255, 256, 257, 65_535, 65_536, 65_792, 100_000, 2**32, 2**40 + 1])
ids = st.lists(small, max_size=11)


@st.composite
def texts_with_keys(draw):
    size = draw(block_sizes)
    length = draw(st.integers(0, 3)) * size + draw(st.integers(0, size - 1))
    token_ids = draw(st.lists(wide, min_size=length, max_size=length))
    model_key = draw(st.sampled_from([b"", b"model", b"\x00", bytes(40)]))
    return {"token_ids": token_ids, "block_size": size, "model_key": model_key}


begin = st.tuples(st.just("begin"), ids.map(tuple), st.integers(0, 14))
end = st.tuples(st.just("end"), st.integers(0, 5))
forget_all = st.tuples(st.just("forget all"))


def text_space(function, *operations):
    return Space(
        "a6.10",
        f"{NAME}{function}",
        programs(st.one_of(*operations), 10, near_constants(st.integers(1, 9), 1, 60)),
        call=run_texts,
        oracle=lambda **inputs: run_texts(ORACLE, **inputs),
        draws=DRAWS,
    )


PREFIXES = [
    Space(
        "a6.10",
        f"{NAME}block_keys",
        texts_with_keys(),
        oracle=lambda **inputs: pool_oracle.block_keys(**inputs),
        draws=40,
    ),
    text_space("record_full_blocks", begin),
    text_space("take_cached_prefix", begin, begin, end),
    text_space("BlockPool.forget_all", begin, begin, end, forget_all),
]

# a6.11

TABLES = [
    Space(
        "a6.11",
        f"{NAME}{function}",
        programs(
            st.tuples(st.sampled_from(["reserve", *names]), st.integers(0, 3), st.integers(0, 9)),
            16,
            near_constants(st.integers(1, 9), 1, 60),
        ),
        call=run_tables,
        oracle=lambda **inputs: run_tables(ORACLE, **inputs),
        draws=DRAWS,
    )
    for function, names in [
        ("blocks_needed", ["reserve", "begin"]),
        ("reserve", ["reserve", "fork", "record", "truncate"]),
        ("fork", ["fork", "release_all"]),
        ("truncate", ["truncate", "truncate", "record", "fork"]),
        ("release_all", ["record", "release_all", "begin"]),
    ]
]

test_as_the_reference, test_contracts = drawn_checks([*POOL, *PREFIXES, *TABLES])
