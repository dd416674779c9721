"""Collectives that return their result, and the group's size; all of them also work alone.

Without `init_process_group`, a process is a group of one, and every collective returns its input.

PyTorch 2.13 renames `all_gather_into_tensor` and `reduce_scatter_tensor`; the older names, which
2.11 needs, would warn there.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None  # None: all processes
GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
SCATTER = (
    "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
)


class Finished:
    """The handle of a collective that did not need other processes."""

    def wait(self) -> None:
        """Return at once."""


def rank_and_size(group: Group = None) -> tuple[int, int]:
    """Return this process's rank in the group, and the number of processes."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def all_gather(shard: Tensor, group: Group = None) -> tuple[Tensor, Any]:
    """Return the shards [length] of all ranks in a row, [ranks * length], and a handle to wait for.

    The bytes are copied as they are, so the type may be any.
    """
    _, size = rank_and_size(group)
    if size == 1:
        return shard, Finished()
    gathered = shard.new_empty(size * shard.numel())
    # Looked up at each call, so that a test can count the calls.
    work = getattr(dist, GATHER)(
        gathered.view(torch.uint8), shard.view(torch.uint8), group=group, async_op=True
    )
    return gathered, work


def reduce_scatter(parts: Tensor, group: Group = None) -> tuple[Tensor, Any]:
    """Return the sum over ranks of row `rank` of `parts` [ranks, length], and a handle."""
    _, size = rank_and_size(group)
    if size == 1:
        return parts.view(-1), Finished()
    result = parts.new_empty(parts.shape[1])
    work = getattr(dist, SCATTER)(result, parts.view(-1), group=group, async_op=True)
    return result, work


def any_rank(flags: list[bool], device: torch.device, group: Group = None) -> list[bool]:
    """Return for each flag whether it is set on at least one rank; all ranks give as many flags."""
    if rank_and_size(group)[1] == 1 or not flags:
        return flags
    numbers = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=group)
    return [bool(number) for number in numbers.tolist()]


@torch.no_grad()
def broadcast_from_first(tensors: list[Tensor], group: Group = None) -> None:
    """Overwrite the tensors of every rank by those of the group's first rank, bit for bit."""
    if rank_and_size(group)[1] == 1:
        return
    for tensor in tensors:
        dense = tensor.detach().contiguous()  # a copy only if its values are not in a row
        row = dense.as_strided((dense.numel(),), (1,))  # one value alone may have any stride
        dist.broadcast(row.view(torch.uint8), group=group, group_src=0)
        if dense.data_ptr() != tensor.data_ptr():
            tensor.copy_(dense)


def same_ranks(group: Group) -> Group:
    """Return a second group of the same ranks."""
    if not dist.is_initialized():
        return None
    ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
    return dist.new_group(ranks, use_local_synchronization=group is not None)
