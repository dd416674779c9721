"""One wrapped optimizer for each parameter that this rank owns; owners send all at once."""

import torch
import torch.distributed as dist

from training.collectives.group_operations import rank_and_size


class ShardedOptimizer(torch.optim.Optimizer):
    def __init__(self, params, optimizer_class, process_group=None, **kwargs):
        self.make = lambda parameters: optimizer_class([{"params": parameters}], **kwargs)
        self.process_group = process_group
        self.rank, self.size = rank_and_size(process_group)
        self.owner, self.own = {}, {}
        self.loads = [0] * self.size
        self.plain = self.make([])
        super().__init__(params, self.plain.defaults)

    @property
    def state(self):
        return {p: dict(each.state[p]) for p, each in self.own.items() if each.state.get(p)}

    @state.setter
    def state(self, value):
        pass

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name, value in self.plain.param_groups[0].items():
            group.setdefault(name, value)
        sizes = {p: p.numel() * p.element_size() * p.requires_grad for p in group["params"]}
        for p in sorted(sizes, key=sizes.get, reverse=True):
            self.owner[p] = min(range(self.size), key=self.loads.__getitem__)
            self.loads[self.owner[p]] += sizes[p]
            if self.owner[p] == self.rank:
                self.own[p] = self.make([p])

    def step(self, closure=None):
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            settings = {k: v for k, v in group.items() if k != "params"}
            for p in group["params"]:
                if p in self.own:
                    self.own[p].param_groups[0].update(settings)
                    self.own[p].step()
        if self.size > 1:
            self.send()
        return result

    @torch.no_grad()
    def send(self):
        for rank in range(self.size):
            owned = [p for p, owner in self.owner.items() if owner == rank and p.requires_grad]
            if not owned:
                continue
            message = torch.cat([p.reshape(-1).view(torch.uint8) for p in owned])
            dist.broadcast(message, group=self.process_group, group_src=rank)
            parts = message.split([p.numel() * p.element_size() for p in owned])
            for p, part in zip(owned, parts, strict=True):
                p.copy_(part.clone().view(p.dtype).view(p.shape))
