"""Validation: bits per byte on held-out text.

Every token except the very first is predicted exactly once, from the tokens of its own window.
Windows do not slide, so a token at the start of a window has little context, and the figure is
slightly higher than with a sliding window.

What this leaves out: the slower evaluation with a sliding window.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lm_core.formats.token_shards import TokenShards
from lm_core.user_error import UserError
from training.engine.fused_loss import fused_token_losses
from training.engine.parallelism import OneProcess, Parallelism
from training.loss import bits_per_byte
from transformer_lm.token_id_check import check_token_ids


@dataclass(frozen=True)
class ValidationResult:
    """The loss over a text.

    Attributes:
        bits_per_byte: the total loss, END_OF_TEXT tokens included, divided by the bytes of the
            text.
        nats_per_token: the mean loss; its exponential is the perplexity.
        num_tokens: number of predicted tokens.
        num_bytes: number of bytes that those tokens stand for.
    """

    bits_per_byte: float
    nats_per_token: float
    num_tokens: int
    num_bytes: int

    @property
    def perplexity(self) -> float:
        """Return exp(nats per token), which depends on the tokenizer, unlike bits per byte."""
        return math.exp(self.nats_per_token)


def validation_windows(
    num_tokens: int, context_length: int, batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """Return batches of (start, count): inputs start .. start + count - 1, targets one further.

    All windows of a batch have the same count; a shorter last window gets a separate batch.
    """
    full = (num_tokens - 1) // context_length
    windows = [(index * context_length, context_length) for index in range(full)]
    for first in range(0, full, batch_size):
        yield windows[first : first + batch_size]
    rest = num_tokens - 1 - full * context_length
    if rest:
        yield [(full * context_length, rest)]


@torch.no_grad()
def evaluate_bits_per_byte(
    model: nn.Module,
    shards: TokenShards,
    context_length: int,
    batch_size: int = 16,
    max_tokens: int | None = None,
    parallelism: Parallelism | None = None,
) -> ValidationResult:
    """Predict the text of `shards`, in order, in float32 or in the caller's autocast.

    Args:
        model: token ids [batch, seq] -> logits [batch, seq, vocab]; switched to eval mode during
            the call.
        shards: the validation split.
        context_length: number of tokens in a window.
        batch_size: windows per batch; changes the speed, and the result only by rounding.
        max_tokens: number of tokens to read from the start; None for all.
        parallelism: the ranks among which the batches are divided; all return the whole result.

    Raises:
        ValueError: there is nothing to predict, or an id is outside the shards' vocabulary.
    """
    num_tokens = min(shards.num_tokens, max_tokens or shards.num_tokens)
    if num_tokens < 2:
        raise UserError(
            f"{shards.folder}: {shards.split} holds {num_tokens} tokens, at least 2 are needed; "
            "add text"
        )
    byte_lengths = shards.token_byte_lengths
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parallelism = parallelism or OneProcess()
    total_nats, total_bytes = 0.0, 0
    batches = list(validation_windows(num_tokens, context_length, batch_size))
    for windows, counts in own_batches(batches, parallelism.data_rank, parallelism.data_ranks):
        tokens = np.stack([shards.read(start, count + 1) for start, count in windows])
        token_ids = torch.from_numpy(tokens)
        check_token_ids(token_ids, len(byte_lengths))  # before they are moved to a GPU
        nats = _sum_of_losses(model, token_ids.to(device))
        if counts:
            total_nats += nats
            total_bytes += int(byte_lengths[tokens[:, 1:]].sum())
    total_nats, total_bytes = parallelism.sums([total_nats, total_bytes])
    model.train(was_training)
    predicted = num_tokens - 1
    nats_per_token = total_nats / predicted
    return ValidationResult(
        bits_per_byte(total_nats, total_bytes), nats_per_token, predicted, int(total_bytes)
    )


def own_batches(batches: list[Any], rank: int, ranks: int) -> Iterator[tuple[Any, bool]]:
    """Return every `ranks`-th batch, from number `rank` on, each with whether it counts.

    All ranks get equally many, since ranks that divide the weights compute together: one that has
    no batch left repeats the last, which does not count.
    """
    for first in range(0, len(batches), ranks):
        number = first + rank
        yield batches[min(number, len(batches) - 1)], number < len(batches)


def _sum_of_losses(model: nn.Module, tokens: Tensor) -> float:
    """Return the nats of a batch of windows, summed in float64, as there can be millions of
    them.
    """
    losses = fused_token_losses(model(tokens[:, :-1]), tokens[:, 1:])
    return losses.cpu().double().sum().item()  # MPS has no float64
