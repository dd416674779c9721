"""An independent solution of a3.16 and a3.17, written from the handout alone, with hooks."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from training.collectives.group_operations import rank_and_size
from transformer_lm.layers import Embedding, Linear


def share_of_rank(total, rank, size):
    return range(rank * total // size, (rank + 1) * total // size)


def _total(x, group, op=dist.ReduceOp.SUM):
    copy = x.detach().clone().contiguous()
    if rank_and_size(group)[1] > 1:
        dist.all_reduce(copy, op=op, group=group)
    return copy


def copy_to_ranks(x, group=None):
    y = x.view_as(x)
    if y.requires_grad:
        y.register_hook(lambda gradient: _total(gradient, group))
    return y


def sum_over_ranks(x, group=None):
    return _total(x, group) + (x - x.detach())


class ColumnParallelLinear(nn.Module):
    def __init__(self, d_in, d_out, bias=False, gather_output=False, group=None, copies_input=True):
        super().__init__()
        self.d_out, self.gather_output = d_out, gather_output
        self.group, self.copies_input = group, copies_input
        self.rows = share_of_rank(d_out, *rank_and_size(group))
        whole = Linear(d_in, d_out, bias)
        self.weight = nn.Parameter(whole.weight.detach()[list(self.rows)])
        self.bias = nn.Parameter(whole.bias.detach()[list(self.rows)]) if bias else None

    def forward(self, x):
        if self.copies_input:
            x = copy_to_ranks(x, self.group)
        y = functional.linear(x, self.weight, self.bias)
        if self.gather_output:  # columns of other ranks are zeros here, so a sum joins them
            after = self.d_out - self.rows.stop
            y = sum_over_ranks(functional.pad(y, (self.rows.start, after)), self.group)
        return y


class RowParallelLinear(nn.Module):
    def __init__(self, d_in, d_out, bias=False, group=None):
        super().__init__()
        self.group = group
        self.columns = share_of_rank(d_in, *rank_and_size(group))
        whole = Linear(d_in, d_out, bias)
        self.weight = nn.Parameter(whole.weight.detach()[:, list(self.columns)])
        self.bias = nn.Parameter(whole.bias.detach().clone()) if bias else None

    def forward(self, x):
        y = sum_over_ranks(functional.linear(x, self.weight), self.group)
        return y if self.bias is None else y + self.bias


class VocabParallelEmbedding(nn.Module):
    def __init__(self, vocab_size, d_model, group=None):
        super().__init__()
        self.group = group
        self.ids = share_of_rank(vocab_size, *rank_and_size(group))
        self.weight = nn.Parameter(Embedding(vocab_size, d_model).weight.detach()[list(self.ids)])

    def forward(self, token_ids):
        # One row of zeros at the end, for the ids of other ranks.
        table = functional.pad(self.weight, (0, 0, 0, 1))
        mine = (token_ids >= self.ids.start) & (token_ids < self.ids.stop)
        places = torch.where(mine, token_ids - self.ids.start, len(self.ids))
        return sum_over_ranks(table[places], self.group)


def vocab_parallel_cross_entropy(logits, targets, vocab_size, group=None):
    ids = share_of_rank(vocab_size, *rank_and_size(group))
    if logits.shape[-1] != len(ids):
        raise ValueError(f"{logits.shape[-1]} logits for {len(ids)} ids of {vocab_size}")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # One more logit, -inf, for the targets of other ranks and for a rank without ids.
    wide = functional.pad(wide, (0, 1), value=-torch.inf)
    largest = _total(wide.amax(-1), group, dist.ReduceOp.MAX).unsqueeze(-1)
    exponentials = torch.exp(wide - largest).sum(-1)
    mine = (targets >= ids.start) & (targets < ids.stop)
    places = torch.where(mine, targets - ids.start, 0).unsqueeze(-1)
    chosen = torch.where(mine.unsqueeze(-1), wide - largest, 0).gather(-1, places).squeeze(-1)
    return sum_over_ranks(exponentials, group).log() - sum_over_ranks(chosen, group)
