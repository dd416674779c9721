"""An independent solution of a3.15, written from the handout alone: a list of what is still to come
takes the place of counters.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from training.collectives.group_operations import all_gather, any_rank, broadcast_from_first
from training.collectives.sharded_units import divide


class FullySharded(nn.Module):
    def __init__(self, module, compute_dtype=None, group=None):
        super().__init__()
        self.module, self.group, self.compute_dtype = module, group, compute_dtype
        self.second_group = None
        if dist.is_initialized():
            ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
            self.second_group = dist.new_group(ranks, use_local_synchronization=group is not None)
        broadcast_from_first([*module.parameters(), *module.buffers()], group)
        owners = divide(module, compute_dtype, group)
        self.units = [unit for units in owners.values() for unit in units]
        self.freed_units = []
        for owner, units in owners.items():
            stays = owner is module or owner is list(owners)[-1]
            for unit in units:
                unit.stays = stays
                unit.notify = self.complete
                if not stays:
                    self.freed_units.insert(0, unit)
            inner = partial(self.run, units, owner.forward)
            owner.forward = partial(self.run_all, inner) if owner is module else inner
        self.trained = [unit for unit in reversed(self.units) if unit.trains]
        self.inside = False
        self.to_gather, self.to_regather = [], []
        self.to_reduce, self.sent = list(self.trained), []

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def gather_through(self, waiting, unit, ahead):
        """Start those at the head of the list up to `unit`, and one more."""
        if unit is None or unit in waiting:
            number = len(waiting) if unit is None else waiting.index(unit) + 1
            for each in waiting[:number]:
                each.start_gather()
            del waiting[:number]
        if (
            ahead
            and waiting
            and not any(u.gathered is not None for u in self.units if u is not unit)
        ):
            waiting.pop(0).start_gather()

    def end_backward(self):
        self.gather_through(self.to_regather, None, False)
        for unit in self.units:
            unit.free()

    def run_all(self, inner, *args, **kwargs):
        if self.to_regather and len(self.to_regather) < len(self.freed_units):
            self.end_backward()
        self.inside, self.to_gather = True, list(self.units)
        self.to_regather = []
        try:
            result = inner(*args, **kwargs)
        except BaseException:
            for unit in self.units:
                unit.uses, unit.used = 0, False
            raise
        finally:
            self.gather_through(self.to_gather, None, False)
            self.inside = False
            for unit in self.units:
                unit.free()
                if not torch.is_grad_enabled() and unit.uses == 0:
                    unit.used = False
        self.to_regather = list(self.freed_units) if torch.is_grad_enabled() else []
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                leaf.register_hook(self.backward_begins)
        return result

    def backward_begins(self, _):
        if len(self.to_regather) == len(self.freed_units):
            self.gather_through(
                self.to_regather, None if not self.freed_units else self.freed_units[0], False
            )
        self.send_complete()

    def make_whole(self, unit):
        if unit.whole is None:
            self.gather_through(self.to_gather if self.inside else self.to_regather, unit, True)
            if unit.gathered is None:
                unit.start_gather()
            unit.wait()

    def run(self, units, forward, *args, **kwargs):
        for unit in units:
            self.make_whole(unit)
        for unit in units:
            unit.place(counts=self.inside)
        freed = [unit for unit in units if not unit.stays]

        def pack(x):
            for unit in freed:
                if unit.whole is None or unit.whole.dtype != x.dtype:
                    continue
                if unit.whole.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
                    return unit, x.size(), x.stride(), x.storage_offset()
            return x

        def unpack(kept):
            if isinstance(kept, torch.Tensor):
                return kept
            unit, *place = kept
            if unit.whole is None:
                for other in self.units:
                    if not other.trains and other.owner is not unit.owner:
                        other.whole = None
                self.make_whole(unit)
            return unit.whole.as_strided(*place)

        def cast(x):
            narrow = self.compute_dtype and isinstance(x, torch.Tensor) and x.is_floating_point()
            return x.to(self.compute_dtype) if narrow else x

        args, kwargs = tree_map(cast, (args, kwargs))
        try:
            if not freed:
                return forward(*args, **kwargs)
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                return forward(*args, **kwargs)
        finally:
            for unit in units:
                unit.place_shards()
                if self.inside and not unit.stays:
                    unit.free()

    def complete(self, unit):
        unit.complete = True
        self.send_complete()

    def send_complete(self):
        while self.to_reduce and (self.to_reduce[0].complete or not self.to_reduce[0].used):
            unit = self.to_reduce.pop(0)
            if unit in self.freed_units:
                place = self.freed_units.index(unit)
                for other in self.freed_units[: place + 2]:
                    if other in self.to_regather:
                        self.to_regather.remove(other)
                        other.start_gather()
            self.reduce(unit)

    def reduce(self, unit):
        unit.start_reduce(self.second_group)
        for other in self.sent:
            if other is not unit:
                other.end_reduce()
        self.sent = [unit]

    def finish_gradient_synchronization(self):
        self.gather_through(self.to_regather, None, False)
        while self.to_reduce:
            self.reduce(self.to_reduce.pop(0))
        self.end_backward()
        flags = [unit.gradient is not None for unit in self.trained]
        for unit in self.trained:
            flags += unit.has_gradient
        flags = any_rank(flags, torch.device("cpu"), self.group)
        for unit, again in zip(self.trained, flags, strict=False):
            if again:
                self.reduce(unit)
        place = len(self.trained)
        for unit in self.trained:
            unit.end_reduce()
            unit.write_gradients(flags[place : place + len(unit.shards)])
            place += len(unit.shards)
            unit.begin_step()
        self.to_reduce, self.sent = list(self.trained), []

    @torch.no_grad()
    def full_parameters(self):
        found = {}
        for unit in self.units:
            row, work = all_gather(unit.flat, self.group)
            work.wait()
            for shard, tensor in zip(
                unit.shards, unit.layout.tensors(unit.layout.join(row)), strict=True
            ):
                found[id(shard)] = tensor.clone()
        return {name: found[id(shard)] for name, shard in self.named_parameters()}

    def named_parameters(self, *args, **kwargs):
        return self.module.named_parameters(*args, **kwargs)
