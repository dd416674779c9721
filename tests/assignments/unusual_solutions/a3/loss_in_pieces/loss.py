"""The loss in pieces of 100 tokens, by log_softmax; the sum is divided once."""

import torch
from torch import Tensor


def wide_type(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def losses_of_piece(logits: Tensor, targets: Tensor, z_loss: float) -> Tensor:
    logits = logits.to(wide_type(logits))
    log_p = logits.log_softmax(-1)
    chosen = torch.take_along_dim(log_p, targets[:, None], -1)[:, 0]
    # log Z is a logit less its log-probability; of the largest one, where neither is infinite
    largest, place = logits.max(-1)
    log_z = largest - torch.take_along_dim(log_p, place[:, None], -1)[:, 0]
    return z_loss * log_z**2 - chosen


def token_losses(logits: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
    if logits.numel() == 0 or targets.min() < 0 or targets.max() >= logits.shape[-1]:
        if targets.numel():
            raise IndexError("no such id")
        return logits.sum(-1).to(wide_type(logits))
    pieces = zip(logits.flatten(0, -2).split(100) if targets.ndim else [logits[None]],
                 targets.reshape(-1).split(100), strict=True)  # fmt: skip
    found = [losses_of_piece(each, ids, z_loss) for each, ids in pieces]
    return torch.cat(found).reshape(targets.shape)


def cross_entropy(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, z_loss: float = 0.0
) -> Tensor:
    losses = token_losses(logits, targets, z_loss).reshape(-1)
    weights = torch.ones_like(losses) if mask is None else mask.reshape(-1).to(losses.dtype)
    return losses @ weights / weights.double().sum().to(losses.dtype)
