"""FlashAttention-2 on a GPU: launch the kernels as one operator for autograd and torch.compile.

There are two entry points: `flash_attention` for [batch, heads, seq, head_dim], and
`flash_attention_varlen` for concatenated sequences of different lengths, without padding. Grouped
query heads read their key head in place, and tensors may have any strides, so heads made by a
transpose are not copied. flash_attention_tiles.py chooses the tiles.

Importing this module needs Triton. For tests, with TRITON_INTERPRET=1 in the environment before the
import, the kernels run on a CPU, in NumPy, one program after the other. attention_backend.py finds
out whether they work on this machine. What this leaves out: dropout and attention biases; see the
kernels' own files.

Dao, 2023 (FlashAttention-2).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from lm_core.user_error import UserError
from transformer_lm.flash_attention_backward import delta_kernel
from transformer_lm.kernels.flash_attention_tiles import (
    tuned_forward,
    tuned_key_gradient,
    tuned_query_gradient,
)

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD_DIM = 256


class Launch:
    """The settings that the kernels of one call share.

    Attributes:
        cu_seqlens: of queries and keys, if the sequences are packed; else None.
        max_lengths: rows of the longest sequence, queries and keys.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        cu_seqlens_q: Tensor | None,
        cu_seqlens_k: Tensor | None,
        max_queries: int,
        max_keys: int,
        is_causal: bool,
        window: int,
    ) -> None:
        self.cu_seqlens = None if cu_seqlens_q is None else (cu_seqlens_q, cu_seqlens_k)
        self.sequences = q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.numel() - 1
        self.max_lengths = max_queries, max_keys
        self.constants = {
            "HEAD_DIM": q.shape[3],
            "BLOCK_D": max(16, triton.next_power_of_2(q.shape[3])),
            # Products and sums in one instruction; the default depends on Triton's version.
            "enable_fp_fusion": True,
        }
        self.mask = {
            "GROUP": q.shape[1] // k.shape[1],
            "IS_CAUSAL": is_causal,
            "WINDOW": window,
        }
        length_class = triton.next_power_of_2(max(max_queries, max_keys, 1))
        self.sizes = self.cu_seqlens, self.max_lengths, length_class, 1 / math.sqrt(q.shape[3])

    def strides(self, *tensors: Tensor) -> tuple[tuple[int, ...], ...]:
        """Return the strides of (sequence, head, row); packed sequences are rows of one matrix."""
        packed = self.cu_seqlens is not None
        return tuple((0 if packed else x.stride(0), x.stride(1), x.stride(2)) for x in tensors)

    def grid(self, tile: str, max_rows: int, heads: int) -> Callable[[dict[str, int]], tuple[int]]:
        """Return the grid: one program per tile of rows, per head and per sequence."""
        return lambda meta: (triton.cdiv(max_rows, meta[tile]) * heads * self.sequences,)


@torch.library.custom_op("transformer_lm::flash_attention_forward", mutates_args=())
def forward_operator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_queries: int,
    max_keys: int,
    is_causal: bool,
    window: int,
) -> tuple[Tensor, Tensor]:
    """Return (o, lse) for [batch, heads, seq, head_dim]; packed sequences are a batch of 1."""
    launch = Launch(q, k, cu_seqlens_q, cu_seqlens_k, max_queries, max_keys, is_causal, window)
    o, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    tensors = q, k, v, o, lse
    if lse.numel():
        with torch.cuda.device_of(q):  # Triton launches on the current device, not on q's
            tuned_forward[launch.grid("QUERY_TILE", max_queries, q.shape[1])](
                *tensors,
                launch.strides(*tensors),
                *launch.sizes,
                HEADS=q.shape[1],
                **launch.mask,
                **launch.constants,
            )
    return o, lse


@torch.library.custom_op("transformer_lm::flash_attention_backward", mutates_args=())
def backward_operator(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_queries: int,
    max_keys: int,
    is_causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (dq, dk, dv), from the inputs and results of the forward operator."""
    launch = Launch(q, k, cu_seqlens_q, cu_seqlens_k, max_queries, max_keys, is_causal, window)
    dq, dk, dv, delta = (torch.empty_like(x) for x in (q, k, v, lse))
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    heads, kv_heads = q.shape[1], k.shape[1]
    inputs = q, k, v, grad, lse
    with torch.cuda.device_of(q):
        if lse.numel():
            delta_kernel[launch.grid("QUERY_TILE", max_queries, heads)](
                *(o, grad, delta),
                launch.strides(o, grad, delta),
                *launch.sizes[:2],
                HEADS=heads,
                QUERY_TILE=32,
                **launch.constants,
            )
            tuned_query_gradient[launch.grid("QUERY_TILE", max_queries, heads)](
                *(*inputs, delta, dq),
                launch.strides(*inputs, dq),
                *launch.sizes,
                HEADS=heads,
                **launch.mask,
                **launch.constants,
            )
        if dk.numel():
            tuned_key_gradient[launch.grid("KEY_TILE", max_keys, kv_heads)](
                *(*inputs, delta, dk, dv),
                launch.strides(*inputs, dk, dv),
                *launch.sizes,
                KV_HEADS=kv_heads,
                **launch.mask,
                **launch.constants,
            )
    return dq, dk, dv


@forward_operator.register_fake
def _(q: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@backward_operator.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_others: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens_q, cu_seqlens_k, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens_q, cu_seqlens_k)
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, grad: Tensor | None, _grad_of_lse: None) -> tuple[Tensor | None, ...]:
    no_others = (None,) * 6  # cu_seqlens, lengths and settings have no gradients
    if grad is None:
        return None, None, None, *no_others
    return *backward_operator(grad, *ctx.saved_tensors, *ctx.settings), *no_others


forward_operator.register_autograd(differentiate, setup_context=save_for_backward)


def check_inputs(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, window: int | None) -> None:
    """Raise ValueError for inputs that the kernels do not support.

    q, k and v are [batch, heads, seq, head_dim].
    """
    if q.dtype not in FLOAT_TYPES or not q.dtype == k.dtype == v.dtype:
        raise UserError(
            f"q, k and v are {q.dtype}, {k.dtype}, {v.dtype}; the kernels take three of one type: "
            "float16, bfloat16 or float32 (tiled_attention takes float64)"
        )
    if k.shape != v.shape or q.shape[-1] != k.shape[-1] or q.shape[0] != k.shape[0]:
        raise UserError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not belong together; "
            "expected k and v of one shape, and q with their batch and head_dim"
        )
    if q.shape[1] % k.shape[1] or not 1 <= q.shape[3] <= LARGEST_HEAD_DIM:
        raise UserError(
            f"{q.shape[1]} query heads for {k.shape[1]} key heads, {q.shape[3]} wide; expected a "
            f"multiple, at most {LARGEST_HEAD_DIM} wide"
        )
    if window is not None and not (is_causal and window > 0):
        raise UserError(f"sliding_window = {window} needs is_causal=True and a positive number")
    if any(x.shape[2] * x.stride(2) >= 2**31 for x in (q, k, v)):
        raise UserError(
            "one head's rows span more than 2^31 values, which the kernels cannot count"
        )


def flash_attention(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys head_dim"],
    is_causal: bool = False,
    sliding_window: int | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Compute softmax(q k^T / sqrt(head_dim)) v as `tiled_attention` does, with the GPU kernels.

    Args:
        q, k, v: all of one type, 16 or 32 bits wide; sums are kept in float32. Weights are rounded
            to that type before they are multiplied by v, as in every such kernel.
        is_causal: the queries are the last positions of the keys. A query that sees no key gives 0.
        sliding_window: how many positions a query sees, its own included; None for all before it.
    """
    check_inputs(q, k, v, is_causal, sliding_window)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    lengths = q.shape[2], k.shape[2]
    return forward_operator(q, k, v, None, None, *lengths, is_causal, sliding_window or 0)[0]


def flash_attention_varlen(
    q: Float[Tensor, "all_queries heads head_dim"],
    k: Float[Tensor, "all_keys kv_heads head_dim"],
    v: Float[Tensor, "all_keys kv_heads head_dim"],
    cu_seqlens_q: Int[Tensor, " sequences_and_one"],
    cu_seqlens_k: Int[Tensor, " sequences_and_one"],
    max_seqlen_q: int,
    max_seqlen_k: int,
    is_causal: bool = False,
    sliding_window: int | None = None,
) -> Float[Tensor, "all_queries heads head_dim"]:
    """Compute attention within each of several concatenated sequences.

    Args:
        cu_seqlens_q, cu_seqlens_k: sequence i has the rows from cu_seqlens[i] to cu_seqlens[i + 1];
            the first is 0 and the last the number of rows. int32, on q's device. They are not read
            on the CPU, because that would wait for the GPU: wrong values give wrong results.
        max_seqlen_q, max_seqlen_k: at least the longest sequence's rows; rows beyond it keep
            whatever was in memory.
    """
    # Rows become the third axis, of a batch of one.
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    check_inputs(q, k, v, is_causal, sliding_window)
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise UserError(
            f"cu_seqlens_q tells of {cu_seqlens_q.numel() - 1} sequences and cu_seqlens_k of "
            f"{cu_seqlens_k.numel() - 1}"
        )
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    lengths = max_seqlen_q, max_seqlen_k
    o, _ = forward_operator(
        q, k, v, cu_seqlens_q, cu_seqlens_k, *lengths, is_causal, sliding_window or 0
    )
    return o.squeeze(0).transpose(0, 1)
