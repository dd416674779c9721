"""Solution of task 7 of a3, written from the handout alone, another way than the reference's.

What is not a task's comes from the stub.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lm_core.formats.token_shards import TokenShards
from lm_core.user_error import UserError
from transformer_lm.token_id_check import check_token_ids


def random_windows(
    tokens: np.ndarray | Tensor,
    batch_size: int,
    context_length: int,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (x, y): windows of `tokens` that start anywhere, and the tokens one further.

    Args:
        tokens: one axis of integers of any type; of a memory map, only the windows are read.
        batch_size: number of windows. Their starts are drawn independently, from 0 to
            len(tokens) - context_length - 1.
        context_length: tokens in a window.
        device: of the result, which is int64.
        generator: on the CPU; PyTorch's global one by default.

    Raises:
        ValueError: there are fewer than context_length + 1 tokens.
    """
    count = len(tokens) - context_length
    if count <= 0:
        raise ValueError(f"{len(tokens)} tokens, but a window needs {context_length + 1}")
    x = torch.empty(batch_size, context_length, dtype=torch.int64)
    y = torch.empty_like(x)
    for row in range(batch_size):
        start = int(torch.randint(0, count, (1,), generator=generator))
        window = [int(token) for token in tokens[start : start + context_length + 1]]
        x[row], y[row] = torch.tensor(window[:-1]), torch.tensor(window[1:])
    return x.to(device), y.to(device)


@dataclass(frozen=True)
class Batch:
    """The data of one training step.

    Attributes:
        tensors: by name; a language-model batch has "token_ids" and "targets", int64 of shape
            [batch, seq]. A loss function may need others.
        num_tokens: number of tokens that the model reads, for tokens/s and the log.
    """

    tensors: Mapping[str, Tensor]
    num_tokens: int

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; a GPU copies it while it computes, without blocking."""
        tensors = self.tensors
        if device.type == "cuda":  # asynchronous copies need pinned memory
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return Batch(moved, self.num_tokens)

    def split(self, parts: int) -> Sequence["Batch"]:
        """Return up to `parts` batches, each with some rows of every tensor.

        Their num_tokens are shares by rows, not counts.
        """
        pieces = [tensor.tensor_split(parts) for tensor in self.tensors.values()]
        num_rows = sum(len(rows) for rows in pieces[0])
        return [
            Batch(
                dict(zip(self.tensors, rows, strict=True)),
                self.num_tokens * len(rows[0]) // num_rows,
            )
            for rows in zip(*pieces, strict=True)
            if len(rows[0])
        ]

    def check_ids(self, vocab_size: int) -> None:
        """Raise ValueError for ids outside the model's vocabulary; call this before moving the
        batch.
        """
        for name in ("token_ids", "targets"):
            if name in self.tensors:
                check_token_ids(self.tensors[name], vocab_size)


def epoch_order(num_items: int, seed: int, epoch: int) -> np.ndarray:
    """Return 0 .. num_items - 1 in the order of one epoch: a pure function of (seed, epoch)."""
    text = f"epoch {epoch} of seed {seed}".encode()
    number = int.from_bytes(hashlib.sha256(text).digest(), "big")
    keys = np.random.default_rng(number).random(num_items)
    return np.argsort(keys).astype(np.int64)


class EpochSampler:
    """Chooses the items of each step's batch; every epoch contains every item once.

    Args:
        num_items: number of windows or examples.
        batch_size: items per step; a batch may span the end of one epoch and the start of the next.
        seed: decides the order.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        assert num_items > 0, "there must be at least one item to draw from"
        self.num_items = num_items
        self.batch_size = batch_size
        # A batch can span two epochs; the cache avoids computing an order of millions of items at
        # every step.
        self._order = lru_cache(maxsize=2)(lambda epoch: epoch_order(num_items, seed, epoch))

    def indices_at(self, step: int) -> list[int]:
        """Return the item numbers of the batch of `step`, counted from 0."""
        found: list[int] = []
        epoch, place = divmod(step * self.batch_size, self.num_items)
        while len(found) < self.batch_size:
            missing = self.batch_size - len(found)
            found += self._order(epoch)[place : place + missing].tolist()
            epoch, place = epoch + 1, 0
        return found


class WindowBatches:
    """Language-model batches from token shards.

    Args:
        shards: the training split.
        context_length: number of tokens that the model reads at once.
        batch_size: windows per step.
        seed: decides the order of the windows.

    Raises:
        ValueError: the shards contain less than one window.
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
                f"context_length + 1 = {context_length + 1}; add text or lower context_length"
            )
        self.sampler = EpochSampler(self.num_windows, batch_size, seed)

    def batch_at(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        starts = [index * self.context_length for index in self.sampler.indices_at(step)]
        windows = np.stack([self.shards.read(start, self.context_length + 1) for start in starts])
        tokens = torch.from_numpy(windows)  # [batch, context_length + 1]
        token_ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return Batch({"token_ids": token_ids, "targets": targets}, token_ids.numel())
