"""A record of the collectives that a rank starts, in their order, beside other events of a check.

The functions of torch.distributed are replaced when this file is imported, which is before any code
under test is, so a name that it imports itself is recorded too. The record counts what a function
was called with; what this leaves out: messages between two ranks (`send`, `recv`).
"""

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

# The name in PyTorch, and the name in the record.
COLLECTIVES = {
    "all_reduce": "all_reduce",
    "all_reduce_coalesced": "all_reduce",
    "broadcast": "broadcast",
    "broadcast_object_list": "broadcast",
    "reduce": "reduce",
    "all_gather": "all_gather",
    "all_gather_coalesced": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "all_gather_single": "all_gather",
    "all_gather_object": "all_gather",
    "gather": "gather",
    "gather_object": "gather",
    "scatter": "scatter",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter_single": "reduce_scatter",
    "all_to_all": "all_to_all",
    "all_to_all_single": "all_to_all",
    "barrier": "barrier",
}


class Started(NamedTuple):
    """One collective.

    Attributes:
        kind: such as "all_reduce".
        values, dtype: number and type of the values of the whole: of the larger of two tensors.
        nbytes: of the whole.
        waits: whether the call returns only when the collective is over.
        of_all: whether it runs in the default group.
    """

    kind: str
    values: int
    dtype: str
    nbytes: int
    waits: bool
    of_all: bool

    def __str__(self) -> str:
        return f"{self.kind} of {self.values} {self.dtype} values" if self.values else self.kind


class Record:
    """The events on this rank.

    Attributes:
        events: collectives (`Started`), "wait" for the wait for one, and what a check adds.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.file = -1  # for the check's process, which may have to end this one
        self.depth = 0

    def begin(self, path: Path) -> None:
        """Record from here on."""
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def clear(self) -> None:
        self.events.clear()

    def started(self, kind: str = "") -> list[Started]:
        """Return the collectives so far; of one kind, if it is named."""
        found = [event for event in self.events if isinstance(event, Started)]
        return [event for event in found if kind in ("", event.kind)]

    def add(self, event: Started) -> None:
        self.events.append(event)
        os.write(self.file, f"{event}\n".encode())


RECORD = Record()


class RecordedWork:
    """The handle of a collective; a wait for it is an event."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self, *arguments: Any, **named: Any) -> Any:
        RECORD.events.append("wait")
        return self._work.wait(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _recorded(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @wraps(function)
    def start(*arguments: Any, **named: Any) -> Any:
        if RECORD.file < 0 or RECORD.depth:
            return function(*arguments, **named)
        tensors = list(_tensors([*arguments, *named.values()]))
        whole = max(tensors, key=lambda x: x.numel() * x.element_size(), default=None)
        waits = not named.get("async_op") and not any(each is True for each in arguments)
        groups = [x for x in (*arguments, *named.values()) if isinstance(x, dist.ProcessGroup)]
        of_all = not groups or groups[0] is dist.group.WORLD
        if whole is None:
            RECORD.add(Started(kind, 0, "", 0, waits, of_all))
        else:
            dtype = str(whole.dtype).removeprefix("torch.")
            size = whole.numel() * whole.element_size()
            RECORD.add(Started(kind, whole.numel(), dtype, size, waits, of_all))
        RECORD.depth += 1
        try:
            work = function(*arguments, **named)
        finally:
            RECORD.depth -= 1
        return work if work is None or waits else RecordedWork(work)

    return start


def _tensors(values: Sequence[Any]) -> Any:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def difference_of(collectives: list[list[str]], in_order: bool = True) -> str:
    """Return how the collectives of the ranks differ, as a sentence; "" if they do not.

    Args:
        collectives: of each rank.
        in_order: whether their order counts; collectives of two groups may overtake each other.
    """
    for rank, other in ((0, 1), (1, 0)):
        own, theirs = collectives[rank], collectives[other]
        if in_order and len(own) > len(theirs) and own[: len(theirs)] == theirs:
            return (
                f"rank {rank} waits for a collective that rank {other} never starts: its number "
                f"{len(theirs) + 1}, {own[len(theirs)]}"
            )
    pair = collectives if in_order else [sorted(each) for each in collectives]
    if pair[0] == pair[1]:
        return ""
    lengths = [len(each) for each in collectives]
    if lengths[0] != lengths[1]:
        return (
            f"rank 0 has started {lengths[0]} collectives and rank 1 {lengths[1]}; "
            f"{shown(collectives)}"
        )
    return f"the ranks' collectives do not match; {shown(collectives)}"


def shown(collectives: list[list[str]]) -> str:
    """Return the first collective of each rank that differs from the other's."""
    place = 0
    while all(place < len(each) for each in collectives) and (
        collectives[0][place] == collectives[1][place]
    ):
        place += 1
    words = [each[place] if place < len(each) else "missing" for each in collectives]
    return f"number {place + 1} is {words[0]} on rank 0 and {words[1]} on rank 1"


def _record_all() -> None:
    for name, kind in COLLECTIVES.items():
        if hasattr(dist, name):
            recorded = _recorded(getattr(dist, name), kind)
            for module in (dist, distributed_c10d):
                if hasattr(module, name):
                    setattr(module, name, recorded)


_record_all()
