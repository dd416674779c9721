"""The loss: how surprised the model is by the actual next token, in nats and in bits per byte.

Bits per byte divides by the bytes of text rather than by tokens, so that models with different
tokenizers can be compared (Gao et al., 2020, section 3.1).

What this leaves out: label smoothing, and a loss that never stores all logits at once.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm_core.user_error import UserError


def token_losses(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Return -log softmax(logits)[target] of every token, in nats, float32.

    It equals log(sum(exp(logits))) - logits[target]. `logsumexp` subtracts the largest logit before
    it takes exponentials, so no probability is rounded to 0 and no exponential overflows.
    """
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits, dim=-1) - chosen


def cross_entropy(
    logits: Float[Tensor, "*batch vocab"],
    targets: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean loss per token, in nats.

    Args:
        logits: for each position, those of the token that follows it.
        targets: the tokens that do follow.
        mask: True for the tokens that count; None for all. The mean is over those tokens only.

    A mask that leaves no token gives NaN. Reading the mask here would wait for the device at every
    step; batches are checked where they are made.
    """
    losses = token_losses(logits, targets)
    if mask is None:
        return losses.mean()
    return (losses * mask).sum() / mask.sum()


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Return the total loss of a text in bits (nats / ln 2), divided by its length in bytes.

    Raises:
        ValueError: there are no bytes.
    """
    if total_bytes <= 0:
        raise UserError(f"no bits per byte for {total_bytes} bytes; the validation text is empty")
    return total_nats / math.log(2) / total_bytes
