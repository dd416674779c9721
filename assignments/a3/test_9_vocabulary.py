"""a3.17: an embedding and a loss divided among the ranks by id."""

import math

import pytest
import torch
from rank_models import drawn, load, part
from ranks import RECORD, on_ranks

from lm_course.grading.comparisons import check_equal, check_raises, check_true
from lm_course.grading.tensor_comparisons import check_tensor

MODULE = "training.tensor_parallel"
pytestmark = [pytest.mark.usefixtures("a3"), pytest.mark.limit(seconds=40)]


@pytest.mark.task("a3.17")
def test_embedding_by_hand(implementation):
    """Five ids: 0 and 1 on rank 0, 2 to 4 on rank 1."""
    module = implementation(MODULE)
    table = torch.tensor([[0.0, 1], [10, 11], [20, 21], [30, 31], [40, 41]])
    ids = torch.tensor([[4, 0], [2, 4]])
    upstream = torch.arange(8.0).view(2, 2, 2)

    def run(rank, size):
        layer = load(module.VocabParallelEmbedding(5, 2), weight=part(table, 0, rank))
        given = ids.clone()
        y = layer(given)
        (y * upstream).sum().backward()
        return y, layer.weight.grad.to_dense(), given

    results = on_ranks(2, run)
    gradient = torch.zeros(5, 2).index_add(0, ids.flatten(), upstream.view(4, 2))
    for rank, (y, found, given) in enumerate(results):
        own = part(table, 0, rank)
        start = 2 * rank
        clamped = own[(ids - start).clamp(0, len(own) - 1)]
        other = part(table, 0, 1 - rank)
        other = other[(ids - 2 * (1 - rank)).clamp(0, len(other) - 1)]
        causes = {
            "ids of other ranks must give zeros before the sum": clamped + other,
            "this rank's rows alone: add those of all ranks": clamped,
        }
        what = f"the rows of ids [[4, 0], [2, 4]] on rank {rank}"
        check_tensor(y, table[ids], what, causes)
        right = part(gradient, 0, rank)
        causes = {"it is added over the ranks again": 2 * right}
        check_tensor(found, right, f"the gradient of rank {rank}'s rows", causes)
        check_true(torch.equal(given, ids), "VocabParallelEmbedding changes its ids: use a copy")


@pytest.mark.task("a3.17")
def test_embedding_seed_and_collectives(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        torch.manual_seed(3)
        layer = module.VocabParallelEmbedding(7, 3)
        RECORD.clear()
        y = layer(torch.tensor([[0, 6, 2]]))
        y.sum().backward()
        return layer.weight, [str(each) for each in RECORD.started()]

    results = on_ranks(2, run)
    from transformer_lm.layers import Embedding

    torch.manual_seed(3)
    whole = Embedding(7, 3).weight
    for rank, (weight, started) in enumerate(results):
        what = f"VocabParallelEmbedding(7, 3) on rank {rank}, after torch.manual_seed(3): weight"
        check_tensor(weight, part(whole, 0, rank), what)
        right = ["all_reduce of 9 float32 values"]
        check_equal(started, right, "the collectives of three tokens, forward and backward")


def losses(module, logits, targets):
    """Return the loss and the gradient of the logits on each rank; upstream is 1, 2, 3, ..."""

    def run(rank, size):
        own = part(logits, -1, rank).clone().requires_grad_()
        loss = module.vocab_parallel_cross_entropy(own, targets, logits.shape[-1])
        upstream = torch.arange(1.0, 1 + targets.numel()).view(targets.shape)
        (loss * upstream).sum().backward()
        return loss, own.grad

    return on_ranks(2, run)


@pytest.mark.task("a3.17")
def test_loss_of_equal_logits(implementation):
    found = losses(implementation(MODULE), torch.zeros(1, 14), torch.tensor([3]))
    causes = {
        "this is log(V / N): the sum of exponentials must be that of all ranks": (
            torch.tensor([math.log(7)])
        ),
        "this is the logarithm of the softmax: its negative is the loss": (
            torch.tensor([-math.log(14)])
        ),
    }
    for rank, (loss, _) in enumerate(found):
        what = f"the loss of 14 equal logits on rank {rank}, log 14"
        check_tensor(loss, torch.tensor([math.log(14)]), what, causes)


@pytest.mark.task("a3.17")
def test_loss_and_gradient(implementation):
    """Thirteen ids, with targets on both ranks and at both ends of their parts."""
    logits = drawn(1, 2, 4, 13)
    targets = torch.tensor([[0, 5, 6, 12], [3, 3, 9, 12]])
    results = losses(implementation(MODULE), logits, targets)
    right = logits.clone().requires_grad_()
    loss = right.logsumexp(-1) - right.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    upstream = torch.arange(1.0, 9.0).view(2, 4)
    (loss * upstream).sum().backward()
    for rank, (got, gradient) in enumerate(results):
        own = part(logits, -1, rank)
        first = 6 * rank
        places = (targets - first).clamp(0, own.shape[-1] - 1).unsqueeze(-1)
        causes = {
            "a target of another rank is looked up here: its logit is 0 here, and comes by the "
            "sum over the ranks": lambda got: not torch.isclose(got, loss).all(),
        }
        check_tensor(got, loss, f"the losses on rank {rank}", causes, dtype=torch.float64)
        expected = part(right.grad, -1, rank)
        p = part(torch.softmax(logits, -1), -1, rank) * upstream.unsqueeze(-1)
        one = torch.zeros_like(own).scatter_(-1, places, 1.0) * upstream.unsqueeze(-1)
        causes = {
            "the gradient that the loss receives is not used": expected / upstream.unsqueeze(-1),
            "1 is taken off at a place of this rank also for the targets of the other": p - one,
            "this is the softmax: at the target it is 1 less": p,
            "it is added over the ranks, or counts twice": 2 * expected,
        }
        what = f"the gradient of rank {rank}'s logits"
        check_tensor(gradient, expected, what, causes, dtype=torch.float64)


@pytest.mark.task("a3.17")
def test_loss_of_extreme_logits(implementation):
    """Large on the other rank, very negative everywhere, and infinitely negative but one."""
    rows = torch.zeros(4, 5)
    rows[0, 0], rows[1, 4] = 1e4, 1e4
    rows[2] = -1e30
    rows[3, :4] = -math.inf
    targets = torch.tensor([0, 1, 3, 4])
    expected = torch.tensor([0, 1e4, math.log(5), 0])
    causes = {
        "exp(1e4) is infinite, and exp(-1e4) is 0: subtract the largest logit of all ranks, before "
        "exp": lambda got: not bool(got.isfinite().all())
    }
    for rank, (loss, gradient) in enumerate(losses(implementation(MODULE), rows, targets)):
        check_tensor(loss, expected, f"the losses of logits up to 1e4, on rank {rank}", causes)
        check_true(bool(gradient.isfinite().all()), "the gradient of large logits is not finite")


@pytest.mark.task("a3.17")
def test_loss_of_bfloat16_logits(implementation):
    """The last two tokens are predicted with a probability of 0.99 and more."""
    logits = drawn(1, 3, 301).bfloat16()
    targets = torch.tensor([0, 150, 300])
    logits[1, 150], logits[2, 300] = 12, 14
    exact = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    (expected * torch.arange(1, 4)).sum().backward()
    for rank, (loss, gradient) in enumerate(losses(implementation(MODULE), logits, targets)):
        what = "the losses of bfloat16 logits (exponentials are added in float32)"
        check_tensor(loss, expected, what, rtol=1e-5)
        check_equal(gradient.dtype, torch.bfloat16, "the type of the gradient of bfloat16 logits")
        causes = {
            "1 is taken off after the softmax was rounded to bfloat16: keep it in float32, and "
            "convert the gradient at the end": lambda got: True
        }
        right = part(exact.grad, -1, rank)
        what = f"the gradient of bfloat16 logits on rank {rank}"
        check_tensor(gradient, right, what, causes, dtype=torch.bfloat16, rtol=2**-7, atol=1e-7)


@pytest.mark.task("a3.17")
def test_three_numbers_a_token(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        logits = torch.zeros(8, 32, requires_grad=True)
        RECORD.clear()
        module.vocab_parallel_cross_entropy(logits, torch.arange(8), 64).sum().backward()
        return [tuple(each) for each in RECORD.started()]

    sent = sum(each[1] for each in on_ranks(2, run)[0])
    check_true(
        sent <= 3 * 8,
        "the loss of 8 tokens sends more than three numbers for each: the largest logit, the sum "
        "of exponentials, the target's logit",
        {"expected": "24 numbers", "got": f"{sent} numbers"},
    )


@pytest.mark.task("a3.17")
def test_a_rank_without_ids(implementation):
    """One id: rank 0 has none of it. And logits that are not those of the rank's ids."""
    module = implementation(MODULE)

    def run(rank, size):
        own = torch.full((2, rank), 5.0, requires_grad=True)
        loss = module.vocab_parallel_cross_entropy(own, torch.tensor([0, 0]), 1)
        loss.sum().backward()
        table = module.VocabParallelEmbedding(1, 3)
        rows = table(torch.tensor([0, 0]))
        check_raises(
            ValueError,
            lambda: module.vocab_parallel_cross_entropy(torch.zeros(2, 13), torch.zeros(2), 13),
            "13 logits on a rank with 6 or 7 of 13 ids",
            ["13"],
        )
        return loss, own.grad, rows, table.weight

    results = on_ranks(2, run)
    for rank, (loss, gradient, rows, weight) in enumerate(results):
        check_tensor(loss, torch.zeros(2), "the loss of a vocabulary of one id")
        check_tensor(gradient, torch.zeros(2, rank), f"the gradient of {rank} logits")
        check_equal(list(weight.shape), [rank, 3], f"the rows of one id on rank {rank}")
        check_tensor(rows, results[1][3].expand(2, 3), "the rows of id 0, which rank 1 has")


@pytest.mark.task("a3.17")
def test_vocabulary_in_one_process(implementation):
    module = implementation(MODULE)
    table = drawn(2, 4, 3, dtype=torch.float32)
    layer = load(module.VocabParallelEmbedding(4, 3), weight=table)
    check_tensor(layer(torch.tensor([3, 0])), table[[3, 0]], "the embedding in one process")
    loss = module.vocab_parallel_cross_entropy(torch.zeros(1, 4), torch.tensor([1]), 4)
    check_tensor(loss, torch.tensor([math.log(4)]), "the loss in one process")
