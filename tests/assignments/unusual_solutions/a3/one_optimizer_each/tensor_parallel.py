"""The two functions by one autograd function with a switch, and the loss of tensor operations, with
the sums over the ranks inserted as differences to this rank's own.
"""

import torch
import torch.distributed as dist
from torch import nn

from training.collectives.group_operations import rank_and_size


class Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group, forward):
        ctx.group, ctx.forward = group, forward
        return total_of(x, group) if forward else x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient if ctx.forward else total_of(gradient, ctx.group), None, None


def total_of(x, group, op=dist.ReduceOp.SUM):
    total = x.detach().clone(memory_format=torch.contiguous_format)
    if rank_and_size(group)[1] > 1:
        dist.all_reduce(total, op=op, group=group)
    return total


def copy_to_ranks(x, group=None):
    return Exchange.apply(x, group, False)


def sum_over_ranks(x, group=None):
    return Exchange.apply(x, group, True)


class VocabParallelEmbedding(nn.Module):
    def __init__(self, vocab_size, d_model, group=None):
        super().__init__()
        rank, size = rank_and_size(group)
        self.group, self.ids = group, share_of_rank(vocab_size, rank, size)  # noqa: F821
        whole = Embedding(vocab_size, d_model).weight.detach()  # noqa: F821
        self.weight = nn.Parameter(whole[list(self.ids)].clone())

    @classmethod
    def from_whole(cls, whole, group=None):
        layer = cls(*whole.weight.shape, group)
        layer.weight = nn.Parameter(whole.weight.detach()[list(layer.ids)].clone())
        return layer

    def forward(self, token_ids):
        flat = token_ids.reshape(-1)
        mine = ((flat >= self.ids.start) & (flat < self.ids.stop)).nonzero()[:, 0]
        rows = self.weight.new_zeros(len(flat), self.weight.shape[1])
        rows = rows.index_put((mine,), self.weight[flat[mine] - self.ids.start])
        return sum_over_ranks(rows.reshape(*token_ids.shape, -1), self.group)


def vocab_parallel_cross_entropy(logits, targets, vocab_size, group=None):
    rank, size = rank_and_size(group)
    ids = share_of_rank(vocab_size, rank, size)  # noqa: F821
    if logits.shape[-1] != len(ids):
        raise ValueError(f"{logits.shape[-1]} logits for {len(ids)} ids of {vocab_size}")
    wide = logits.double() if logits.dtype == torch.float64 else logits.float()
    lowest = wide.new_full((*targets.shape, 1), -torch.inf)
    largest = torch.cat([wide.detach(), lowest], -1).amax(-1)
    largest = total_of(largest, group, dist.ReduceOp.MAX).unsqueeze(-1)
    exponentials = (wide - largest).exp().sum(-1)
    hits = torch.arange(ids.start, ids.stop) == targets.unsqueeze(-1)
    target = torch.where(hits, wide - largest, 0.0).sum(-1)
    exponentials, target = sum_over_ranks(torch.stack([exponentials, target]), group)
    return exponentials.log() - target
