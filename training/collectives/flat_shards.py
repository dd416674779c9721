"""The layout of several tensors that are divided among ranks: 1/N of each on every rank.

Each tensor is read as one row of numbers, filled up with zeros to a multiple of N, and cut into N
pieces of equal length. A rank's shard is one row: its piece of the first tensor, its piece of the
second, and so on. So one all-gather brings the shards of all ranks together as [N, length], and one
reduce-scatter of gradients in the same layout gives each rank the gradient of its shard.

    two tensors of 5 and 2 numbers, 2 ranks       [a b c d e], [f g]
    shard of rank 0: [a b c f]                    shard of rank 1: [d e 0 g]
"""

from math import prod

import torch
from torch import Tensor


class ShardLayout:
    """Where each tensor lies in a shard.

    Args:
        shapes: of the tensors, in order.
        ranks: number of pieces of each.

    Attributes:
        length: of one shard.
    """

    def __init__(self, shapes: list[torch.Size], ranks: int) -> None:
        self.shapes = shapes
        self.ranks = ranks
        self.sizes = [prod(shape) for shape in shapes]
        self.pieces = [-(-size // ranks) for size in self.sizes]  # rounded up
        self.length = sum(self.pieces)

    def cut(self, tensors: list[Tensor], rank: int, dtype: torch.dtype) -> Tensor:
        """Return the shard of one rank, a new row of numbers of type `dtype`."""
        rows = [
            self._padded(tensor, piece).view(self.ranks, piece)[rank]
            for tensor, piece in zip(tensors, self.pieces, strict=True)
        ]
        return torch.cat([row.to(dtype) for row in rows])

    def views(self, shard: Tensor) -> list[Tensor]:
        """Return each tensor's piece of a shard, without a copy.

        A piece has as many axes as its tensor, all but the last of length 1, so that a rule such as
        "decay matrices, not vectors" also works for pieces.
        """
        pieces = zip(shard.split(self.pieces), self.shapes, strict=True)
        return [piece.view([1] * (len(shape) - 1) + [-1]) for piece, shape in pieces]

    def join(self, gathered: Tensor) -> Tensor:
        """Return the tensors one after the other in one row, padded, from all shards in one row."""
        if len(self.pieces) == 1 or self.ranks == 1:
            return gathered  # already in this order
        joined = torch.empty_like(gathered)
        targets = [
            part.view(self.ranks, piece)
            for part, piece in zip(joined.split(self._padded_sizes()), self.pieces, strict=True)
        ]
        sources = gathered.view(self.ranks, self.length).split(self.pieces, dim=1)
        torch._foreach_copy_(targets, sources)
        return joined

    def tensors(self, joined: Tensor) -> list[Tensor]:
        """Return the tensors in their shapes, as views of what `join` returned."""
        parts = joined.split(self._padded_sizes())
        return [
            part[:size].view(shape)
            for part, size, shape in zip(parts, self.sizes, self.shapes, strict=True)
        ]

    def add(self, total: Tensor, index: int, tensor: Tensor) -> None:
        """Add a tensor to its place in `total` [ranks, length], the shards of all ranks."""
        piece, start = self.pieces[index], sum(self.pieces[:index])
        total[:, start : start + piece] += self._padded(tensor, piece).view(self.ranks, piece)

    def _padded(self, tensor: Tensor, piece: int) -> Tensor:
        row = tensor.reshape(-1)
        missing = piece * self.ranks - row.numel()
        return torch.cat([row, row.new_zeros(missing)]) if missing else row

    def _padded_sizes(self) -> list[int]:
        return [piece * self.ranks for piece in self.pieces]
