"""Models for the functions that run on ranks, and a record of their collectives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.collectives.group_operations import GATHER, SCATTER


@dataclass
class Record:
    """Names of collectives and other events in the order of their start, and bytes sent.

    The bytes are those that one rank sends in a ring: (ranks - 1) / ranks of the whole for a gather
    or a reduce-scatter, twice that for an all-reduce.
    """

    events: list[str] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)

    def count(self, name: str) -> int:
        return sum(event == name for event in self.events)

    def add(self, name: str, sent: float) -> None:
        self.events.append(name)
        self.sent[name] = self.sent.get(name, 0) + sent


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def recorded(size: int) -> Iterator[Record]:
    """Record every collective of torch.distributed inside the block."""
    record = Record()
    share = (size - 1) / size
    # The name in torch, the name in the record, and the times that the whole is sent.
    table = [
        ("all_reduce", "all_reduce", 2),
        ("broadcast", "broadcast", 1),
        (GATHER, "all_gather", 1),
        (SCATTER, "reduce_scatter", 1),
    ]
    originals = {}

    def recording(name: str, shown: str, times: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            record.add(shown, times * share * max(map(nbytes, tensors)))
            return originals[name](*args, **kwargs)

        return call

    for name, shown, times in table:
        originals[name] = getattr(dist, name)
        setattr(dist, name, recording(name, shown, times))
    try:
        yield record
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def checksum(parameters: Any) -> float:
    """A number that differs if any weight differs."""
    return sum((p.detach().double() * (i + 1)).sum().item() for i, p in enumerate(parameters))


class OddModel(nn.Module):
    """Everything that a wrapper may get wrong: tied and frozen parameters, a module that is used
    only if asked, one that is never used, two types, a scalar, sizes that no number of ranks
    divides, a gradient whose values are not in a row, and buffers.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5, dtype=dtype)
        self.layers = nn.ModuleList(nn.Linear(5, 5, dtype=dtype) for _ in range(3))
        self.sometimes = nn.ModuleList([nn.Linear(5, 5, dtype=dtype)])
        self.never = nn.ModuleList([nn.Linear(5, 3, dtype=dtype)])
        self.frozen = nn.Linear(5, 5, dtype=dtype).requires_grad_(False)
        self.narrow = nn.Linear(5, 7, dtype=torch.float32)
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.wide = nn.Parameter(torch.randn(7, 5, dtype=dtype).t())  # [5, 7], columns in a row
        self.head = nn.Linear(5, 11, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight
        self.register_buffer("offset", torch.randn(5, dtype=dtype))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("counter", torch.tensor(0))

    def forward(self, ids: Tensor, sometimes: bool = True) -> Tensor:
        x = self.embedding(ids) + self.offset
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        if sometimes:
            x = x + self.sometimes[0](x)
        x = self.frozen(x) + (self.narrow(x.float()).to(x.dtype) @ self.wide.t()) * self.scale
        return self.head(x)


def token_loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
