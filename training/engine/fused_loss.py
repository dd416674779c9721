"""A fast version of the loss in training/loss.py: it reads the logits in pieces and has a
handwritten backward pass.

The lesson passes over [tokens, vocab] in float32 about eight times, and each pass over 64 MB
allocates fresh memory. Here a piece of 256 rows stays in the processor's cache, all pieces use the
same memory, and only the logits and their gradient, in the logits' own type, exist in full.

The gradient of -log softmax(x)[target] is softmax(x), less 1 at the target. That of (log Z)^2, the
z-loss, is 2 log Z softmax(x). What this leaves out: fusing the output head as well, so that the
logits are never stored.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 256  # 64 and 1,024 make no difference beyond the noise (docs/experiment_log.md)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # autograd's class has no public type
        logits: Float[Tensor, "tokens vocab"],
        targets: Int[Tensor, " tokens"],
        z_loss: float,
    ) -> Float[Tensor, " tokens"]:
        dtype = _computing_dtype(logits)
        log_sums = logits.new_empty(len(logits), dtype=dtype)
        memory = _memory_of_a_piece(logits)
        for rows in _pieces(logits):
            largest = logits[rows].amax(-1, keepdim=True).to(dtype)
            piece = memory[: len(largest)]
            torch.sub(logits[rows], largest, out=piece).exp_()
            log_sums[rows] = piece.sum(-1).log_() + largest[:, 0]
        ctx.save_for_backward(logits, targets, log_sums)
        ctx.z_loss = z_loss
        losses = log_sums - logits.gather(-1, targets[:, None])[:, 0].to(dtype)
        return losses + z_loss * log_sums.square() if z_loss else losses

    @staticmethod
    def backward(
        ctx: Any, grad_losses: Float[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "tokens vocab"], None, None]:
        logits, targets, log_sums = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        memory = None if logits.dtype == log_sums.dtype else _memory_of_a_piece(logits)
        for rows in _pieces(logits):
            target = targets[rows, None]
            piece = grad_logits[rows] if memory is None else memory[: len(target)]
            torch.sub(logits[rows], log_sums[rows, None], out=piece).exp_()  # the probabilities
            if ctx.z_loss:
                piece.mul_(1 + 2 * ctx.z_loss * log_sums[rows, None])
            piece.scatter_add_(1, target, piece.new_full(target.shape, -1))
            piece.mul_(grad_losses[rows, None])
            if memory is not None:
                grad_logits[rows] = piece
        return grad_logits, None, None


def _pieces(logits: Float[Tensor, "tokens vocab"]) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, len(logits), ROWS)]


def _computing_dtype(logits: Float[Tensor, "tokens vocab"]) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _memory_of_a_piece(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "rows vocab"]:
    """Return one buffer for all pieces; allocating memory takes longer than the arithmetic that
    fills it.
    """
    rows = min(ROWS, len(logits))
    return logits.new_empty(rows, logits.shape[1], dtype=_computing_dtype(logits))


def fused_token_losses(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"], z_loss: float = 0.0
) -> Float[Tensor, "*batch"]:
    """Return the result of `training.loss.token_losses`: nats per token, in float32 (float64 for
    float64 logits).
    """
    flat = _TokenLosses.apply(logits.flatten(0, -2), targets.flatten(), z_loss)
    return flat.view(targets.shape)
