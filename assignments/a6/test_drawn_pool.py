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

num_blocks = near_constants(st.integers(1, 9), 1, 60)
block_sizes = near_constants(st.integers(1, 4), 1, 40)
one_size = st.just(4)  # the pool itself only keeps it


def programs(width, decode, length, sizes=block_sizes):
    """Draw programs of up to `length` calls, each from `width` bytes; None stands for nothing.

    A list of tuples would say the same, but takes twice as long to draw and is mostly short.
    """

    def decoded(drawn):
        calls = [decode(*drawn[n : n + width]) for n in range(0, len(drawn) - width + 1, width)]
        return tuple(call for call in calls if call is not None)

    drawn = st.binary(min_size=width * length // 3, max_size=width * length)
    operations = drawn.map(decoded)
    return arguments({"num_blocks": num_blocks, "block_size": sizes, "operations": operations})


# a6.9


def pool_space(function, *names):
    """A space of programs with `allocate` and these calls."""
    calls = [None, "allocate", *names]

    def decode(name, number):
        return (calls[name % len(calls)], number % 48) if name % len(calls) else None

    return Space(
        "a6.9",
        f"{NAME}BlockPool.{function}",
        programs(2, decode, 24, one_size),
        call=run_pool,
        oracle=lambda **inputs: run_pool(ORACLE, **inputs),
        draws=DRAWS,
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
    pool_space("share", "record", "release", "release", "share found"),
    pool_space("release", "record", "record", "release", "release", "use found", "use found"),
    pool_space("record", "record", "record", "find", "share", "release"),
    pool_space("forget", "record", "record", "forget", "release"),
]

# a6.10

wide = [0, 1, 255, 256, 257, 65_535, 65_536, 65_792, 100_000, 2**32, 2**40 + 1]


@st.composite
def texts_with_keys(draw):
    size = draw(block_sizes)
    length = draw(st.integers(0, 3)) * size + draw(st.integers(0, size - 1))
    drawn = draw(st.binary(min_size=length, max_size=length))
    token_ids = [wide[byte % len(wide)] for byte in drawn]
    model_key = draw(st.sampled_from([b"", b"model", b"\x00", bytes(40)]))
    return {"token_ids": token_ids, "block_size": size, "model_key": model_key}


def text_space(function, *names):
    """A space of programs of requests, with texts of two tokens that often begin alike."""
    calls = [None, *names]

    def decode(name, length, bits, number):
        kind = calls[name % len(calls)]
        if kind == "begin":
            text = tuple(bits >> place % 8 & 1 for place in range(length % 12))
            return kind, text, number % 15
        return (kind, number % 6) if kind else None

    return Space(
        "a6.10",
        f"{NAME}{function}",
        programs(4, decode, 12),
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
    text_space("record_full_blocks", "begin"),
    text_space("take_cached_prefix", "begin", "begin", "end"),
    text_space("BlockPool.forget_all", "begin", "begin", "end", "forget all"),
]

# a6.11


def table_space(function, *names):
    calls = [None, "reserve", *names]

    def decode(name, which, number):
        kind = calls[name % len(calls)]
        return (kind, which % 4, number % 10) if kind else None

    return Space(
        "a6.11",
        f"{NAME}{function}",
        programs(3, decode, 16),
        call=run_tables,
        oracle=lambda **inputs: run_tables(ORACLE, **inputs),
        draws=DRAWS,
    )


TABLES = [
    table_space("blocks_needed", "reserve", "begin"),
    table_space("reserve", "reserve", "fork", "record", "truncate"),
    table_space("fork", "fork", "release_all"),
    table_space("truncate", "truncate", "record", "record"),
    table_space("release_all", "record", "release_all", "begin"),
]

test_as_the_reference, test_contracts = drawn_checks([*POOL, *PREFIXES, *TABLES])
