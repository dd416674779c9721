"""The loss: how surprised the model is by the token that came, in nats, and in bits per byte.

Bits per byte divides by the bytes of text rather than by tokens, so that models with different
tokenizers can be compared (Gao et al., 2020, section 3.1). What this leaves out: label smoothing,
and a loss that never holds the whole table of logits.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm_core.user_error import UserError


def token_losses(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """-log softmax(logits)[target] of every token, in nats, float32.

    It is log(sum(exp(logits))) - logits[target], and `logsumexp` takes the largest logit off before
    it raises anything to a power: no probability is ever rounded to 0 and no power overflows.
    """
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits, dim=-1) - chosen


def cross_entropy(
    logits: Float[Tensor, "*batch vocab"],
    targets: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """The mean loss per token, in nats.

    Args:
        logits: for each position, of the token that follows it.
        targets: the tokens that did follow.
        mask: True for the tokens that count; None for all. The mean is over those alone.

    Raises:
        ValueError: the mask leaves no token; a mean over nothing is no number.
    """
    losses = token_losses(logits, targets)
    if mask is None:
        return losses.mean()
    if not mask.any():
        raise UserError("the loss mask leaves no token to learn from; drop such examples")
    return (losses * mask).sum() / mask.sum()


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """The whole loss of a text, over its length in bytes: nats / ln 2 = bits.

    Raises:
        ValueError: there are no bytes.
    """
    if total_bytes <= 0:
        raise UserError(f"bits per byte of {total_bytes} bytes; the validation text is empty")
    return total_nats / math.log(2) / total_bytes
