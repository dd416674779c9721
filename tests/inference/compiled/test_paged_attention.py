"""The compiled kernel and the lesson give the same result, for every mix of requests."""

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.compiled.paged_attention import attend_step
from inference.compiled.step_tables import StepTables, step_tables
from inference.paged_attention import PagedKVCache, paged_attention
from inference.quantized_cache import quantize_rows, restore_rows

SIZE, BLOCKS = 4, 24
TABLES = [[5, 0, 9], [17], [3, 2, 1, 8, 11], [20, 4], [7, 23]]
CACHED, NEW = [8, 0, 19, 3, 0], [1, 3, 1, 5, 8]


def filled_cache(dtype: torch.dtype, kv_heads: int, head_dim: int, tables: StepTables) -> Tensor:
    """Return [2, blocks, ...]: keys and values, with NaN wherever no request has a token."""
    generator = torch.Generator().manual_seed(1)
    pool = torch.randn(2, BLOCKS, SIZE, kv_heads, head_dim, generator=generator)
    written = torch.zeros(BLOCKS * SIZE, dtype=torch.bool)
    for blocks, num_keys in zip(TABLES, tables.num_keys.tolist(), strict=True):
        for position in range(num_keys):
            written[blocks[position // SIZE] * SIZE + position % SIZE] = True
    pool.flatten(1, 2)[:, ~written] = float("nan")
    return quantize_rows(pool) if dtype == torch.int8 else pool.to(dtype)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 8), (3, 3, 5), (6, 1, 16), (2, 2, 80)]
)
def test_equal_to_the_lesson(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, window: int | None
) -> None:
    tables = step_tables(TABLES, CACHED, NEW, SIZE)
    keys, values = filled_cache(dtype, kv_heads, head_dim, tables)
    generator = torch.Generator().manual_seed(2)
    q = 2 * torch.randn(sum(NEW), heads, head_dim, generator=generator)
    got = attend_step(q, keys, values, tables, window)
    assert got.dtype == torch.float32
    if dtype == torch.int8:
        keys, values = restore_rows(keys), restore_rows(values)
    row = 0
    for blocks, cached, new in zip(TABLES, CACHED, NEW, strict=True):
        chunk = q[row : row + new].double()
        expected = paged_attention(chunk, keys, values, blocks, cached + new, window)
        torch.testing.assert_close(got[row : row + new].double(), expected, rtol=1e-5, atol=1e-5)
        row += new


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("window", [None, 17, 40])
@pytest.mark.parametrize("size", [16, 20, 33, 100])
def test_blocks_longer_than_a_vector(size: int, window: int | None, dtype: torch.dtype) -> None:
    num_keys, new = 91, 3
    count = -(-num_keys // size)
    blocks = list(range(count + 2))[::-1][:count]
    tables = step_tables([blocks], [num_keys - new], [new], size)
    generator = torch.Generator().manual_seed(4)
    pool = torch.randn(2, count + 2, size, 2, 16, generator=generator)
    keys, values = quantize_rows(pool) if dtype == torch.int8 else pool
    q = torch.randn(new, 4, 16, generator=generator)
    got = attend_step(q, keys, values, tables, window)
    if dtype == torch.int8:
        keys, values = restore_rows(keys), restore_rows(values)
    expected = paged_attention(q.double(), keys, values, blocks, num_keys, window)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_large_scores() -> None:
    tables = step_tables([[1, 0]], [6], [1], SIZE)
    keys = torch.full((2, SIZE, 1, 4), 300.0)
    values = torch.arange(2.0 * SIZE * 4).reshape(2, SIZE, 1, 4)
    for sign in (1, -1):
        q = torch.full((1, 1, 4), 300.0 * sign)
        expected = paged_attention(q, keys, values, [1, 0], 7)
        torch.testing.assert_close(attend_step(q, keys, values, tables), expected)


def test_a_type_that_numpy_lacks_for_q() -> None:
    tables = step_tables([[1]], [0], [2], SIZE)
    keys = torch.ones(2, SIZE, 1, 4, dtype=torch.bfloat16)
    q = torch.ones(2, 2, 4, dtype=torch.bfloat16)
    got = attend_step(q, keys, keys, tables)
    assert got.dtype == torch.bfloat16
    assert (got == 1).all()


def test_no_requests() -> None:
    tables = step_tables([], [], [], SIZE)
    keys = torch.zeros(2, SIZE, 1, 4)
    assert attend_step(torch.zeros(0, 2, 4), keys, keys, tables).shape == (0, 2, 4)


def test_two_threads_at_once() -> None:
    tables = step_tables(TABLES, CACHED, NEW, SIZE)
    keys, values = filled_cache(torch.float32, 2, 8, tables)
    q = torch.randn(sum(NEW), 4, 8, generator=torch.Generator().manual_seed(3))
    expected, results = attend_step(q, keys, values, tables), []

    def attend() -> None:
        results.extend(attend_step(q, keys, values, tables) for _ in range(20))

    threads = [threading.Thread(target=attend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    assert all(torch.equal(each, expected) for each in results)


def test_the_places_are_those_of_the_lesson() -> None:
    tables = step_tables(TABLES, CACHED, NEW, SIZE)
    cache = PagedKVCache(1, BLOCKS, SIZE, 1, 2)
    rows = torch.arange(1.0, sum(NEW) + 1)[:, None, None].expand(-1, 1, 2)
    cache.write(0, torch.from_numpy(tables.places), rows, -rows)
    row = 0
    for blocks, cached, new in zip(TABLES, CACHED, NEW, strict=True):
        for position in range(cached, cached + new):
            row += 1
            assert cache.keys[0, blocks[position // SIZE], position % SIZE, 0, 0] == row
    assert int((cache.keys != 0).sum()) == 2 * row
    assert tables.blocks.dtype == np.int32
    positions = [range(old, old + new) for old, new in zip(CACHED, NEW, strict=True)]
    assert tables.positions.tolist() == [place for each in positions for place in each]


def test_some_requests_of_a_step() -> None:
    tables = step_tables(TABLES, CACHED, NEW, SIZE)
    some = tables.of_requests([3, 1])
    assert some.num_rows == tables.num_rows
    assert some.first_rows.tolist() == [tables.first_rows[3], tables.first_rows[1]]
    assert some.blocks.tolist() == [list(tables.blocks[3]), list(tables.blocks[1])]
    assert tables.of_requests([]).blocks.shape == (0, tables.blocks.shape[1])
