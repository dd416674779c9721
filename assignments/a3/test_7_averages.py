"""a3.12: gradients averaged after the backward pass."""

import pytest
import torch
from rank_models import (
    batch_of,
    check_named,
    gradients,
    loss_sum,
    model_of,
    share,
    whole_batch_loss,
)
from ranks import RECORD, on_ranks
from torch import nn

from lm_course.grading.comparisons import check_equal, check_true
from lm_course.grading.tensor_comparisons import check_tensor

MODULE = "training.data_parallel"
pytestmark = [pytest.mark.usefixtures("a3"), pytest.mark.limit(seconds=40)]
functions = pytest.mark.parametrize("name", ["average_each_gradient", "average_flat_gradient"])


@pytest.mark.task("a3.12")
@functions
def test_averages_by_hand(implementation, name):
    average = getattr(implementation(MODULE), name)
    given = [
        [torch.tensor([1.0, 3]), None, None],
        [torch.tensor([3.0, 5]), torch.tensor(4.0), None],
    ]

    def run(rank, size):
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(2,), (), (3,)]]
        for parameter, gradient in zip(parameters, given[rank], strict=True):
            parameter.grad = gradient
        average(iter(parameters))
        return [parameter.grad for parameter in parameters]

    expected = [torch.tensor([2.0, 4]), torch.tensor(2.0), torch.zeros(3)]
    words = ["(1, 3) and (3, 5)", "none and 4", "none and none"]
    for rank, found in enumerate(on_ranks(2, run)):
        for got, right, what, own in zip(found, expected, words, given[rank], strict=True):
            causes = {"this is the sum over the ranks: divide it by their number": 2 * right}
            if own is not None:
                causes["this is the rank's own gradient, unchanged"] = own
                causes["the rank's own gradient is divided, and not added to the others'"] = own / 2
            what = f"{name} of the gradients {what}: the result on rank {rank}"
            check_true(
                got is not None, f"{what} is None: a gradient that is missing counts as zero"
            )
            check_tensor(got, right, what, causes)


@pytest.mark.task("a3.12")
@functions
def test_averages_of_an_odd_model(implementation, name):
    """Tied, frozen and unused parameters, two types, and a parameter that is not contiguous."""
    average = getattr(implementation(MODULE), name)

    def run(rank, size):
        model = model_of(0)
        model.frozen.weight.grad = torch.full((5, 5), 7.0 + rank, dtype=torch.float64)
        ids, targets = batch_of(0)[rank]
        share(loss_sum(model(ids, rank == 0), targets), batch_of(0)).backward()
        average([*model.parameters(), model.head.weight])  # the tied weight occurs twice
        return gradients(model)

    results = on_ranks(2, run)
    model = model_of(0)
    whole_batch_loss(model, batch_of(0), skips=True).backward()
    expected = {n: torch.zeros_like(p) if p.grad is None else p.grad
                for n, p in model.named_parameters()}  # fmt: skip
    causes = {
        "this is the sum over the ranks": {n: 2 * g for n, g in expected.items()},
    }
    for rank, found in enumerate(results):
        frozen = {"frozen.weight": torch.full((5, 5), 7.0 + rank, dtype=torch.float64)}
        check_named(found, expected | frozen | {"frozen.bias": None}, "the gradient", causes)


@pytest.mark.task("a3.12")
@functions
def test_the_sum_of_large_gradients_is_finite(implementation, name):
    average = getattr(implementation(MODULE), name)
    dtypes = [torch.float16, torch.bfloat16]

    def run(rank, size):
        parameters = [nn.Parameter(torch.zeros(3, dtype=dtype)) for dtype in dtypes]
        for parameter in parameters:
            parameter.grad = torch.full((3,), [40_960.0, 49_152.0][rank], dtype=parameter.dtype)
        average(parameters)
        return [parameter.grad for parameter in parameters]

    hint = "40,960 + 49,152 is infinite in float16: divide each gradient before the sum"
    causes = {hint: lambda got: bool(got.isinf().any())}
    for found in on_ranks(2, run):
        for got, dtype in zip(found, dtypes, strict=True):
            what = f"the average of 40,960 and 49,152 in {dtype}"
            check_tensor(got, torch.full((3,), 45_056.0), what, causes, dtype=dtype)


@pytest.mark.task("a3.12")
@pytest.mark.parametrize(("name", "expected"),
                         [("average_each_gradient", 12), ("average_flat_gradient", 2)])  # fmt: skip
def test_number_of_all_reduces(implementation, name, expected):
    average = getattr(implementation(MODULE), name)

    def run(rank, size):
        model = model_of(0)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        average([])
        RECORD.clear()
        average([*model.parameters(), model.head.weight])
        return [(each.kind, each.nbytes) for each in RECORD.started()]

    started = on_ranks(2, run)[0]
    total = sum(p.numel() * p.element_size() for p in model_of(0).parameters() if p.requires_grad)
    trained = len([p for p in model_of(0).parameters() if p.requires_grad])
    expected = trained if expected == 12 else expected
    hint = "one for each trained parameter" if expected == trained else "one for each type"
    check_equal(
        [kind for kind, _ in started],
        ["all_reduce"] * expected,
        f"the collectives of {name} for {trained} trained parameters of two types ({hint})",
    )
    check_equal(sum(n for _, n in started), total, f"the bytes that {name} sums over the ranks")


@pytest.mark.task("a3.12")
def test_mean_over_ranks_by_hand(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        total = torch.tensor([6.0, 4.0][rank], requires_grad=True)
        count = torch.tensor([2, 8][rank])
        loss, from_tensor = module.mean_over_ranks(total, [2, 8][rank]), None
        from_tensor = module.mean_over_ranks(total, count)
        loss.backward()
        nothing = module.mean_over_ranks(torch.tensor(0.0), 0)
        one_has_none = module.mean_over_ranks(torch.tensor(3.0 * rank), 4 * rank)
        return loss, from_tensor, total.grad, count, nothing, one_has_none

    for rank, found in enumerate(on_ranks(2, run)):
        loss, from_tensor, gradient, count, nothing, one_has_none = found
        total, own = [6.0, 4.0][rank], [2, 8][rank]
        causes = {
            "this is the mean over the rank's own tokens: divide by those of all ranks": (
                torch.tensor(total / own)
            ),
            "the number of ranks is missing: the average over the ranks divides by it": (
                torch.tensor(total / 10)
            ),
        }
        what = f"rank {rank}'s share for the sums 6 and 4 of 2 and 8 tokens"
        check_tensor(loss, torch.tensor(total * 2 / 10), what, causes)
        check_tensor(from_tensor, torch.tensor(total / 5), f"{what}, given as a tensor", causes)
        check_tensor(gradient, torch.tensor(0.2), "its gradient with respect to the sum")
        check_true(int(count) == own, "mean_over_ranks changes the tensor `count`: copy it")
        hint = "without any token the share is 0, not 0 / 0"
        check_tensor(nothing, torch.tensor(0.0), f"the share of no tokens at all ({hint})")
        right = torch.tensor(3.0 * rank / 2)
        check_tensor(one_has_none, right, f"rank {rank}'s share for the sums 0 and 3 of 0 and 4")


@pytest.mark.task("a3.12")
def test_averages_in_one_process(implementation):
    """Without init_process_group, a process is a group of one."""
    module = implementation(MODULE)
    for name in ("average_each_gradient", "average_flat_gradient"):
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([1.0, 2])
        getattr(module, name)([parameter])
        check_tensor(parameter.grad, torch.tensor([1.0, 2]), f"{name} in one process")
    found = module.mean_over_ranks(torch.tensor(6.0), 4)
    check_tensor(found, torch.tensor(1.5), "mean_over_ranks of 6 and 4 tokens in one process")
    total = torch.tensor(6.0)
    module.mean_over_ranks(total, 1).add_(1)
    check_tensor(total, torch.tensor(6.0), "the sum, after a change of its mean over one token")


@pytest.mark.task("a3.12")
@functions
def test_parameters_in_the_same_memory(implementation, name):
    """Each has its own gradient, also those without values, which lie nowhere."""
    average = getattr(implementation(MODULE), name)

    def run(rank, size):
        first = nn.Parameter(torch.ones(2))
        same = [first, nn.Parameter(first.data), *(nn.Parameter(torch.ones(0)) for _ in range(2))]
        for number, parameter in enumerate(same[:2], 1):
            parameter.grad = torch.full((2,), 10.0**number * (rank + 1))
        average(same)
        return [parameter.grad for parameter in same]

    expected = [torch.full((2,), 15.0), torch.full((2,), 150.0), torch.ones(0), torch.ones(0)]
    for found in on_ranks(2, run):
        for number, (got, right) in enumerate(zip(found, expected, strict=True)):
            what = f"{name}: the gradient of parameter {number} of four that lie in the same memory"
            check_true(got is not None, f"{what} is None")
            check_tensor(got, right, f"{what}, or are empty,")
