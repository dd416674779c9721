"""Tiles of keys from the last to the first, a softmax to base 2, results that are normalized after
every tile, and a backward pass in two loops: one for dq, one for dk and dv.
"""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lm_core.user_error import UserError

LOG2_E = math.log2(math.e)


def wide_rows(x: Tensor, start: int, stop: int) -> Tensor:
    return x[..., start:stop, :].to(torch.promote_types(x.dtype, torch.float32))


def logits(q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the scores times log2(e)."""
    scale = LOG2_E / math.sqrt(q.shape[-1])
    scores = torch.matmul(q, (k * scale)[:, :, None].transpose(-1, -2))
    return scores if hidden is None else torch.where(hidden, -math.inf, scores)


class TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Any, *sizes: int) -> Tensor:
        ctx.visible, ctx.sizes = visible, sizes
        out = v.new_zeros(*q.shape[:-1], v.shape[-1])
        kind = torch.promote_types(q.dtype, torch.float32)
        log_sums = torch.full(q.shape[:-1], -math.inf, dtype=kind, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            for rows in spans(q.shape[-2], sizes[0]):
                out[..., slice(*rows), :], log_sums[..., slice(*rows)] = attend(
                    wide_rows(q, *rows), k, v, rows, visible, sizes[1]
                )
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            gradients = tiled_attention_backward(ctx, grad)
        return *gradients, None, None, None


def spans(length: int, size: int) -> list[tuple[int, int]]:
    edges = [*range(0, length, size), length]
    return [(begin, end) for begin, end in pairwise(edges) if begin < end]


def attend(
    q: Tensor, k: Tensor, v: Tensor, rows: tuple[int, int], visible: Any, size: int
) -> tuple[Tensor, Tensor]:
    """Return a tile's results, and the logarithms to base 2 of its sums of weights."""
    mean = q.new_zeros(*q.shape[:-1], v.shape[-1])
    log_sum = q.new_full(q.shape[:-1], -math.inf)
    for keys in reversed(spans(k.shape[-2], size)):
        if not visible.touch(rows, keys):
            continue
        scores = logits(q, wide_rows(k, *keys), visible.mask(rows, keys, q.device))
        top = scores.amax(-1)
        powers = torch.exp2(scores - torch.where(top.isinf(), 0.0, top)[..., None])
        part = powers.sum(-1)
        log_part = torch.where(top.isinf(), top, top + part.log2())
        both = torch.logaddexp2(log_sum, log_part)
        level = torch.where(both.isinf(), 0.0, both)
        part_mean = torch.matmul(powers, wide_rows(v, *keys)[:, :, None])
        factor = torch.exp2(torch.where(top.isinf(), -math.inf, top - level))
        mean = mean * torch.exp2(log_sum - level)[..., None] + part_mean * factor[..., None]
        log_sum = both
    return mean, log_sum


def tiled_attention_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, out, log_sums = ctx.saved_tensors
    visible, (query_size, key_size) = ctx.visible, ctx.sizes
    kind = log_sums.dtype
    levels = torch.where(log_sums.isinf(), 0.0, log_sums)
    delta = torch.einsum("...d,...d->...", grad.to(kind), out.to(kind))
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1])

    def tile(rows: tuple[int, int], keys: tuple[int, int]) -> tuple[Tensor, ...]:
        q_tile, k_tile = wide_rows(q, *rows), wide_rows(k, *keys)
        grad_tile, v_tile = wide_rows(grad, *rows), wide_rows(v, *keys)
        scores = logits(q_tile, k_tile, visible.mask(rows, keys, q.device))
        weights = torch.exp2(scores - levels[..., slice(*rows), None])
        d_weights = torch.matmul(grad_tile, v_tile[:, :, None].transpose(-1, -2))
        d_scores = weights * (d_weights - delta[..., slice(*rows), None]) * scale
        return q_tile, k_tile, grad_tile, weights, d_scores

    for rows in spans(q.shape[-2], query_size):
        total = torch.zeros_like(wide_rows(q, *rows))
        for keys in spans(k.shape[-2], key_size):
            if visible.touch(rows, keys):
                _, k_tile, _, _, d_scores = tile(rows, keys)
                total += torch.matmul(d_scores, k_tile[:, :, None])
        dq[..., slice(*rows), :] = total
    for keys in spans(k.shape[-2], key_size):
        k_total = torch.zeros_like(wide_rows(k, *keys))
        v_total = torch.zeros_like(wide_rows(v, *keys))
        for rows in spans(q.shape[-2], query_size):
            if visible.touch(rows, keys):
                q_tile, _, grad_tile, weights, d_scores = tile(rows, keys)
                k_total += torch.matmul(d_scores.transpose(-1, -2), q_tile).sum(2)
                v_total += torch.matmul(weights.transpose(-1, -2), grad_tile).sum(2)
        dk[..., slice(*keys), :], dv[..., slice(*keys), :] = k_total, v_total
    return dq, dk, dv


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    is_causal: bool = False,
    query_tile: int = 256,
    key_tile: int = 256,
    sliding_window: int | None = None,
) -> Tensor:
    if q.shape[1] % k.shape[1] != 0:
        raise UserError(f"{q.shape[1]} query heads for {k.shape[1]} key heads")
    visible = VisibleKeys(q.shape[2], k.shape[2], is_causal, sliding_window)
    groups = q.reshape(q.shape[0], k.shape[1], -1, *q.shape[2:])
    out = TiledAttention.apply(groups, k, v, visible, query_tile, key_tile)
    return out.reshape(*q.shape[:3], -1)
