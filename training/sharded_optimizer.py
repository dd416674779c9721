"""The optimizer's state shared out over the ranks (ZeRO, stage 1).

AdamW keeps two float32 numbers for each parameter, as much as weights and gradients together. With
data parallelism, all ranks would keep the same ones. Here each parameter has one owner, which alone
holds its state and updates it, and then sends the new weights to the others.

A parameter stays whole, because some optimizers look at the whole matrix (Muon). So the state is
balanced only if no parameter is larger than 1/N of the model; `FullySharded` divides every
parameter.

What this leaves out: gradients that reach only their owner (ZeRO-2), and closures that the
optimizer calls more than once (L-BFGS).

Rajbhandari et al., 2020 (ZeRO), section 5.1.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.collectives.group_operations import Group, rank_and_size


class ShardedOptimizer(torch.optim.Optimizer):
    """Any PyTorch optimizer, of which each rank runs the part for the parameters that it owns.

    `param_groups` has all parameters, so schedulers, clipping and `zero_grad` work as usual;
    `state` has this rank's own. Gradients must be the same on all ranks: average them before
    (`DataParallel`).

    Args:
        params: parameters or groups of them, as for any optimizer; the same on all ranks.
        optimizer_class: such as torch.optim.AdamW.
        process_group: the ranks among which the state is shared; None for all.
        kwargs: passed on to `optimizer_class`.
    """

    def __init__(
        self,
        params: Any,
        optimizer_class: type[torch.optim.Optimizer],
        process_group: Group = None,
        **kwargs: Any,
    ) -> None:
        self._group = process_group
        self._rank, self._size = rank_and_size(process_group)
        self._owner: dict[nn.Parameter, int] = {}
        self._bytes_owned = [0] * self._size
        self._make_local = lambda groups: optimizer_class(groups, **kwargs)
        self._local: torch.optim.Optimizer | None = None  # of this rank's own parameters
        super().__init__(params, {})
        self.defaults = self._local.defaults
        self.state = self._local.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, and choose an owner for each of its parameters.

        The largest parameters are given away first, each to the rank that owns the fewest bytes so
        far. Every rank computes the same owners.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for parameter in sorted(group["params"], key=_trained_bytes, reverse=True):
            owner = self._bytes_owned.index(min(self._bytes_owned))
            self._owner[parameter] = owner
            self._bytes_owned[owner] += _trained_bytes(parameter)
        own = {**_settings(group), "params": self._own(group)}
        if self._local is None:
            self._local = self._make_local([own])
        else:
            self._local.add_param_group(own)
        for name, value in _settings(self._local.param_groups[-1]).items():
            group.setdefault(name, value)  # the defaults of the optimizer, such as betas

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update this rank's own parameters, then exchange the results.

        Args:
            closure: computes the loss anew, and averages its gradients; called once, on all ranks.

        Returns:
            The closure's result; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, own in zip(self.param_groups, self._local.param_groups, strict=True):
            own.update(_settings(group))  # a scheduler changes the learning rate in ours
        self._local.step()
        for group, own in zip(self.param_groups, self._local.param_groups, strict=True):
            group.update(_settings(own))
        self._exchange()
        return loss

    def _exchange(self) -> None:
        """Send every parameter from its owner to all; no sending waits for the one before.

        PyTorch's optimizers also update a frozen parameter that still has a gradient.
        """
        if self._size == 1:
            return
        sent = []
        for parameter, owner in self._owner.items():
            if parameter.requires_grad or parameter.grad is not None:
                dense = parameter.detach().contiguous()  # a copy only if values are not in a row
                work = dist.broadcast(dense, group=self._group, group_src=owner, async_op=True)
                sent.append((parameter, dense, work))
        for parameter, dense, work in sent:
            work.wait()
            if dense.data_ptr() != parameter.data_ptr():
                parameter.copy_(dense)

    def full_state_dict(self) -> dict[str, Any]:
        """Return the state of all ranks together, as the optimizer without sharding has it; every
        rank must call it.
        """
        whole = self.state_dict()
        if self._size > 1:
            parts: list[Any] = [None] * self._size
            dist.all_gather_object(parts, whole["state"], group=self._group)
            whole["state"] = {index: state for part in parts for index, state in part.items()}
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this rank's own part of what `state_dict` or `full_state_dict` returned; the latter
        may come from another number of ranks.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        own = {
            index: state
            for index, state in state_dict["state"].items()
            if self._owner[parameters[index]] == self._rank
        }
        super().load_state_dict({**state_dict, "state": own})
        self._local.state = self.state

    def _own(self, group: dict[str, Any]) -> list[nn.Parameter]:
        return [p for p in group["params"] if self._owner[p] == self._rank]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


def _trained_bytes(parameter: Tensor) -> int:
    """Return the bytes of a parameter that has a state."""
    return parameter.numel() * parameter.element_size() * parameter.requires_grad
