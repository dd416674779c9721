"""Attention of texts with different numbers of tokens, one query at a time.

Nothing here imports the code under test. What this leaves out: the model around it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Sees = Callable[[int, int | None], range]


def attend_one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from one query [heads, head_dim] to the keys [keys, kv_heads, head_dim]."""
    grouped = q.double().unflatten(0, (keys.shape[1], -1))  # [kv_heads, group, head_dim]
    scores = torch.einsum("ghd,kgd->ghk", grouped, keys.double()) / math.sqrt(q.shape[1])
    result = torch.einsum("ghk,kgd->ghd", scores.softmax(-1), values.double())
    return result.flatten(0, 1).to(q.dtype)


class RaggedOracle:
    """Lists of the keys and values of each row, in each layer."""

    def __init__(self, num_layers: int, num_rows: int) -> None:
        self.stored: list[list[list[Any]]] = [
            [[] for _ in range(num_rows)] for _ in range(num_layers)
        ]
        self.lengths = [0] * num_rows

    def attend(
        self, rows: Sequence[int], counts: Sequence[int], sliding_window: int | None = None
    ) -> Attend:
        def attend_in_layer(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            token = 0
            for row, count in zip(rows, counts, strict=True):
                place = self.stored[layer][row]
                del place[self.lengths[row] :]
                new = slice(token, token + count)
                place += zip(k[new].clone(), v[new].clone(), strict=True)
                token += count
            return self.attended(layer, rows, counts, q, sliding_window)

        return attend_in_layer

    def attended(
        self,
        layer: int,
        rows: Sequence[int],
        counts: Sequence[int],
        q: Tensor,
        sliding_window: int | None,
        sees: Sees | None = None,
    ) -> Tensor:
        """Return what the last `counts` tokens of the rows see; `sees` (position, sliding window)
        -> positions is another rule than the right one.
        """
        results: list[Tensor] = []
        for row, count in zip(rows, counts, strict=True):
            place = self.stored[layer][row]
            keys, values = (torch.stack(part) for part in zip(*place, strict=True))
            for at in range(len(place) - count, len(place)):
                seen = (sees or seen_keys)(at, sliding_window)
                seen = [i for i in seen if 0 <= i < len(place)]
                results.append(attend_one(q[len(results)], keys[seen], values[seen]))
        return torch.stack(results)

    def advance(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count


def seen_keys(position: int, sliding_window: int | None) -> range:
    """Return the positions that a query at this position sees."""
    window = position + 1 if sliding_window is None else sliding_window
    return range(max(0, position - window + 1), position + 1)


def random_qkv(
    tokens: int, heads: tuple[int, int], head_dim: int, seed: int, dtype: torch.dtype
) -> list[Tensor]:
    """Return queries, keys and values of these tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(tokens, number, head_dim, generator=generator).to(dtype)
        for number in (heads[0], heads[1], heads[1])
    ]


def flat(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return the ids of all texts in one row, and the position of each in its text."""
    ids = [token for text in texts for token in text]
    return torch.tensor(ids), torch.tensor([at for text in texts for at in range(len(text))])
