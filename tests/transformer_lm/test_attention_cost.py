"""The computed bytes against operations and tiles counted at run time."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from transformer_lm import attention_cost, tiled_attention
from transformer_lm.attention import causal_mask, scaled_dot_product_attention
from transformer_lm.attention_cost import AttentionCost
from transformer_lm.tiled_attention import VisibleKeys

README = Path(__file__).parents[2] / "transformer_lm" / "README.md"


class CountedOperations(TorchDispatchMode):
    """Counts the bytes of every operation's inputs and outputs; a view moves none."""

    def __init__(self):
        super().__init__()
        self.read = self.written = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        outputs = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        places = {x.untyped_storage().data_ptr() for x in inputs}
        if not any(x.untyped_storage().data_ptr() in places for x in outputs):
            self.read += sum(map(bytes_in_memory, inputs))
            self.written += sum(map(bytes_in_memory, outputs))
        return result


def bytes_in_memory(x):
    """Return the bytes in memory, where an axis of stride 0 counts once."""
    sizes = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride]
    return x.element_size() * int(torch.tensor(sizes).prod())


class CountedTiles:
    """Counts the bytes that the tiled loop loads and stores."""

    def __init__(self, monkeypatch):
        self.read = self.written = 0
        load, store = tiled_attention.load_tile, tiled_attention.store_tile

        def counting_load(x, rows, dim=-2):
            self.read += x.narrow(dim, rows[0], rows[1] - rows[0]).nbytes
            return load(x, rows, dim)

        def counting_store(x, rows, values, dim=-2):
            self.written += x.narrow(dim, rows[0], rows[1] - rows[0]).nbytes
            store(x, rows, values, dim)

        monkeypatch.setattr(tiled_attention, "load_tile", counting_load)
        monkeypatch.setattr(tiled_attention, "store_tile", counting_store)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(20, 30, 4), (64, 64, 16)])
def test_the_formula_moves_what_is_counted(queries, keys, head_dim, dtype):
    q, k, v, grad = (
        torch.randn(rows, head_dim, dtype=dtype, requires_grad=True)
        for rows in (queries, keys, keys, queries)
    )
    mask = causal_mask(queries, keys, q.device)
    with CountedOperations() as counted, FlopCounterMode(display=False) as flops:
        o = scaled_dot_product_attention(q, k, v, mask)
    shape = queries, keys, head_dim, dtype.itemsize
    forward = attention_cost.eager_forward(*shape)
    assert (counted.read, counted.written) == (forward.bytes_read, forward.bytes_written)
    assert flops.get_total_flops() == forward.flops
    with CountedOperations() as counted, FlopCounterMode(display=False) as flops:
        torch.autograd.grad(o, (q, k, v), grad)
    backward = attention_cost.eager_backward(*shape)
    # Another PyTorch version may order its gradients differently, but needs the table as well.
    assert counted.read == pytest.approx(backward.bytes_read, rel=0.1)
    assert counted.written == pytest.approx(backward.bytes_written, rel=0.1)
    assert flops.get_total_flops() == backward.flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("visible", "query_tile", "key_tile"),
    [
        (VisibleKeys(64, 64, is_causal=True), 16, 16),
        (VisibleKeys(100, 100), 32, 16),
        (VisibleKeys(90, 150, is_causal=True), 16, 64),
        (VisibleKeys(50, 20, is_causal=True), 16, 8),
        (VisibleKeys(100, 100, is_causal=True, sliding_window=20), 16, 16),
    ],
)
def test_tiles_move_what_is_counted(visible, query_tile, key_tile, dtype, monkeypatch):
    q, grad = (torch.randn(1, 1, 1, visible.num_queries, 8, dtype=dtype) for _ in "qg")
    k, v = (torch.randn(1, 1, visible.num_keys, 8, dtype=dtype) for _ in "kv")
    shape = 8, query_tile, key_tile, dtype.itemsize
    counted = CountedTiles(monkeypatch)
    with FlopCounterMode(display=False) as flops:
        o, lse = tiled_attention.tiled_attention_forward(q, k, v, visible, query_tile, key_tile)
    forward = attention_cost.flash_forward(visible, *shape)
    assert (counted.read, counted.written) == (forward.bytes_read, forward.bytes_written)
    assert flops.get_total_flops() == forward.flops
    counted.read = counted.written = 0
    with FlopCounterMode(display=False) as flops:
        tiled_attention.tiled_attention_backward(
            grad, (q, k, v, o, lse), visible, query_tile, key_tile
        )
    if dtype != torch.float32:  # dq is rounded at the end, in one operation on all of it
        counted.read, counted.written = counted.read + q.numel() * 4, counted.written + q.nbytes
    backward = attention_cost.flash_backward(visible, *shape)
    assert (counted.read, counted.written) == (backward.bytes_read, backward.bytes_written)
    assert flops.get_total_flops() == backward.flops


def test_bytes_by_hand():
    # 4 queries and keys, 2 wide, 1 byte; causal tiles of 2: pairs (0, 0), (1, 0), (1, 1).
    visible = VisibleKeys(4, 4, is_causal=True)
    assert attention_cost.flash_forward(visible, 2, 2, 2, 1) == AttentionCost(
        bytes_read=8 + 3 * 2 * 4,  # q; three pairs of a tile of k and a tile of v
        bytes_written=8 + 16,  # o and lse
        flops=3 * 2 * 2 * (2 * 2 * 2),
    )


def test_larger_tiles_move_less_until_all_fits():
    def moved(tile):
        return attention_cost.flash_forward(VisibleKeys(4096, 4096), 64, tile, 64, 2).bytes_moved

    assert moved(64) > 1.9 * moved(128) > 3 * moved(256)
    least = (4 * 4096 * 64) * 2 + 4096 * 4  # q, k, v and o, each once
    assert moved(4096) == least


def test_twice_the_length_moves_four_times_as_much_and_still_less():
    def ratio(length):
        visible = VisibleKeys(length, length, is_causal=True)
        by_tiles = attention_cost.flash_forward(visible, 64, 128, 64, 2)
        return attention_cost.eager_forward(length, length, 64, 2).bytes_moved / (
            by_tiles.bytes_moved
        )

    assert 20 < ratio(1024) < ratio(8192) < 32  # (14 tables + mask) / (table * 64 * 2 / 128 / 2)


def test_the_slower_of_computing_and_moving_decides():
    cost = AttentionCost(bytes_read=300, bytes_written=100, flops=8000)
    assert cost.intensity == 20
    assert cost.least_seconds(flops_per_second=1000, bytes_per_second=100) == 8
    assert cost.least_seconds(flops_per_second=1000, bytes_per_second=10) == 40


def test_the_tiles_of_the_readme_fit_on_a_chip():
    assert attention_cost.on_chip_bytes(128, 64, 64, 2) == (256 * 64) * 2 + 128 * 130 * 4
    assert attention_cost.on_chip_bytes(128, 64, 128, 2) < 228 * 1024 + 256 * 1024  # and registers


def test_the_readme_has_these_rows():
    text = README.read_text(encoding="utf-8")
    for row in attention_cost.cost_table(length=4096, head_dim=64, query_tile=128, key_tile=64):
        assert row in text, f"transformer_lm/README.md lacks\n{row}"
