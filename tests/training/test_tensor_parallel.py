"""Tensor parallelism: results and gradients of the whole layers, in float64."""

import copy
import math

import pytest
import torch
from counted_collectives import recorded
from gloo_ranks import Ranks
from torch import Tensor, nn

from lm_core.user_error import UserError
from training.collectives import bytes_moved
from training.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    copy_to_ranks,
    shard_attention,
    shard_feed_forward,
    share_of_rank,
    vocab_parallel_cross_entropy,
)
from transformer_lm.attention import CausalSelfAttention
from transformer_lm.language_model import FEED_FORWARDS, TransformerBlock
from transformer_lm.layers import Embedding, Linear
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding


def config(**changes: object) -> ModelConfig:
    values = {
        "vocab_size": 13,
        "context_length": 6,
        "d_model": 8,
        "num_layers": 2,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 4,
        "d_ff": 11,  # neither 2 nor 4 divides it
    }
    return ModelConfig(**values | changes)


def draw(module: nn.Module) -> nn.Module:
    """Return the module in float64, its parameters drawn anew; biases and norms are not trivial."""
    torch.manual_seed(5)
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def part(whole: Tensor, dim: int | None, rank: int, size: int) -> Tensor:
    if dim is None:
        return whole
    rows = share_of_rank(whole.shape[dim], rank, size)
    return whole.narrow(dim, rows.start, len(rows))


def compare(
    whole: nn.Module, ours: nn.Module, call: object, dims: dict[str, int], place: tuple[int, int]
) -> float:
    """The largest difference of the result, the input's gradient and the parameters' gradients.

    `dims` has the axis by which a parameter is divided; the others are whole.
    """
    torch.manual_seed(6)
    x = torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    expected, found = call(whole, x), call(ours, other)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    found.backward(upstream)
    differences = [(found - expected).abs().max(), (other.grad - x.grad).abs().max()]
    gradients = {name: p.grad for name, p in whole.named_parameters()}
    for name, parameter in ours.named_parameters():
        slice_ = part(gradients[name], dims.get(name), *place)
        assert parameter.shape == slice_.shape, name
        differences.append((parameter.grad - slice_).abs().max())
    return max(difference.item() for difference in differences)


def linear_layers(rank: int, size: int) -> float:
    class Pair(nn.Module):
        def __init__(self, first: nn.Module, second: nn.Module) -> None:
            super().__init__()
            self.first, self.second = first, second

    inner = draw(Pair(Linear(8, 11, bias=True), Linear(11, 7, bias=True)))
    ours = Pair(
        ColumnParallelLinear.from_whole(inner.first), RowParallelLinear.from_whole(inner.second)
    )
    dims = {"first.weight": 0, "first.bias": 0, "second.weight": 1}
    pair = compare(inner, ours, lambda m, x: m.second(torch.tanh(m.first(x))), dims, (rank, size))
    gathered = ColumnParallelLinear.from_whole(inner.first, gather_output=True)
    inner.zero_grad()
    column = compare(
        inner.first, gathered, lambda m, x: m(x).sin(), {"weight": 0, "bias": 0}, (rank, size)
    )
    return max(pair, column)


def feed_forward(rank: int, size: int, name: str) -> float:
    whole = draw(FEED_FORWARDS[name](8, 11, True))
    ours = copy.deepcopy(whole)
    shard_feed_forward(ours)
    dims = {"down.weight": 1}
    dims |= {f"{layer}.{kind}": 0 for layer in ("gate", "up") for kind in ("weight", "bias")}
    return compare(whole, ours, lambda m, x: m(x), dims, (rank, size))


def attention(rank: int, size: int, qk_norm: bool) -> float:
    shape = config(biases=True, qk_norm=qk_norm)
    whole = draw(CausalSelfAttention(shape, 0, "eager"))
    ours = copy.deepcopy(whole)
    shard_attention(ours)
    rotary = RotaryEmbedding(shape.head_dim, shape.context_length, shape.rope_theta, None)
    dims = {f"{n}.{kind}": 0 for n in ("query", "key", "value") for kind in ("weight", "bias")}
    dims["output.weight"] = 1
    call = lambda m, x: m(x, rotary, torch.arange(6))  # noqa: E731
    return compare(whole, ours, call, dims, (rank, size))


@pytest.mark.parametrize("size", [2, 4])
def test_column_and_row_parallel_layers(ranks: Ranks, size: int) -> None:
    assert max(ranks.call(size, linear_layers)) < 1e-12


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", FEED_FORWARDS)
def test_feed_forward_layers(ranks: Ranks, size: int, name: str) -> None:
    assert max(ranks.call(size, feed_forward, name)) < 1e-12


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention(ranks: Ranks, size: int, qk_norm: bool) -> None:
    # rotary positions and the norms of queries and keys compute in float32
    assert max(ranks.call(size, attention, qk_norm)) < 1e-4


def embedding_and_loss(rank: int, size: int) -> dict[str, float]:
    """A tied vocabulary of 13 ids over the ranks, against the whole one, with masked tokens."""
    table = draw(Embedding(13, 8))
    ids = torch.tensor([[0, 12, 5, 6, 3, 9], [1, 1, 12, 7, 2, 0]])
    targets = ids.roll(-1, dims=1)
    counted = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 1]])
    expected = nn.functional.cross_entropy(
        (table(ids).tanh() @ table.weight.T).flatten(0, 1), targets.flatten(), reduction="none"
    )
    (expected * counted.flatten()).sum().backward()
    ours = VocabParallelEmbedding.from_whole(table)
    x = copy_to_ranks(ours(ids).tanh())
    found = vocab_parallel_cross_entropy(x @ ours.weight.T, targets, 13)
    (found * counted).sum().backward()
    slice_ = part(table.weight.grad, 0, rank, size)
    return {
        "loss": (found.flatten() - expected).abs().max().item(),
        "gradient": (ours.weight.grad - slice_).abs().max().item(),
    }


@pytest.mark.parametrize("size", [2, 4])
def test_embedding_and_loss_with_a_tied_table(ranks: Ranks, size: int) -> None:
    for found in ranks.call(size, embedding_and_loss):
        assert max(found.values()) < 1e-12, found


def hard_losses(rank: int, size: int) -> list[float]:
    """Losses of equal logits, of huge ones, of very small ones, and in bfloat16."""
    own = share_of_rank(13, rank, size)
    mine = slice(own.start, own.stop)
    targets = torch.tensor([3])
    huge = torch.zeros(13)
    huge[3], huge[12] = 1e4, 1e4
    losses = [
        vocab_parallel_cross_entropy(logits[None, mine], targets, 13)
        for logits in (torch.zeros(13), huge, torch.full((13,), -1e30), torch.zeros(13).bfloat16())
    ]
    few = share_of_rank(3, rank, size)  # some ranks have no id
    losses.append(vocab_parallel_cross_entropy(torch.zeros(1, len(few)), torch.tensor([2]), 3))
    return [loss.item() for loss in losses]


@pytest.mark.parametrize("size", [2, 4])
def test_losses_by_hand(ranks: Ranks, size: int) -> None:
    """Equal logits over 13 ids give log 13, not log(13 / N)."""
    expected = [math.log(13), math.log(2), math.log(13), math.log(13), math.log(3)]
    for found in ranks.call(size, hard_losses):
        assert found == pytest.approx(expected, abs=1e-5)


def fewer_ids_than_ranks(rank: int, size: int) -> tuple[list[list[float]], float]:
    """One id on several ranks: the rows, and the sum of this rank's gradient."""
    table = draw(Embedding(1, 3))
    ours = VocabParallelEmbedding.from_whole(table)
    rows = ours(torch.tensor([0, 0]))
    rows.sum().backward()
    assert torch.equal(rows, table(torch.tensor([0, 0])))
    return rows.tolist(), ours.weight.grad.sum().item()


def test_a_rank_without_ids_gives_zeros(ranks: Ranks) -> None:
    found = ranks.call(2, fewer_ids_than_ranks)
    assert found[0][0] == found[1][0]
    assert [gradient for _, gradient in found] == [0.0, 6.0]


def infinite_first_rows(rank: int, size: int) -> list[list[float]]:
    layer = VocabParallelEmbedding(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[float("inf")] * 2, [float(rank)] * 2]))
    return layer(torch.tensor([1, 3])).tolist()


def test_the_ids_of_other_ranks_give_zeros_whatever_the_first_row_is(ranks: Ranks) -> None:
    assert ranks.call(2, infinite_first_rows) == [[[0.0, 0.0], [1.0, 1.0]]] * 2


def drawn_layers(rank: int, size: int) -> tuple[list[list[float]], list[list[float]]]:
    torch.manual_seed(1)
    layers = [ColumnParallelLinear(3, 4), RowParallelLinear(4, 3), VocabParallelEmbedding(4, 3)]
    torch.manual_seed(1)
    wholes = [Linear(3, 4), Linear(4, 3), Embedding(4, 3)]
    ours = [layer.weight.flatten().tolist() for layer in layers]
    cut = [part(w.weight, d, rank, size) for w, d in zip(wholes, (0, 1, 0), strict=True)]
    return ours, [c.flatten().tolist() for c in cut]


def test_new_layers_are_parts_of_the_layers_that_the_seed_gives(ranks: Ranks) -> None:
    for found, expected in ranks.call(2, drawn_layers):
        assert found == expected


def bytes_of_a_block(rank: int, size: int) -> float:
    shape = config(num_layers=1)
    block = TransformerBlock(shape, 0)
    shard_attention(block.attention)
    shard_feed_forward(block.feed_forward)
    rotary = RotaryEmbedding(shape.head_dim, shape.context_length, shape.rope_theta, None)
    x = torch.randn(2, 6, 8, requires_grad=True)
    with recorded(size) as record:
        block(x, rotary, torch.arange(6)).sum().backward()
    return record.sent["all_reduce"], record.count("all_reduce")


def test_bytes_predicted_and_counted(ranks: Ranks) -> None:
    """One all-reduce for attention and one for the feed-forward layer, forward and backward."""
    sent, calls = ranks.call(2, bytes_of_a_block)[0]
    predicted = bytes_moved.tensor_parallel_bytes(config(num_layers=1), 2, tokens=12)
    assert (sent, calls) == (predicted, 4)


def test_one_process_without_a_group() -> None:
    assert linear_layers(0, 1) < 1e-12
    assert feed_forward(0, 1, "swiglu") < 1e-12
    assert max(embedding_and_loss(0, 1).values()) < 1e-12


def three_ranks_and_wrong_logits(rank: int, size: int) -> list[str]:
    messages = []
    for wrong in (
        lambda: shard_attention(CausalSelfAttention(config(), 0)),
        lambda: vocab_parallel_cross_entropy(torch.zeros(2, 13), torch.zeros(2).long(), 13),
    ):
        with pytest.raises(UserError) as caught:
            wrong()
        messages.append(str(caught.value))
    return messages


def test_what_cannot_be_divided_is_refused(ranks: Ranks) -> None:
    heads, logits = ranks.call(3, three_ranks_and_wrong_logits)[0]
    assert "3 ranks do not divide the 4 key heads" in heads
    assert "4 of 13 ids, but 13 logits" in logits
