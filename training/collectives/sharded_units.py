"""The units of `FullySharded`: parameters that are gathered, freed and reduced together.

A unit does what it is told; training/fully_sharded.py decides when. Between shards and whole
parameters stands one autograd function, whose backward receives the gradients of a whole unit at
once, however often each parameter was used.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.collectives.flat_shards import ShardLayout
from training.collectives.group_operations import (
    Group,
    all_gather,
    rank_and_size,
    reduce_scatter,
)


class Unit:
    """Parameters of one module that are gathered, freed and reduced together: those of one type,
    all of them trained or all frozen.

    Attributes:
        owner: the module whose forward pass uses them.
        flat: this rank's shard of all of them; `shards` are views of it.
        stays: whether backward finds the unit as forward left it.
        gathered, whole: the shards of all ranks, on their way; the parameters put together.
        uses: forward passes whose gradient has not come yet.
        used: whether a forward pass of this step has used the unit on this rank.
        gradient: the sum of the gradients of this step, for all ranks [ranks, length].
        has_gradient: whether this rank has a gradient, by parameter.
        complete: whether no more gradient is expected.
    """

    def __init__(
        self,
        owner: nn.Module,
        places: dict[nn.Parameter, list[tuple[nn.Module, str]]],
        dtype: torch.dtype,
        group: Group,
    ) -> None:
        rank, size = rank_and_size(group)
        parameters = list(places)
        self.owner = owner
        self.group = group
        self.dtype = dtype
        self.trains = parameters[0].requires_grad
        self.stays = False
        self.layout = ShardLayout([p.shape for p in parameters], size)
        kept_dtype = _kept_dtype(parameters[0].dtype)
        self.flat = self.layout.cut([p.detach() for p in parameters], rank, kept_dtype)
        self.shards = [nn.Parameter(v, self.trains) for v in self.layout.views(self.flat)]
        self.places = list(places.values())
        self.gathered: Tensor | None = None
        self.whole: Tensor | None = None
        self.gathering: Any = None
        self.reducing: tuple[Tensor, Any] | None = None
        self.reduced: Tensor | None = None
        self.notify: Callable[[Unit], None] = lambda unit: None
        self.begin_step()
        self.place_shards()

    def begin_step(self) -> None:
        self.uses, self.used = 0, False
        self.gradient: Tensor | None = None
        self.has_gradient = [False] * len(self.shards)
        self.complete = False

    @torch.no_grad()
    def start_gather(self) -> None:
        self.gathered, self.gathering = all_gather(self.flat.to(self.dtype), self.group)

    @torch.no_grad()
    def wait(self) -> None:
        self.gathering.wait()
        self.whole = self.layout.join(self.gathered)
        self.gathered = self.gathering = None  # the handle, too, would keep the memory

    def free(self) -> None:
        if self.gathered is not None:
            self.gathering.wait()
        self.gathered = self.gathering = self.whole = None

    def place(self, counts: bool) -> None:
        """Let the modules see whole parameters, whose gradients come to `receive`."""
        self.uses += counts and self.trains and torch.is_grad_enabled()
        self.used |= counts
        self._put(_Use.apply(self, *self.shards))

    def place_shards(self) -> None:
        self._put(self.shards)

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for places, tensor in zip(self.places, tensors, strict=True):
            for module, name in places:
                module._parameters[name] = tensor

    @torch.no_grad()
    def receive(self, gradients: Iterable[Tensor | None]) -> None:
        """Add the gradients of one use; the last one frees the unit and starts its reduction."""
        if self.gradient is None:
            self.gradient = self.flat.new_zeros(self.layout.ranks, self.layout.length)
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                self.layout.add(self.gradient, index, dense)
                self.has_gradient[index] = True
        self.uses = max(0, self.uses - 1)
        if self.uses == 0:
            self.free()
            self.notify(self)

    @torch.no_grad()
    def start_reduce(self, group: Group) -> None:
        self.end_reduce()  # of an earlier backward pass in this step
        if self.gradient is None:  # not used on this rank
            self.gradient = self.flat.new_zeros(self.layout.ranks, self.layout.length)
        self.reducing = reduce_scatter(self.gradient, group)
        self.gradient = None

    @torch.no_grad()
    def end_reduce(self) -> None:
        if self.reducing is None:
            return
        (total, work), self.reducing = self.reducing, None
        work.wait()
        mean = total.div_(self.layout.ranks)
        self.reduced = mean if self.reduced is None else self.reduced.add_(mean)

    def write_gradients(self, present: list[bool]) -> None:
        for shard, part, here in zip(
            self.shards, self.layout.views(self.reduced), present, strict=True
        ):
            if here:
                shard.grad = part if shard.grad is None else shard.grad.add_(part)
        self.reduced = None


class _Use(torch.autograd.Function):
    """The step from shards to whole parameters, as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, unit: Unit, *shards: Tensor) -> tuple[Tensor, ...]:
        ctx.unit = unit
        ctx.set_materialize_grads(False)
        return tuple(unit.layout.tensors(unit.whole))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        ctx.unit.receive(gradients)
        return (None,) * (1 + len(gradients))


def divide(
    module: nn.Module, compute_dtype: torch.dtype | None, group: Group
) -> dict[nn.Module, list[Unit]]:
    """Return the units by the module whose forward pass uses them, the whole module first."""
    owner_of: dict[nn.Module, nn.Module] = {}
    owners = [module, *dict.fromkeys(_elements(module))]
    for owner in owners[1:]:
        for part in owner.modules():  # a part of two elements belongs to the whole module
            owner_of[part] = module if part in owner_of else owner
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((part, name))
    contents: dict[nn.Module, dict[Any, dict]] = {owner: {} for owner in owners}
    for parameter, where in places.items():
        users = {owner_of.get(part, module) for part, _ in where}
        owner = users.pop() if len(users) == 1 else module
        dtype = parameter.dtype
        if compute_dtype is not None and dtype.is_floating_point:
            dtype = compute_dtype
        kind = (dtype, _kept_dtype(parameter.dtype), parameter.requires_grad)
        contents[owner].setdefault(kind, {})[parameter] = where
    return {
        owner: [Unit(owner, kinds[kind], kind[0], group) for kind in kinds]
        for owner, kinds in contents.items()
        if kinds or owner is module
    }


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of the outermost lists of modules, and of lists in those lists."""
    lists = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
    for child in module.children():
        if isinstance(module, lists) and not isinstance(child, lists):
            yield child
        else:
            yield from _elements(child)


def _kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of a shard: float32 for shorter floating-point numbers."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
