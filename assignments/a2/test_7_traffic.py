"""a2.19: the bytes that attention moves, and its FLOPs."""

import pytest

from lm_course.grading.comparisons import check_close, check_equal, check_true

MODULE = "transformer_lm.attention_cost"
TILES = "transformer_lm.tiled_attention"

# (queries, keys, causal, window, query tile, key tile)
CASES = {
    "whole": (8, 8, False, None, 4, 2),
    "more-queries": (9, 4, True, None, 2, 2),
    "window": (12, 12, True, 3, 4, 2),
}
cases = pytest.mark.parametrize("case", CASES)


def visible_of(implementation, case):
    """(VisibleKeys, query tile, key tile)."""
    queries, keys, causal, window, *tiles = CASES[case]
    return implementation(TILES).VisibleKeys(queries, keys, causal, window), *tiles


def pairs_of(a2, case):
    """Return the pairs of tiles in which the mask has a visible entry."""
    queries, keys, causal, window, query_tile, key_tile = CASES[case]
    mask = a2.visible(queries, keys, causal, window)
    return [
        ((q, min(q + query_tile, queries)), (k, min(k + key_tile, keys)))
        for q in range(0, queries, query_tile)
        for k in range(0, keys, key_tile)
        if mask[q : q + query_tile, k : k + key_tile].any()
    ]


def numbers(cost):
    return {"read": cost.bytes_read, "written": cost.bytes_written, "flops": cost.flops}


def check_cost(got, expected, what, causes):
    """Compare costs; `causes` maps a likely cause to (which number, its wrong value)."""
    for name, right in expected.items():
        hints = {cause: wrong for cause, (which, wrong) in causes.items() if which == name != wrong}
        hints = {cause: wrong for cause, wrong in hints.items() if wrong != right}
        check_equal(numbers(got)[name], right, f"{what}: {name}", hints)


@pytest.mark.task("a2.19")
def test_traffic_by_hand(implementation):
    """Four causal queries in tiles of 2 by 2, a head of 8, bfloat16: the handout's example."""
    visible = implementation(TILES).VisibleKeys(4, 4, True)
    module = implementation(MODULE)
    got = module.flash_forward(visible, 8, 2, 2, 2)
    causes = {
        "read both k and v": ("read", 64 + 96),
        "k and v are read once for each tile of queries, not only once": ("read", 64 + 128),
        "the tile that no query sees is skipped: do not read it": ("read", 64 + 256),
        "write lse too, 4 bytes a row": ("written", 64),
        "the skipped tile costs no FLOPs": ("flops", 512),
        "there are two products, with two FLOPs for each entry": ("flops", 192),
    }
    expected = {"read": 256, "written": 80, "flops": 384}
    check_cost(got, expected, "flash_forward of the handout's example", causes)


@pytest.mark.task("a2.19")
@cases
def test_pairs_of_tiles(implementation, a2, case):
    visible, *tiles = visible_of(implementation, case)
    got = [tuple(map(tuple, pair)) for pair in implementation(MODULE).tile_pairs(visible, *tiles)]
    expected = pairs_of(a2, case)
    hints = {
        "these are all pairs: skip those in which no query sees any key": (
            lambda got: len(got) > len(expected)
        )
    }
    check_equal(sorted(got), expected, f"tile_pairs ({case}, in any order)", hints)


@pytest.mark.task("a2.19")
@pytest.mark.parametrize(("queries", "keys", "width", "size"), [(5, 9, 16, 4)])
def test_traffic_of_the_formula(implementation, queries, keys, width, size):
    got = implementation(MODULE).eager_forward(queries, keys, width, size)
    table, q, k = queries * keys, queries * width, keys * width
    expected = {
        "read": (8 * table + 2 * queries + q + 2 * k) * size + 2 * table,
        "written": (6 * table + 2 * queries + q) * size + table,
        "flops": 4 * table * width,
    }
    causes = {
        "the reads of the mask, 1 byte for each entry, are missing": (
            "read",
            expected["read"] - 2 * table,
        ),
        "write the inverted mask too": ("written", expected["written"] - table),
        "read the maximum and the sum of each row again": (
            "read",
            expected["read"] - 2 * queries * size,
        ),
        "write the maximum and the sum of each row": (
            "written",
            expected["written"] - 2 * queries * size,
        ),
        "read both k and v": ("read", expected["read"] - k * size),
        "there are two products": ("flops", 2 * table * width),
    }
    what = f"eager_forward({queries}, {keys}, {width}, {size})"
    check_cost(got, expected, what, causes)


@pytest.mark.task("a2.19")
@cases
@pytest.mark.parametrize("size", [2])
def test_traffic_of_the_forward_pass(implementation, a2, case, size):
    visible, *tiles = visible_of(implementation, case)
    queries, keys = CASES[case][:2]
    got = implementation(MODULE).flash_forward(visible, 16, *tiles, size)
    read, flops = queries * 16 * size, 0
    for (q_start, q_end), (k_start, k_end) in pairs_of(a2, case):
        read += 2 * (k_end - k_start) * 16 * size
        flops += 2 * 2 * (q_end - q_start) * (k_end - k_start) * 16
    expected = {"read": read, "written": queries * (16 * size + 4), "flops": flops}
    causes = {
        "read the queries too": ("read", read - queries * 16 * size),
        "read both k and v": ("read", (read + queries * 16 * size) // 2),
        "read k and v again for each tile of queries": (
            "read",
            (queries + 2 * keys) * 16 * size,
        ),
        "write lse too, 4 bytes a row": ("written", queries * 16 * size),
        "lse always has 4 bytes a row, whatever bytes_per_value is": (
            "written",
            queries * 17 * size,
        ),
        "skip pairs of tiles in which no query sees any key": ("flops", 4 * queries * keys * 16),
    }
    check_cost(got, expected, f"flash_forward ({case}, {size} bytes)", causes)


@pytest.mark.task("a2.19")
@cases
@pytest.mark.parametrize("size", [2])
def test_traffic_of_the_backward_pass(implementation, a2, case, size):
    visible, *tiles = visible_of(implementation, case)
    queries, keys = CASES[case][:2]
    got = implementation(MODULE).flash_backward(visible, 16, *tiles, size)
    read = 2 * queries * 16 * size  # do and o, for delta
    written = queries * 4 + queries * 16 * 4  # delta, and dq as zeros
    read, written, flops = read + 2 * keys * 16 * size, written + 2 * keys * 16 * size, 0
    for (q_start, q_end), (k_start, k_end) in pairs_of(a2, case):
        rows = q_end - q_start
        read += rows * (2 * 16 * size + 2 * 4 + 16 * 4)  # q and do, lse and delta, dq
        written += rows * 16 * 4
        flops += 5 * 2 * rows * (k_end - k_start) * 16
    rounding = (queries * 16 * 4, queries * 16 * size) if size != 4 else (0, 0)
    expected = {"read": read + rounding[0], "written": written + rounding[1], "flops": flops}
    causes = {
        "dq is rounded at the end: read it once more, in float32": ("read", read),
        "dq is rounded at the end: write it once more, with bytes_per_value": ("written", written),
        "read do and o for delta": ("read", expected["read"] - 2 * queries * 16 * size),
        "write delta": ("written", expected["written"] - queries * 4),
        "write dq as zeros before the loop": (
            "written",
            expected["written"] - queries * 16 * 4,
        ),
        "there are five products for each pair of tiles": ("flops", flops * 4 // 5),
    }
    check_cost(got, expected, f"flash_backward ({case}, {size} bytes)", causes)


@pytest.mark.task("a2.19")
def test_intensity_and_least_time(implementation):
    cost = implementation(MODULE).AttentionCost(bytes_read=300, bytes_written=100, flops=8000)
    causes = {
        "bytes written are moved too: count them": 8000 / 300,
        "this is bytes per FLOP": 0.05,
    }
    check_close(cost.intensity, 20.0, 0, 1e-9, "8,000 FLOPs with 400 bytes: intensity", causes)
    for flops_per_second, expected, bound in ((100.0, 80.0, "FLOPs"), (10_000.0, 4.0, "bytes")):
        computing = 8000 / flops_per_second
        causes = {
            "computing and moving overlap: take the longer time, not the sum": computing + 4,
            "take the longer of the two times, not the shorter": min(computing, 4),
        }
        what = f"least_seconds({flops_per_second:g}, 100), bound by {bound}"
        check_close(cost.least_seconds(flops_per_second, 100.0), expected, 0, 1e-9, what, causes)


@pytest.mark.task("a2.19")
def test_what_must_fit_on_the_chip(implementation):
    on_chip_bytes = implementation(MODULE).on_chip_bytes
    hints = {
        "a tile of k and a tile of v are both on the chip": (64 + 32) * 16 * 2
        + 64 * (16 + 32 + 2) * 4,
        "sums and scores are in float32": (64 + 2 * 32) * 16 * 2 + 64 * (16 + 32 + 2) * 2,
        "the scores are on the chip too": (64 + 2 * 32) * 16 * 2 + 64 * (16 + 2) * 4,
        "two numbers for each row are missing: the largest score and the sum": 4096
        + 64 * (16 + 32) * 4,
    }
    what = "on_chip_bytes(64, 32, 16, 2)"
    check_equal(on_chip_bytes(64, 32, 16, 2), 4096 + 64 * 50 * 4, what, hints)
    check_equal(on_chip_bytes(128, 64, 128, 2), 164_864, "on_chip_bytes(128, 64, 128, 2)")


@pytest.mark.task("a2.19")
def test_larger_tiles_of_queries_move_less(implementation):
    visible = implementation(TILES).VisibleKeys(1024, 1024, True)
    module = implementation(MODULE)
    moved = [module.flash_forward(visible, 64, tile, 64, 2).bytes_moved for tile in (16, 64, 256)]
    check_true(
        moved[0] > moved[1] > moved[2],
        "larger tiles of queries must move fewer bytes: k and v are read once for each of them",
        {"got for tiles of 16, 64, 256": moved},
    )
    eager = module.eager_forward(1024, 1024, 64, 2).bytes_moved
    check_true(
        eager > 10 * moved[1],
        "eager_forward must move over ten times as many bytes at 1,024 tokens",
    )
