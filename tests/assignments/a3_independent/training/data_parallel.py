"""An independent solution of a3.12 and a3.13, written from the handout alone."""

import contextlib
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from training.collectives.group_operations import broadcast_from_first, rank_and_size


def _wanted(parameters):
    seen, kept = set(), []
    for p in parameters:
        if p.requires_grad and id(p) not in seen:
            seen.add(id(p))
            kept.append(p)
    return kept


def _as_row(p, ranks):
    if p.grad is None:
        return torch.zeros(p.numel(), dtype=p.dtype)
    return p.grad.flatten() / ranks


def _from_row(row, p):
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    p.grad = torch.empty_like(p.grad).copy_(row.view(p.shape))


def average_each_gradient(parameters, group=None):
    ranks = rank_and_size(group)[1]
    for p in _wanted(parameters):
        row = _as_row(p, ranks)
        if ranks > 1:
            dist.all_reduce(row, group=group)
        _from_row(row, p)


def average_flat_gradient(parameters, group=None):
    ranks = rank_and_size(group)[1]
    wanted = _wanted(parameters)
    for dtype in sorted({p.dtype for p in wanted}, key=str):
        members = [p for p in wanted if p.dtype == dtype]
        flat = torch.zeros(sum(p.numel() for p in members), dtype=dtype)
        start = 0
        for p in members:
            flat[start : start + p.numel()] = _as_row(p, ranks)
            start += p.numel()
        if ranks > 1:
            dist.all_reduce(flat, group=group)
        start = 0
        for p in members:
            _from_row(flat[start : start + p.numel()], p)
            start += p.numel()


def mean_over_ranks(total, count, group=None):
    ranks = rank_and_size(group)[1]
    tokens = torch.tensor([int(count)])
    if ranks > 1:
        dist.all_reduce(tokens, group=group)
    return total * (ranks / max(1, tokens.item()))


class DataParallel(nn.Module):
    def __init__(self, module, bucket_mb=5.0, group=None):
        super().__init__()
        self.module = module
        self._group = group
        self._ranks = rank_and_size(group)[1]
        broadcast_from_first(list(module.parameters()) + list(module.buffers()), group)
        self._buckets = []
        opened = {}
        for p in reversed(_wanted(module.parameters())):
            opened.setdefault(p.dtype, []).append(p)
            size = sum(q.numel() * q.element_size() for q in opened[p.dtype])
            if size >= bucket_mb * 1024 * 1024:
                self._buckets.append(opened.pop(p.dtype))
        self._buckets += opened.values()
        self._paused = 0
        self._begin()
        if self._ranks > 1:
            for number, bucket in enumerate(self._buckets):
                for place, p in enumerate(bucket):
                    p.register_post_accumulate_grad_hook(partial(self._arrived, number, place))

    def _begin(self):
        self._missing = [set(range(len(bucket))) for bucket in self._buckets]
        self._sent = []  # (flat, work) of the first buckets
        self._late = [False] * len(self._buckets)

    def _arrived(self, number, place, parameter):
        if number < len(self._sent):
            self._late[number] = True
            return
        if self._paused:
            return
        self._missing[number].discard(place)
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._sent.append(self._send(self._buckets[len(self._sent)]))

    def _send(self, bucket):
        flat = torch.cat([_as_row(p, self._ranks) for p in bucket])
        return flat, dist.all_reduce(flat, group=self._group, async_op=True)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self):
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def finish_gradient_synchronization(self):
        if self._ranks == 1 or not self._buckets:
            return
        for bucket in self._buckets[len(self._sent) :]:
            self._sent.append(self._send(bucket))
        everything = [p for bucket in self._buckets for p in bucket]
        present = [p.grad is not None for p in everything]
        flags = torch.tensor([int(flag) for flag in self._late + present])
        dist.all_reduce(flags, group=self._group)
        flags = flags.tolist()
        late, present = flags[: len(self._buckets)], iter(flags[len(self._buckets) :])
        for number, bucket in enumerate(self._buckets):
            flat, work = self._sent[number]
            work.wait()
            if late[number]:
                flat, work = self._send(bucket)
                work.wait()
            start = 0
            for p in bucket:
                if next(present):
                    _from_row(flat[start : start + p.numel()], p)
                start += p.numel()
        self._begin()

    def named_parameters(self, *args, **kwargs):
        return self.module.named_parameters(*args, **kwargs)
