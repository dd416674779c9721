"""Tensor parallelism: every rank holds a part of each matrix, and all compute on the same tokens.

A feed-forward layer needs one all-reduce. The inward matrices are divided by output (columns of the
product), so each rank has some of the inner values, computes their nonlinearity alone, and
multiplies them with its rows of the outward matrix. The sum of the ranks' products is the result.
Attention is divided by heads in the same way. The vocabulary is divided by ids.

Between a layer that all ranks compute alike and one that is divided stand two functions, each the
other's gradient: `copy_to_ranks` does nothing in forward and adds gradients in backward, because
every rank contributes to the gradient of its input; `sum_over_ranks` adds in forward and does
nothing in backward.

All ranks read the same batch and have the same weights in the layers that are not divided.

What this leaves out: dividing the activations between the layers by position (sequence
parallelism), and dropout, which would need the same random numbers on all ranks.

Shoeybi et al., 2019 (Megatron-LM), section 3.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from lm_core.user_error import UserError
from training.collectives.group_operations import Group, all_gather, rank_and_size
from transformer_lm.attention import CausalSelfAttention
from transformer_lm.layers import Embedding, Linear


def share_of_rank(total: int, rank: int, size: int) -> range:
    """Return the rows of `total` that a rank holds; the shares differ by at most one row."""
    return range(rank * total // size, (rank + 1) * total // size)


def copy_to_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Return x; in backward, its gradient is the sum of those of all ranks."""
    return _Copy.apply(x, group)


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Return the sum of all ranks' x; in backward, every rank's x has the gradient of the sum."""
    return _Sum.apply(x, group)


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(gradient, ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _JoinColumns(torch.autograd.Function):
    """All ranks' columns side by side; each rank's columns have their part of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: int, group: Group) -> Tensor:
        rank, size = rank_and_size(group)
        ctx.columns = share_of_rank(total, rank, size)
        widest = max(len(share_of_rank(total, r, size)) for r in range(size))
        padded = nn.functional.pad(x, (0, widest - x.shape[-1])).contiguous()
        gathered, work = all_gather(padded.view(-1), group)
        work.wait()
        parts = gathered.view(size, *padded.shape)
        widths = [len(share_of_rank(total, r, size)) for r in range(size)]
        return torch.cat([parts[r][..., :width] for r, width in enumerate(widths)], dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[..., ctx.columns.start : ctx.columns.stop], None, None


class ColumnParallelLinear(nn.Module):
    """A linear layer of which each rank computes some outputs.

    Args:
        d_in, d_out, bias: of the whole layer.
        gather_output: return all outputs on every rank; otherwise this rank's own.
        group: the ranks that share the layer; None for all.
        copies_input: whether the layer itself adds the gradients of its input over the ranks.
            Layers that read the same input leave that to one `copy_to_ranks` before them.

    Attributes:
        weight: [this rank's outputs, d_in]; `rows` says which ones.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        bias: bool = False,
        gather_output: bool = False,
        group: Group = None,
        copies_input: bool = True,
    ) -> None:
        super().__init__()
        self.d_out, self.gather_output, self.group = d_out, gather_output, group
        self.copies_input = copies_input
        self.rows = share_of_rank(d_out, *rank_and_size(group))
        whole = Linear(d_in, d_out, bias)  # drawn as a whole, so that equal seeds give equal layers
        self.weight, self.bias = _rows(whole.weight, self.rows), _rows(whole.bias, self.rows)

    @classmethod
    def from_whole(
        cls,
        whole: Linear,
        gather_output: bool = False,
        group: Group = None,
        copies_input: bool = True,
    ) -> "ColumnParallelLinear":
        """Return this rank's part of a layer."""
        d_out, d_in = whole.weight.shape
        layer = cls(d_in, d_out, whole.bias is not None, gather_output, group, copies_input)
        layer.weight, layer.bias = _rows(whole.weight, layer.rows), _rows(whole.bias, layer.rows)
        return layer

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out_of_rank"]:
        x = copy_to_ranks(x, self.group) if self.copies_input else x
        y = nn.functional.linear(x, self.weight, self.bias)
        return _JoinColumns.apply(y, self.d_out, self.group) if self.gather_output else y


class RowParallelLinear(nn.Module):
    """A linear layer that reads the outputs of a ColumnParallelLinear, divided over the ranks, and
    returns the whole result on every rank.

    The bias is whole on every rank and added after the sum; each rank adding it before would add it
    N times.

    Args:
        d_in, d_out, bias: of the whole layer.
        group: the ranks that share the layer; None for all.
    """

    def __init__(self, d_in: int, d_out: int, bias: bool = False, group: Group = None) -> None:
        super().__init__()
        self.group = group
        self.columns = share_of_rank(d_in, *rank_and_size(group))
        whole = Linear(d_in, d_out, bias)
        self.weight, self.bias = _columns(whole.weight, self.columns), whole.bias

    @classmethod
    def from_whole(cls, whole: Linear, group: Group = None) -> "RowParallelLinear":
        """Return this rank's part of a layer."""
        d_out, d_in = whole.weight.shape
        layer = cls(d_in, d_out, whole.bias is not None, group)
        layer.weight, layer.bias = _columns(whole.weight, layer.columns), whole.bias
        return layer

    def forward(self, x: Float[Tensor, "*batch d_in_of_rank"]) -> Float[Tensor, "*batch d_out"]:
        y = sum_over_ranks(x @ self.weight.T, self.group)
        return y if self.bias is None else y + self.bias


class VocabParallelEmbedding(nn.Module):
    """An embedding of which each rank holds the rows of some ids.

    Args:
        vocab_size, d_model: of the whole table.
        group: the ranks that share it; None for all.
    """

    def __init__(self, vocab_size: int, d_model: int, group: Group = None) -> None:
        super().__init__()
        self.group = group
        self.ids = share_of_rank(vocab_size, *rank_and_size(group))
        self.weight = _rows(Embedding(vocab_size, d_model).weight, self.ids)

    @classmethod
    def from_whole(cls, whole: Embedding, group: Group = None) -> "VocabParallelEmbedding":
        """Return this rank's rows of a table."""
        layer = cls(*whole.weight.shape, group)
        layer.weight = _rows(whole.weight, layer.ids)
        return layer

    def forward(self, token_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        own = (token_ids >= self.ids.start) & (token_ids < self.ids.stop)
        # A rank without ids (a vocabulary smaller than the ranks) looks up a row of zeros.
        table = self.weight if self.ids else nn.functional.pad(self.weight, (0, 0, 0, 1))
        rows = nn.functional.embedding((token_ids - self.ids.start) * own, table)
        # Others' ids give zeros here, whatever the row is that was looked up in their place.
        return sum_over_ranks(rows.masked_fill(~own.unsqueeze(-1), 0), self.group)


def vocab_parallel_cross_entropy(
    logits: Float[Tensor, "*batch vocab_of_rank"],
    targets: Int[Tensor, "*batch"],
    vocab_size: int,
    group: Group = None,
) -> Float[Tensor, "*batch"]:
    """Return -log softmax(logits)[target] of every token, from logits divided by id.

    Only three numbers for each token travel: the largest logit, the sum of exponentials and the
    target's logit. The sum is over the whole vocabulary; with each rank's own sum, equal logits
    would give log(V / N) in place of log(V), a loss too small by log(N) that still falls.

    Args:
        logits: of this rank's ids, `share_of_rank(vocab_size, ...)`: what a ColumnParallelLinear
            without `gather_output` returns.
        targets: ids of the whole vocabulary, the same on all ranks.
        vocab_size: of the whole vocabulary.
        group: the ranks that share it; None for all.

    Raises:
        ValueError: the number of logits is not that of this rank's ids.
    """
    ids = share_of_rank(vocab_size, *rank_and_size(group))
    if logits.shape[-1] != len(ids):
        raise UserError(
            f"this rank has {len(ids)} of {vocab_size} ids, but {logits.shape[-1]} logits; give "
            "the logits of its own ids"
        )
    return _CrossEntropy.apply(logits, targets, ids.start, group)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, first_id: int, group: Group) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # A rank without ids (a vocabulary smaller than the ranks) has no largest logit.
        largest = wide.new_full(targets.shape, -torch.inf)
        if wide.shape[-1]:
            largest = wide.amax(dim=-1)
        largest = _all_reduced(largest, group, dist.ReduceOp.MAX)
        wide = wide - largest.unsqueeze(-1)
        exponentials = torch.exp(wide)
        own = (targets >= first_id) & (targets < first_id + wide.shape[-1])
        positions = ((targets - first_id) * own).unsqueeze(-1)
        chosen = torch.zeros_like(largest)
        if wide.shape[-1]:
            chosen = wide.gather(-1, positions).squeeze(-1).masked_fill(~own, 0)
        sums = torch.stack([exponentials.sum(dim=-1), chosen])
        total, chosen = _all_reduced(sums, group)
        ctx.save_for_backward(exponentials / total.unsqueeze(-1), own, positions)
        ctx.dtype = logits.dtype
        return total.log() - chosen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient is softmax - 1 at the target, and softmax elsewhere; no rank needs another's
        part.
        """
        probabilities, own, positions = ctx.saved_tensors
        result = probabilities.clone()
        if result.shape[-1]:
            result.scatter_add_(-1, positions, -own.unsqueeze(-1).to(result.dtype))
        return (result * gradient.unsqueeze(-1)).to(ctx.dtype), None, None, None


def shard_feed_forward(layer: nn.Module, group: Group = None) -> None:
    """Keep this rank's part of a feed-forward layer, in place: `gate` and `up` by output, `down` by
    input.
    """
    _divide_inward(layer, [name for name in ("gate", "up") if hasattr(layer, name)], group)
    layer.down = RowParallelLinear.from_whole(layer.down, group)


def shard_attention(layer: CausalSelfAttention, group: Group = None) -> None:
    """Keep this rank's heads, in place.

    The norms of queries and keys are whole on every rank, but see only its heads, so the ranks'
    gradients are added.

    Raises:
        ValueError: the ranks do not divide the key heads, which query heads share.
    """
    _, size = rank_and_size(group)
    if layer.num_kv_heads % size:
        raise UserError(
            f"{size} ranks do not divide the {layer.num_kv_heads} key heads; use a number of ranks "
            "that does"
        )
    layer.num_heads //= size
    layer.num_kv_heads //= size
    _divide_inward(layer, ["query", "key", "value"], group)
    layer.output = RowParallelLinear.from_whole(layer.output, group)
    if layer.qk_norm:
        for norm in (layer.query_norm, layer.key_norm):
            norm.weight.register_hook(lambda gradient: _all_reduced(gradient, group))


def _divide_inward(layer: nn.Module, names: list[str], group: Group) -> None:
    """Divide the matrices that read the layer's input, which all of them copy at once: one
    all-reduce in backward.
    """
    for name in names:
        whole = getattr(layer, name)
        divided = ColumnParallelLinear.from_whole(whole, group=group, copies_input=False)
        setattr(layer, name, divided)
    layer.register_forward_pre_hook(lambda _, args: (copy_to_ranks(args[0], group), *args[1:]))


def _all_reduced(x: Tensor, group: Group, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """Return the sum (or another reduction) over the ranks, without changing x."""
    if rank_and_size(group)[1] == 1:
        return x.clone()
    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, op=op, group=group)
    return result


def _rows(whole: Tensor | None, rows: range) -> nn.Parameter | None:
    if whole is None:
        return None
    return nn.Parameter(whole.detach()[rows.start : rows.stop].clone(), whole.requires_grad)


def _columns(whole: Tensor, columns: range) -> nn.Parameter:
    return nn.Parameter(
        whole.detach()[:, columns.start : columns.stop].clone(), whole.requires_grad
    )
