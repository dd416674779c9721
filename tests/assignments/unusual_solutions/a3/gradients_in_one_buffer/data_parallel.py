"""Every gradient is a view of its bucket's buffer, and two counters tell how far each one is: the
passes that have reached it, and those that its bucket had seen when it was sent.
"""

import torch
import torch.distributed as dist
from torch import nn

from training.collectives.group_operations import any_rank, broadcast_from_first, rank_and_size


def trained_once(parameters):
    seen = {id(p): p for p in parameters if p.requires_grad}
    return list(seen.values())


def average_each_gradient(parameters, group=None):
    for parameter in trained_once(parameters):
        average([parameter], group)


def average_flat_gradient(parameters, group=None):
    trained = trained_once(parameters)
    for dtype in sorted({p.dtype for p in trained}, key=str):
        average([p for p in trained if p.dtype == dtype], group)


def average(parameters, group):
    buffer = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
    parts = buffer.split([p.numel() for p in parameters])
    size = rank_and_size(group)[1]
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter.grad is not None:
            part.view(parameter.shape).copy_(parameter.grad / size)
    if size > 1:
        dist.all_reduce(buffer, group=group)
    for parameter, part in zip(parameters, parts, strict=True):
        mean = torch.empty_like(parameter)
        parameter.grad = mean.copy_(part.view(parameter.shape))


def mean_over_ranks(total, count, group=None):
    tokens = torch.zeros((), dtype=torch.int64) + torch.as_tensor(count).reshape(()).detach()
    size = rank_and_size(group)[1]
    if size > 1:
        dist.all_reduce(tokens, group=group)
    return total * (size / max(1, tokens.item()))


class DataParallel(nn.Module):
    def __init__(self, module, bucket_mb=5.0, group=None):
        super().__init__()
        self.module, self.group, self.sends = module, group, True
        self.size = rank_and_size(group)[1]
        broadcast_from_first([*module.parameters(), *module.buffers()], group)
        self.buckets, self.open = [], {}
        for parameter in reversed(trained_once(module.parameters())):
            bucket = self.open.setdefault(parameter.dtype, [])
            bucket.append(parameter)
            if sum(p.numel() * p.element_size() for p in bucket) / 2**20 >= bucket_mb:
                self.buckets.append(self.open.pop(parameter.dtype))
        self.buckets += self.open.values()
        self.order = [p for bucket in self.buckets for p in bucket]
        self.begin()
        if self.size > 1:
            for parameter in self.order:
                parameter.register_post_accumulate_grad_hook(self.arrived)

    def begin(self):
        self.arrivals = dict.fromkeys(self.order, 0)
        self.ready = dict.fromkeys(self.order, False)
        self.sent = []  # (buffer, handle, arrivals when it was sent)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def no_sync(self):
        outer = self

        class Quiet:
            def __enter__(self):
                self.before, outer.sends = outer.sends, False

            def __exit__(self, *_):
                outer.sends = self.before

        return Quiet()

    def arrived(self, parameter):
        self.arrivals[parameter] += 1
        if not self.sends:
            return
        self.ready[parameter] = True
        while len(self.sent) < len(self.buckets) and all(
            self.ready[p] for p in self.buckets[len(self.sent)]
        ):
            self.sent.append(self.send(self.buckets[len(self.sent)]))

    def send(self, bucket):
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        buffer = torch.cat([(gradient / self.size).reshape(-1) for gradient in flat])
        work = dist.all_reduce(buffer, group=self.group, async_op=True)
        return buffer, work, [self.arrivals[p] for p in bucket]

    def finish_gradient_synchronization(self):
        if self.size == 1:
            return
        for bucket in self.buckets[len(self.sent) :]:
            self.sent.append(self.send(bucket))
        late = [
            [self.arrivals[p] for p in bucket] != arrivals
            for bucket, (_, _, arrivals) in zip(self.buckets, self.sent, strict=True)
        ]
        there = [p.grad is not None for p in self.order]
        flags = any_rank(late + there, torch.device("cpu"), self.group)
        exists = dict(zip(self.order, flags[len(late) :], strict=True))
        for number, bucket in enumerate(self.buckets):
            buffer, work, _ = self.sent[number]
            work.wait()
            if flags[number]:
                buffer, work, _ = self.send(bucket)
                work.wait()
            for parameter, part in zip(
                bucket, buffer.split([p.numel() for p in bucket]), strict=True
            ):
                if exists[parameter]:
                    mean = torch.empty_like(parameter)
                    parameter.grad = mean.copy_(part.view(parameter.shape))
        self.begin()

    def state_dict(self, *args, **kwargs):
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        return self.module.load_state_dict(*args, **kwargs)

    def named_parameters(self, *args, **kwargs):
        return self.module.named_parameters(*args, **kwargs)
