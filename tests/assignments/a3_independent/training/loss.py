"""Cross-entropy with z-loss, and bits per byte: the loss from a shift by the largest logit."""

import math

import torch
from torch import Tensor


def _check_ids(targets: Tensor, vocab_size: int) -> None:
    if targets.numel() and (targets.min() < 0 or targets.max() >= vocab_size):
        raise IndexError(f"a target lies outside the vocabulary of {vocab_size}")


def token_losses(logits: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
    """The negative log-probability of each target, in nats, plus z_loss times log Z squared."""
    vocab_size = logits.shape[-1]
    _check_ids(targets, vocab_size)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest = wide.detach().amax(-1, keepdim=True)
    shifted = wide - largest
    log_sum = shifted.exp().sum(-1).log()
    places = torch.arange(targets.numel(), device=targets.device)
    chosen = shifted.reshape(-1, vocab_size)[places, targets.reshape(-1)].reshape(targets.shape)
    log_z = log_sum + largest.squeeze(-1)
    return log_sum - chosen + z_loss * log_z * log_z


def cross_entropy(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, z_loss: float = 0.0
) -> Tensor:
    """The mean loss of the tokens that count."""
    _check_ids(targets, logits.shape[-1])
    if mask is not None:
        logits, targets = logits[mask], targets[mask]
    if targets.numel() == 0:
        return (logits.sum() * math.nan).to(torch.promote_types(logits.dtype, torch.float32))
    return token_losses(logits, targets, z_loss).mean()


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Nats to bits, by the bytes of the text."""
    if total_bytes < 1:
        raise ValueError(f"a text of {total_bytes} bytes has no bits per byte")
    return total_nats * math.log2(math.e) / total_bytes
