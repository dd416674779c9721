"""Fully sharded data parallelism: each rank keeps 1/N of every parameter, gradient and optimizer
state, and has a whole block only while it computes with it.

1. Before a block's forward pass, an all-gather puts its parameters together; meanwhile the one for
   the next block is on its way. After the forward pass, the block is freed.
2. Backward gathers the blocks again, last to first. The whole gradient of a block is averaged and
   divided in one step, a reduce-scatter, and freed.
3. The optimizer sees only shards: small parameters with small gradients.

The units are the elements of the outermost `nn.ModuleList`s and `nn.Sequential`s, such as the
blocks of a transformer. All other parameters, and those that two units share (tied weights), form
the first unit, which is whole during the whole forward and backward pass.

With `compute_dtype=torch.bfloat16`, gathered copies are bfloat16 (half the bytes), while shards,
their gradients and all sums of gradients are float32: an update smaller than half a unit of
bfloat16 would be lost.

What this leaves out: a unit's parameters used outside its forward (`self.blocks[0].weight` in
another module); activation checkpointing of a part of a unit (checkpoint whole blocks); optimizers
that need whole matrices (Muon); a first pass that records the order in which units are used.

Rajbhandari et al., 2020 (ZeRO), section 5.3. Zhao et al., 2023 (PyTorch FSDP).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from training.collectives.group_operations import (
    Group,
    all_gather,
    any_rank,
    broadcast_from_first,
    rank_and_size,
    same_ranks,
)
from training.collectives.named_wrapper import NamedWrapper
from training.collectives.sharded_units import Unit, divide


class FullySharded(NamedWrapper):
    """A module of which this rank keeps 1/N.

    The parameters of rank 0 replace those of the others at the start. `parameters()` yields this
    rank's shards under the module's own names; give them to any optimizer that works element by
    element. Call `finish_gradient_synchronization` between backward and the optimizer's step; it
    adds to the shards' gradients, so you may call it after every micro-batch.

    Every rank must call forward and backward equally often. Inside, a rank may leave modules out:
    all ranks start the same collectives in the same order nevertheless. A gradient that is missing
    on some ranks counts as zero there; one that is missing on all stays None. Ranks that leave
    modules out must finish after each backward pass, and may use no unit twice in a forward pass.

    Args:
        module: any module, already on its device.
        compute_dtype: type of the gathered copies and of the inputs; None for the parameters' own.
        group: the ranks that share the module; None for all.
    """

    def __init__(
        self, module: nn.Module, compute_dtype: torch.dtype | None = None, group: Group = None
    ) -> None:
        super().__init__()
        self.module = module
        self._group = group
        self._size = rank_and_size(group)[1]
        # Reduce-scatters have a group of their own: each group's collectives then have one order,
        # whichever comes first on a rank, a gradient or the need for another block.
        self._reducing_group = same_ranks(group)
        self._compute_dtype = compute_dtype
        broadcast_from_first([*module.parameters(), *module.buffers()], group)
        self._units_of = divide(module, compute_dtype, group)
        self._units = [unit for units in self._units_of.values() for unit in units]
        last = list(self._units_of)[-1]
        for owner, units in self._units_of.items():
            for unit in units:
                unit.stays = owner in (module, last)  # backward begins with it: do not free it
                unit.notify = self._gradient_is_complete
            run = self._run_root if owner is module else partial(self._run, units)
            owner.forward = partial(run, owner.forward)
        self._regathered = [unit for unit in reversed(self._units) if not unit.stays]
        self._num_gathered = self._num_regathered = self._num_reduced = 0
        self._in_forward = False
        self._in_flight: Unit | None = None  # the last unit whose gradient was sent

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

    def _run_root(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of the whole module: one all-gather for each unit, in order."""
        if self._num_regathered:
            self._end_backward()
        self._in_forward, self._num_gathered = True, 0
        try:
            result = self._run(self._units_of[self.module], forward, *args, **kwargs)
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.requires_grad:
                    leaf.register_hook(self._begin_backward)
            return result
        except BaseException:
            for unit in self._units:
                unit.uses, unit.used = 0, False  # there will be no backward pass
            raise
        finally:
            self._gather_up_to(len(self._units))  # what this rank did not use, others did
            self._in_forward = False
            for unit in self._units:
                unit.free()
                unit.used &= unit.uses > 0 or torch.is_grad_enabled()

    def _run(
        self, units: list[Unit], forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Run the forward pass of one module with whole parameters."""
        for unit in units:
            self._make_whole(unit)
        kept = [unit for unit in units if not unit.stays]
        hooks = torch.autograd.graph.saved_tensors_hooks(
            partial(_without_parameters, kept), self._with_parameters
        )
        try:
            for unit in units:
                unit.place(counts=self._in_forward)
            args, kwargs = tree_map(self._cast, (args, kwargs))
            if not kept or _has_outer_hooks():  # such as those of an activation checkpoint
                return forward(*args, **kwargs)
            with hooks:
                return forward(*args, **kwargs)
        finally:
            for unit in units:
                unit.place_shards()
                if self._in_forward and not unit.stays:
                    unit.free()

    def _cast(self, value: Any) -> Any:
        if self._compute_dtype and isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self._compute_dtype)
        return value

    def _make_whole(self, unit: Unit) -> None:
        """Wait for the unit's all-gather, after starting it and the one that is needed next."""
        if unit.whole is not None:
            return
        if self._in_forward:
            self._gather_up_to(self._units.index(unit) + 2)
        elif unit in self._regathered:
            self._regather_up_to(self._regathered.index(unit) + 2)
        if unit.gathered is None:  # a second use: the unit has been freed since
            unit.start_gather()
        unit.wait()

    def _gather_up_to(self, number: int) -> None:
        for unit in self._units[self._num_gathered : number]:
            unit.start_gather()
        self._num_gathered = max(self._num_gathered, min(number, len(self._units)))

    def _regather_up_to(self, number: int) -> None:
        for unit in self._regathered[self._num_regathered : number]:
            unit.start_gather()
        self._num_regathered = max(self._num_regathered, min(number, len(self._regathered)))

    def _begin_backward(self, _: Tensor) -> None:
        """Start the first all-gather while backward computes with the last unit, which stayed."""
        self._regather_up_to(1)
        self._reduce_complete()

    def _end_backward(self) -> None:
        self._regather_up_to(len(self._regathered))
        self._num_regathered = 0
        for unit in self._units:
            unit.free()

    def _with_parameters(self, saved: Any) -> Tensor:
        """Return a tensor that `_without_parameters` replaced; called by backward."""
        if isinstance(saved, Tensor):
            return saved
        unit, *place = saved
        if unit.whole is None:
            for other in self._units:  # no gradient will come and free a frozen unit
                if not other.trains and other.owner is not unit.owner:
                    other.whole = None
            self._make_whole(unit)
        return unit.whole.as_strided(*place)

    def _gradient_is_complete(self, unit: Unit) -> None:
        unit.complete = True
        self._reduce_complete()

    def _reduce_complete(self) -> None:
        """Start the reduce-scatters that are due, in one order on all ranks; at once for units that
        this rank leaves out. All-gathers that another rank may need before it reduces come first.
        """
        for unit in self._trained_units()[self._num_reduced :]:
            if unit.used and not unit.complete:
                return
            if not unit.stays:
                self._regather_up_to(self._regathered.index(unit) + 2)
            self._reduce(unit)
            self._num_reduced += 1

    def _trained_units(self) -> list[Unit]:
        return [unit for unit in reversed(self._units) if unit.trains]

    def _reduce(self, unit: Unit) -> None:
        """Send one unit's gradient, then wait for the one sent before: two are held at most."""
        unit.start_reduce(self._reducing_group)
        if self._in_flight is not None:
            self._in_flight.end_reduce()
        self._in_flight = unit

    def finish_gradient_synchronization(self) -> None:
        """Wait until every shard's gradient has the mean over the ranks added; every rank must call
        it.
        """
        self._regather_up_to(len(self._regathered))  # others may wait for them: before any wait
        order = self._trained_units()
        for unit in order[self._num_reduced :]:
            self._reduce(unit)
        self._end_backward()
        # A few bytes more, so that all ranks take the same decisions: has any rank this gradient;
        # has any rank a gradient that came after its unit's reduce-scatter, in another backward?
        flags = [flag for unit in order for flag in unit.has_gradient]
        flags += [unit.gradient is not None for unit in order]
        device = order[0].flat.device if order else torch.device("cpu")
        common = iter(any_rank(flags, device, self._group))
        has_gradient = [[next(common) for _ in unit.shards] for unit in order]
        for unit in order:
            if next(common):
                self._reduce(unit)
        if self._in_flight is not None:
            self._in_flight.end_reduce()
        for unit, present in zip(order, has_gradient, strict=True):
            unit.write_gradients(present)
            unit.begin_step()
        self._num_reduced, self._in_flight = 0, None

    @torch.no_grad()
    def full_parameters(self) -> dict[str, Tensor]:
        """Return copies of the whole parameters by name; every rank must call it.

        They have the shards' type: float32 for a module in bfloat16. Tied weights have one name, as
        in `named_parameters`.
        """
        whole: dict[nn.Parameter, Tensor] = {}
        for unit in self._units:
            gathered, work = all_gather(unit.flat, self._group)
            work.wait()
            tensors = unit.layout.tensors(unit.layout.join(gathered))
            copies = [tensor.clone() for tensor in tensors]
            whole.update(zip(unit.shards, copies, strict=True))
        return {name: whole[shard] for name, shard in self.named_parameters()}

    def _apply(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("convert or move the module before it is sharded, not afterwards")


@torch.no_grad()
def clip_sharded_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, group: Group = None
) -> Tensor:
    """Scale the gradients of all ranks' shards by one factor, so that the norm of the whole
    gradient is at most `max_norm`.

    Each rank knows the squares of its own shards; the norm is the root of their sum over the ranks.
    A rank that clipped by its own norm would scale its shards differently from the others.

    Returns:
        The norm before clipping, the same on all ranks.
    """
    parameters = list(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.zeros((), dtype=torch.float64, device=parameters[0].device)
    for norm in torch._foreach_norm(gradients) if gradients else []:
        squares += norm.double() ** 2
    if rank_and_size(group)[1] > 1:
        dist.all_reduce(squares, group=group)
    norm = squares.sqrt()
    for gradient in gradients:
        gradient.mul_((max_norm / norm).clamp(max=1.0))
    return norm


def _without_parameters(units: list[Unit], tensor: Tensor) -> Any:
    """Return what autograd keeps in a tensor's place: for a part of a unit, only where it lies."""
    storage = tensor.untyped_storage().data_ptr()
    for unit in units:
        same = unit.whole is not None and unit.whole.untyped_storage().data_ptr() == storage
        if same and unit.whole.dtype == tensor.dtype:
            return unit, tensor.size(), tensor.stride(), tensor.storage_offset()
    return tensor


def _has_outer_hooks() -> bool:
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
