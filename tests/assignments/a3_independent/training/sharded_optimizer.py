"""An independent solution of a3.14, written from the handout alone: one wrapped optimizer for each
group, and one message from each owner.
"""

import torch
import torch.distributed as dist

from training.collectives.group_operations import rank_and_size


class ShardedOptimizer(torch.optim.Optimizer):
    def __init__(self, params, optimizer_class, process_group=None, **kwargs):
        self._ready = False
        self.make = lambda group: optimizer_class([group], **kwargs)
        self.process_group = process_group
        self.rank, self.ranks = rank_and_size(process_group)
        self.loads = [0] * self.ranks
        self.lists = [[] for _ in range(self.ranks)]  # what each rank owns
        self.wrapped = []
        super().__init__(params, {})
        self.defaults = self.wrapped[0].defaults

    @property
    def state(self):
        return {p: s for each in self.wrapped for p, s in each.state.items()}

    @state.setter
    def state(self, value):
        assert not value, "the wrapped optimizers have the state"

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        bytes_of = {p: p.numel() * p.element_size() * p.requires_grad for p in group["params"]}
        mine = []
        for p in sorted(bytes_of, key=lambda p: -bytes_of[p]):
            owner = min(range(self.ranks), key=lambda r: self.loads[r])
            self.loads[owner] += bytes_of[p]
            self.lists[owner].append(p)
            if owner == self.rank:
                mine.append(p)
        settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        self.wrapped.append(self.make({**settings, "params": mine}))
        inner = self.wrapped[-1].param_groups[0]
        group.update({k: v for k, v in inner.items() if k not in ("params", "param_names")})

    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group, wrapped in zip(self.param_groups, self.wrapped, strict=True):
            for key in group:
                if key not in ("params", "param_names"):
                    wrapped.param_groups[0][key] = group[key]
            wrapped.step()
        if self.ranks > 1:
            with torch.no_grad():
                self._send()
        return loss

    def _send(self):
        for owner, parameters in enumerate(self.lists):
            trained = [p for p in parameters if p.requires_grad]
            for dtype in sorted({p.dtype for p in trained}, key=str):
                members = [p for p in trained if p.dtype == dtype]
                flat = torch.cat([p.flatten() for p in members])
                dist.broadcast(flat, group=self.process_group, group_src=owner)
                for p, row in zip(members, flat.split([p.numel() for p in members]), strict=True):
                    p.copy_(row.view(p.shape))
