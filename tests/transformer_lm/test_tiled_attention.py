"""Tiled attention against the formula in float64, at every kind of boundary, and its memory."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transformer_lm.attention import causal_mask, scaled_dot_product_attention
from transformer_lm.tiled_attention import (
    VisibleKeys,
    tiled_attention,
    tiled_attention_forward,
)


def attention_in_float64(q, k, v, is_causal, window=None):
    """Compute the formula, with expanded grouped heads; a query that sees nothing gives 0."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    queries, keys = scores.shape[-2:]
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril(keys - queries)
    if window is not None:
        allowed = allowed.triu(keys - queries - window + 1)
    weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), -1)
    return weights.masked_fill(~allowed.any(-1, keepdim=True), 0) @ v


def inputs(queries, keys, head_dim, dtype=torch.float32, heads=4, kv_heads=2, batch=2):
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    shapes = [(heads, queries), (kv_heads, keys), (kv_heads, keys), (heads, queries)]
    return [
        torch.randn(batch, h, rows, head_dim, generator=generator).to(dtype) for h, rows in shapes
    ]


def with_gradients(attention, q, k, v, grad):
    """Return the result, and the gradients of q, k and v."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    o = attention(*leaves)
    return {
        "o": o.detach(),
        **dict(zip(("dq", "dk", "dv"), torch.autograd.grad(o, leaves, grad), strict=True)),
    }


def assert_near(found, expected, roundings, scale, what):
    """Check that every element is within `roundings` roundings of a number as large as `scale`.

    The scale is the largest value of all four results: dq and dk are differences of sums that may
    be as large and almost cancel.
    """
    if not expected.numel():
        return
    eps = torch.finfo(found.dtype).eps
    error = (found.double() - expected).abs().nan_to_num(math.inf)
    place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    assert error[place] <= roundings * eps * scale, (
        f"{what}{list(place)}: expected {expected[place]:.8g}, got {found[place]:.8g}; off by "
        f"{error[place] / (eps * scale):.3g} roundings of {scale:.3g} (one is {eps:.1g} of it), "
        f"allowed {roundings}"
    )


def compare(q, k, v, grad, roundings=16, window=None, is_causal=True, **tiles):
    found = with_gradients(
        lambda *x: tiled_attention(*x, is_causal, sliding_window=window, **tiles), q, k, v, grad
    )
    expected = with_gradients(
        lambda *x: attention_in_float64(*x, is_causal, window),
        *(x.double() for x in (q, k, v, grad)),
    )
    scale = max([1.0, *(x.abs().max().item() for x in expected.values() if x.numel())])
    for what in expected:
        assert found[what].dtype == q.dtype
        assert_near(found[what], expected[what], roundings, scale, what)


def test_two_tiles_by_hand():
    # Scores ln 1 and ln 3 in two tiles of one key: weights 1/4 and 3/4, sum of exponentials 4.
    q = torch.tensor([[[[[2.0, 0, 0, 0]]]]])
    k = torch.tensor([[[[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]]]])
    v = torch.tensor([[[[8.0], [0.0]]]])
    o, lse = tiled_attention_forward(q, k, v, VisibleKeys(1, 2), 1, 1)
    torch.testing.assert_close(o, torch.full((1, 1, 1, 1, 1), 2.0))
    torch.testing.assert_close(lse, torch.full((1, 1, 1, 1), math.log(4)))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (17, 17), (64, 64), (200, 200)])
def test_equals_the_formula(queries, keys, head_dim, is_causal):
    compare(*inputs(queries, keys, head_dim), is_causal=is_causal, query_tile=64, key_tile=32)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 50), (17, 50), (50, 17), (33, 32), (5, 0)])
def test_queries_are_the_last_positions_of_the_keys(queries, keys, is_causal):
    compare(*inputs(queries, keys, 16), is_causal=is_causal, query_tile=16, key_tile=8)


@pytest.mark.parametrize("tile", [1, 3, 16, 1000])
def test_the_tile_sizes_do_not_matter(tile):
    compare(*inputs(20, 30, 16), query_tile=tile, key_tile=5)
    compare(*inputs(20, 30, 16), query_tile=7, key_tile=tile)


@pytest.mark.parametrize("window", [1, 8, 13, 1000])
@pytest.mark.parametrize(("queries", "keys"), [(40, 40), (10, 50), (50, 10)])
def test_sliding_windows(queries, keys, window):
    compare(*inputs(queries, keys, 16), window=window, query_tile=16, key_tile=8)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 1), (6, 2), (6, 3), (6, 6)])
def test_query_head_h_reads_key_head_h_over_group(heads, kv_heads):
    compare(*inputs(20, 20, 16, heads=heads, kv_heads=kv_heads), query_tile=8, key_tile=8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_keep_sums_in_float32_or_wider(dtype):
    # The inputs are exact; only o is rounded on its way to the gradients: 2 roundings.
    compare(*inputs(100, 100, 16, dtype), 16 if dtype == torch.float64 else 2, key_tile=8)


def test_gradients_against_finite_differences():
    q, k, v, _ = (x.double().requires_grad_() for x in inputs(5, 7, 3, batch=1))
    for settings in ((True, 2, 3), (False, 2, 3), (True, 3, 2, 4)):
        assert torch.autograd.gradcheck(lambda *x, s=settings: tiled_attention(*x, *s), (q, k, v))


def test_a_query_that_sees_nothing_gives_zero_and_no_nan():
    q, k, v, grad = inputs(5, 2, 16)
    found = with_gradients(lambda *x: tiled_attention(*x, True, 2, 2), q, k, v, grad)
    assert found["o"][:, :, :3].count_nonzero() == found["dq"][:, :, :3].count_nonzero() == 0
    assert all(x.isfinite().all() for x in found.values())
    visible = VisibleKeys(5, 2, is_causal=True)
    _, lse = tiled_attention_forward(q.unflatten(1, (2, 2)), k, v, visible, 2, 2)
    assert (lse[..., :3] == -math.inf).all() and lse[..., 3:].isfinite().all()


def test_huge_scores_do_not_overflow():
    q = torch.full((1, 1, 6, 4), 1e4).requires_grad_()
    result = tiled_attention(q, q, q, True, 2, 2)
    assert torch.equal(result, q)
    result.sum().backward()
    assert q.grad.isfinite().all()


def test_visible_keys_are_those_of_the_causal_mask():
    for queries, keys in [(3, 3), (2, 5), (5, 2)]:
        visible = VisibleKeys(queries, keys, is_causal=True)
        whole = visible.mask((0, queries), (0, keys), torch.device("cpu"))
        assert torch.equal(~whole, causal_mask(queries, keys, torch.device("cpu")))


def test_wrong_settings_are_refused():
    q, k, v, _ = inputs(4, 4, 8)
    with pytest.raises(ValueError, match="3 query heads for 2 key heads"):
        tiled_attention(q[:, :3], k, v)
    with pytest.raises(ValueError, match="is_causal must be True"):
        tiled_attention(q, k, v, sliding_window=2)
    with pytest.raises(ValueError, match="sliding_window = 0"):
        tiled_attention(q, k, v, is_causal=True, sliding_window=0)


def test_autocast_does_not_round_the_sums():
    q, k, v, _ = inputs(100, 100, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = tiled_attention(q, k, v, True)
    assert torch.equal(inside, tiled_attention(q, k, v, True))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def largest_tensor(attention, length):
    q, k, v, grad = inputs(length, length, 16, heads=1, kv_heads=1, batch=1)
    with LargestTensor() as mode:
        with_gradients(attention, q, k, v, grad)
    return mode.elements


def test_no_table_is_made_forward_or_backward():
    def by_tiles(q, k, v):
        return tiled_attention(q, k, v, True, query_tile=32, key_tile=32)

    def whole(q, k, v):
        mask = causal_mask(q.shape[2], k.shape[2], q.device)
        return scaled_dot_product_attention(q, k, v, mask)

    # The largest tensor of all is as large as q: 16 wide.
    assert [largest_tensor(by_tiles, length) for length in (128, 256, 512)] == [2048, 4096, 8192]
    assert largest_tensor(whole, 512) == 512 * 512


def test_what_is_kept_for_backward_has_no_table():
    kept = []
    q, k, v, _ = inputs(200, 200, 16)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        tiled_attention(q.requires_grad_(), k, v, True, query_tile=64, key_tile=64)
    sizes = sorted(x.numel() for x in kept)
    assert sizes == sorted([q.numel(), k.numel(), v.numel(), q.numel(), 2 * 4 * 200])  # and o, lse
