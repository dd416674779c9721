"""Batches: the tokens that the model reads at each step.

`random_windows` is the short form: windows of an array that start anywhere. It may read one token
many times before another, and a resumed run needs the generator's state.

`WindowBatches` is what training uses. The shards form one long sequence of tokens, cut into windows
of context_length + 1 that overlap by one token: the last target of a window is the first input of
the next. An epoch reads every window once, in an order that depends only on (seed, epoch), so a
resumed run can ask for the batch of step 700 without any state. Tokens after the last whole window
are not trained on.

What this leaves out: keeping documents apart (packed_documents.py); a window may contain the end of
one and the start of the next, with END_OF_TEXT between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import derived_seed
from lm_core.user_error import UserError
from transformer_lm.token_id_check import check_token_ids


def random_windows(
    tokens: np.ndarray | Tensor,
    batch_size: int,
    context_length: int,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Return (x, y): windows of `tokens` that start anywhere, and the tokens one further.

    Args:
        tokens: one axis of integers of any type; of a memory map, only the windows are read.
        batch_size: number of windows. Their starts are drawn independently, from 0 to
            len(tokens) - context_length - 1.
        context_length: tokens in a window.
        device: of the result, which is int64.
        generator: on the CPU; PyTorch's global one by default.

    Raises:
        ValueError: there are fewer than context_length + 1 tokens; the message has both numbers.
    """
    num_starts = len(tokens) - context_length
    if num_starts < 1:
        raise UserError(
            f"{len(tokens)} tokens are less than one window of context_length + 1 = "
            f"{context_length + 1}; add text or lower context_length"
        )
    starts = torch.randint(num_starts, (batch_size,), generator=generator).tolist()
    windows = [_window(tokens, start, context_length + 1) for start in starts]
    x = torch.stack([window[:-1] for window in windows])
    y = torch.stack([window[1:] for window in windows])  # not a view of the memory of x
    return x.to(device), y.to(device)


def _window(tokens: np.ndarray | Tensor, start: int, count: int) -> Int[Tensor, " count"]:
    piece = tokens[start : start + count]
    if isinstance(piece, Tensor):
        return piece.to(torch.int64)
    return torch.from_numpy(np.asarray(piece).astype(np.int64))  # PyTorch has few unsigned types


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
    """Return 0 .. num_items - 1 in the order of one epoch, as int64: a pure function of (seed,
    epoch), and another one for each pair.
    """
    generator = np.random.Generator(np.random.PCG64(derived_seed(seed, "epoch", epoch)))
    return generator.permutation(num_items)


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
        """Return the item numbers of the batch of `step`, counted from 0. Any step can be asked for
        at any time: nothing is kept from the steps before.
        """
        first = step * self.batch_size
        positions = [divmod(first + i, self.num_items) for i in range(self.batch_size)]
        return [int(self._order(epoch)[position]) for epoch, position in positions]


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
        token_ids, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
        return Batch({"token_ids": token_ids, "targets": targets}, token_ids.numel())
