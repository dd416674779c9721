"""Attention of texts with different numbers of tokens, one query at a time.

Nothing here imports the code under test. What this leaves out: the model around it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def attend_one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from one query [heads, head_dim] to the keys [keys, kv_heads, head_dim]."""
    group_size = q.shape[0] // keys.shape[1]
    results = []
    for head, query in enumerate(q.double()):
        own = head // group_size
        weights = (keys[:, own].double() @ query / math.sqrt(len(query))).softmax(0)
        results.append(weights @ values[:, own].double())
    return torch.stack(results).to(q.dtype)


class RaggedOracle:
    """Lists of the keys and values of each row, in each layer.

    Args:
        num_layers, num_rows: their numbers.
        sees: changes which of a row's keys a query at a position sees, for a mistake: (position,
            sliding window) -> range of positions.
    """

    def __init__(
        self,
        num_layers: int,
        num_rows: int,
        sees: Callable[[int, int | None], range] | None = None,
    ) -> None:
        self.stored: list[list[list[Any]]] = [
            [[] for _ in range(num_rows)] for _ in range(num_layers)
        ]
        self.lengths = [0] * num_rows
        self.sees = sees or seen_keys

    def attend(
        self, rows: Sequence[int], counts: Sequence[int], sliding_window: int | None = None
    ) -> Attend:
        def attend_in_layer(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            results, token = [], 0
            for row, count in zip(rows, counts, strict=True):
                place = self.stored[layer][row]
                del place[self.lengths[row] :]
                for _ in range(count):
                    place.append((k[token].clone(), v[token].clone()))
                    token += 1
                keys, values = (torch.stack(part) for part in zip(*place, strict=True))
                for at in range(len(place) - count, len(place)):
                    seen = [i for i in self.sees(at, sliding_window) if 0 <= i < len(place)]
                    results.append(attend_one(q[len(results)], keys[seen], values[seen]))
            return torch.stack(results)

        return attend_in_layer

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
