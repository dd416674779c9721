"""The loss: how surprised the model is by the actual next token, in nats and in bits per byte.

Bits per byte divides by the bytes of text rather than by tokens, so that models with different
tokenizers can be compared (Gao et al., 2020, section 3.1). The z-loss keeps the logits from
drifting: softmax ignores a constant added to all logits, so only this term pulls log Z, the
logarithm of their summed exponentials, to 0 (Chowdhery et al., 2022, section 5).

What this leaves out: label smoothing, and a loss that never stores all logits at once.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm_core.user_error import UserError


def token_losses(
    logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"], z_loss: float = 0.0
) -> Float[Tensor, "*batch"]:
    """Return -log softmax(logits)[target] of every token, in nats, in float32 (float64 for float64
    logits).

    It equals log Z - logits[target], where log Z = log(sum(exp(logits))). `logsumexp` subtracts the
    largest logit before it takes exponentials, so no probability is rounded to 0 and no exponential
    overflows.

    Args:
        logits: for each position, those of the token that follows it.
        targets: the tokens that do follow; an id outside the vocabulary is an error.
        z_loss: adds z_loss * (log Z)^2 to every token's loss; PaLM uses 1e-4.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    log_z = torch.logsumexp(logits, dim=-1)
    losses = log_z - chosen
    return losses + z_loss * log_z.square() if z_loss else losses


def cross_entropy(
    logits: Float[Tensor, "*batch vocab"],
    targets: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
    z_loss: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the mean loss per token, in nats.

    Args:
        logits: for each position, those of the token that follows it.
        targets: the tokens that do follow.
        mask: True for the tokens that count; None for all. The mean is over those tokens only.
        z_loss: adds the mean of z_loss * (log Z)^2 over the same tokens; see `token_losses`.

    A mask that leaves no token gives NaN. Reading the mask here would wait for the device at every
    step; batches are checked where they are made.
    """
    losses = token_losses(logits, targets, z_loss)
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
