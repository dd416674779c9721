"""Batches: which tokens the model reads at which step.

The shards are one long row of tokens, cut into windows of context_length + 1 that overlap by one
token: the last target of a window is the first input of the next. An epoch is every window once, in
an order that only (seed, epoch) decides, so a resumed run asks for the batch of step 700 and needs
no state. What this leaves out: packing that keeps documents apart; a window may hold the end of one
and the start of the next, with END_OF_TEXT between them. The tokens past the last whole window are
not trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import derived_seed
from lm_core.user_error import UserError
from transformer_lm.token_id_check import check_token_ids


@dataclass(frozen=True)
class Batch:
    """What one training step reads.

    Attributes:
        tensors: by name; a language-model batch has "token_ids" and "targets", int64 of shape
            [batch, seq]. A loss function may ask for others.
        num_tokens: tokens that the model reads, for tokens/s and the log.
    """

    tensors: Mapping[str, Tensor]
    num_tokens: int

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`; a GPU fetches it while it computes, and nobody waits."""
        tensors = self.tensors
        if device.type == "cuda":  # it copies from pinned memory by itself
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return Batch(moved, self.num_tokens)

    def check_ids(self, vocab_size: int) -> None:
        """Raise ValueError for ids that the model has no row for; before the batch is moved."""
        for name in ("token_ids", "targets"):
            if name in self.tensors:
                check_token_ids(self.tensors[name], vocab_size)


def epoch_order(num_items: int, seed: int, epoch: int) -> np.ndarray:
    """0 .. num_items - 1 in the order of one epoch: a pure function of (seed, epoch)."""
    generator = np.random.Generator(np.random.PCG64(derived_seed(seed, "epoch", epoch)))
    return generator.permutation(num_items)


class EpochSampler:
    """Which items make up the batch of a step, where every epoch is every item once.

    Args:
        num_items: windows, or examples.
        batch_size: items a step; a batch may hold the end of one epoch and the start of the next.
        seed: of the order.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        assert num_items > 0, "there must be something to draw from"
        self.num_items = num_items
        self.batch_size = batch_size
        # Two epochs can meet in a batch; the order of millions of items is not made twice a step.
        self._order = lru_cache(maxsize=2)(lambda epoch: epoch_order(num_items, seed, epoch))

    def indices_at(self, step: int) -> list[int]:
        """Item numbers of the batch of `step`, counted from 0."""
        first = step * self.batch_size
        positions = [divmod(first + i, self.num_items) for i in range(self.batch_size)]
        return [int(self._order(epoch)[position]) for epoch, position in positions]


class WindowBatches:
    """Language-model batches from token shards.

    Args:
        shards: the training split.
        context_length: tokens that the model reads at once.
        batch_size: windows a step.
        seed: of the order of the windows.

    Raises:
        ValueError: the shards hold less than one window.
    """

    def __init__(
        self, shards: TokenShards, context_length: int, batch_size: int, seed: int
    ) -> None:
        self.shards = shards
        self.context_length = context_length
        self.num_windows = (shards.num_tokens - 1) // context_length
        if self.num_windows < 1:
            raise UserError(
                f"{shards.folder}: {shards.num_tokens} tokens are less than one window of "
                f"context_length + 1 = {context_length + 1}; give more text or a shorter context"
            )
        self.sampler = EpochSampler(self.num_windows, batch_size, seed)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        starts = [index * self.context_length for index in self.sampler.indices_at(step)]
        windows = np.stack([self.shards.read(start, self.context_length + 1) for start in starts])
        tokens = torch.from_numpy(windows)  # [batch, context_length + 1]
        token_ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return Batch({"token_ids": token_ids, "targets": targets}, token_ids.numel())
