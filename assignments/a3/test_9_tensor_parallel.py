"""a3.16: matrices divided among the ranks."""

import pytest
import torch
from rank_models import check_named, drawn, load, part
from ranks import RECORD, on_ranks

from lm_course.grading.comparisons import check_equal
from lm_course.grading.tensor_comparisons import check_tensor

MODULE = "training.tensor_parallel"
pytestmark = [pytest.mark.usefixtures("a3"), pytest.mark.limit(seconds=40)]


@pytest.mark.task("a3.16")
def test_copy_and_sum(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        x = torch.tensor([1.0, 2]).requires_grad_()
        copied = module.copy_to_ranks(x)
        (copied * (rank + 1)).sum().backward()
        y = torch.tensor([10.0 ** (rank + 1), 1]).requires_grad_()
        before = y.detach().clone()
        total = module.sum_over_ranks(y)
        (total * torch.tensor([2.0, 3])).sum().backward()
        square = torch.tensor([[0.0, 1], [2, 3]])
        other = square if rank == 0 else square.t().contiguous().t()  # equal, with other strides
        return copied, x.grad, total, y.grad, y - before, module.sum_over_ranks(other)

    for copied, copied_grad, total, total_grad, change, twice in on_ranks(2, run):
        check_tensor(copied, torch.tensor([1.0, 2]), "copy_to_ranks of [1, 2]")
        causes = {
            "the gradient is that of this rank alone: add those of all ranks in backward": (
                lambda got: got.tolist() in ([1, 1], [2, 2])
            )
        }
        what = "the gradient of copy_to_ranks' input, if the ranks use its result 1 and 2 times"
        check_tensor(copied_grad, torch.tensor([3.0, 3]), what, causes)
        check_tensor(total, torch.tensor([110.0, 2]), "sum_over_ranks of [10, 1] and [100, 1]")
        causes = {"it is added over the ranks again": torch.tensor([4.0, 6])}
        what = "the gradient of sum_over_ranks' input, if its result has the gradient [2, 3]"
        check_tensor(total_grad, torch.tensor([2.0, 3]), what, causes)
        check_tensor(change, torch.zeros(2), "the change of sum_over_ranks' input")
        causes = {
            "a collective adds the ranks' memory, and clone() keeps the order in it: use "
            "contiguous() first, or clone(memory_format=torch.contiguous_format)": (
                torch.tensor([[0.0, 3], [3, 6]])
            )
        }
        what = "sum_over_ranks of [[0, 1], [2, 3]], which lies column by column on rank 1"
        check_tensor(twice, torch.tensor([[0.0, 2], [4, 6]]), what, causes)


@pytest.mark.task("a3.16")
@pytest.mark.parametrize("gather", [False, True], ids=["own outputs", "gathered"])
def test_column_parallel_linear(implementation, gather):
    """Seven outputs: three on rank 0, four on rank 1."""
    module = implementation(MODULE)
    weight, bias, x, upstream = drawn(1, 7, 5), drawn(2, 7), drawn(3, 2, 3, 5), drawn(4, 2, 3, 7)

    def run(rank, size):
        layer = module.ColumnParallelLinear(5, 7, bias=True, gather_output=gather)
        load(layer, weight=part(weight, 0, rank), bias=part(bias, 0, rank))
        own = x.clone().requires_grad_()
        y = layer(own)
        weights = upstream if gather else part(upstream, -1, rank)
        if y.shape != weights.shape:
            return y.detach(), {}  # the comparison below says so
        (y * weights).sum().backward()
        return y, {"x": own.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}

    results = on_ranks(2, run)
    expected = x @ weight.T + bias
    grad_y = upstream.flatten(0, 1)
    right = {"x": upstream @ weight, "weight": grad_y.T @ x.flatten(0, 1), "bias": grad_y.sum(0)}
    for rank, (y, found) in enumerate(results):
        what = f"the result of ColumnParallelLinear(5, 7, gather_output={gather}) on rank {rank}"
        whole = expected if gather else part(expected, -1, rank)
        check_tensor(y, whole, what, dtype=torch.float64)
        alone = part(upstream, -1, rank) @ part(weight, 0, rank)
        causes = {
            "this is the part of this rank's outputs: add those of all ranks (copy_to_ranks)": {
                "x": alone
            },
            "it is added over the ranks though every rank has all of it": {
                n: 2 * g if n == "x" else part(2 * g, 0, rank) for n, g in right.items()
            },
        }
        own = {n: g if n == "x" else part(g, 0, rank) for n, g in right.items()}
        check_named(found, own, f"gather_output={gather}, rank {rank}: the gradient", causes)


@pytest.mark.task("a3.16")
def test_row_parallel_linear(implementation):
    """Five inputs: two on rank 0, three on rank 1."""
    module = implementation(MODULE)
    weight, bias, x, upstream = drawn(1, 4, 5), drawn(2, 4), drawn(3, 2, 3, 5), drawn(4, 2, 3, 4)

    def run(rank, size):
        layer = load(module.RowParallelLinear(5, 4, bias=True), weight=part(weight, 1, rank),
                     bias=bias)  # fmt: skip
        own = part(x, -1, rank).clone().requires_grad_()
        y = layer(own)
        (y * upstream).sum().backward()
        return y, {"x": own.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}

    results = on_ranks(2, run)
    expected = x @ weight.T + bias
    grad_y = upstream.flatten(0, 1)
    right = {"x": upstream @ weight, "weight": grad_y.T @ x.flatten(0, 1), "bias": grad_y.sum(0)}
    for rank, (y, found) in enumerate(results):
        causes = {
            "each rank adds the bias, so it is added twice: add it after the sum": expected + bias,
            "the bias is missing": expected - bias,
            "this is the product of this rank alone: add those of all ranks": (
                part(x, -1, rank) @ part(weight, 1, rank).T + bias
            ),
        }
        what = f"the result of RowParallelLinear(5, 4, bias=True) on rank {rank}"
        check_tensor(y, expected, what, causes, dtype=torch.float64)
        own = {n: part(g, -1, rank) if n != "bias" else g for n, g in right.items()}
        twice = {"it is added over the ranks again": {n: 2 * g for n, g in own.items()}}
        check_named(found, own, f"RowParallelLinear, rank {rank}: the gradient", twice)


@pytest.mark.task("a3.16")
def test_collectives_of_a_feed_forward_layer(implementation):
    """One all-reduce of the activations forward, and one backward."""
    module = implementation(MODULE)

    def run(rank, size):
        up = module.ColumnParallelLinear(4, 8)
        down = module.RowParallelLinear(8, 4)
        free = module.ColumnParallelLinear(4, 8, copies_input=False)
        x = torch.ones(3, 4, requires_grad=True)
        RECORD.clear()
        y = down(torch.tanh(up(x)))
        forward = [str(each) for each in RECORD.started()]
        y.sum().backward()
        both = [str(each) for each in RECORD.started()]
        RECORD.clear()
        free(x).sum().backward()
        return forward, both, len(RECORD.started())

    forward, both, free = on_ranks(2, run)[0]
    one = ["all_reduce of 12 float32 values"]
    what = "the collectives of a column-parallel and a row-parallel layer for x [3, 4]"
    check_equal(forward, one, f"{what}, forward")
    check_equal(both, one * 2, f"{what}, forward and backward")
    check_equal(free, 0, "the collectives of ColumnParallelLinear with copies_input=False")


@pytest.mark.task("a3.16")
def test_equal_seeds_give_equal_layers(implementation):
    module = implementation(MODULE)
    cases = [(name, bias) for name in ("Column", "Row") for bias in (False, True)]

    def run(rank, size):
        found = []
        for name, bias in cases:
            torch.manual_seed(3)
            layer = getattr(module, f"{name}ParallelLinear")(6, 9, bias)
            numbers = [p.numel() for p in layer.parameters()]
            stored = [p.untyped_storage().nbytes() // 4 for p in layer.parameters()]
            found.append((layer.weight, layer.bias is not None, numbers, stored))
        return found

    results = on_ranks(2, run)
    from transformer_lm.layers import Linear

    hint = "each rank draws a part of its own: draw the whole layer, and keep this rank's part"
    for rank, found in enumerate(results):
        for (name, bias), (weight, has_bias, numbers, stored) in zip(cases, found, strict=True):
            torch.manual_seed(3)
            right = part(Linear(6, 9, bias).weight, 0 if name == "Column" else 1, rank)
            causes = {hint: lambda got, right=right: got.shape == right.shape}
            what = f"{name}ParallelLinear(6, 9, bias={bias}) on rank {rank}"
            check_tensor(weight, right, f"{what}, after torch.manual_seed(3): the weight", causes)
            check_equal(has_bias, bias, f"{what}: whether it has a bias")
            size = right.numel() + bias * (len(right) if name == "Column" else 9)
            check_equal(sum(numbers), size, f"the values in all parameters of {what}")
            likely = {"a view keeps the whole layer in memory: copy the part": lambda got: True}
            check_equal(
                stored, numbers, f"the values in memory for each parameter of {what}", likely
            )


@pytest.mark.task("a3.16")
def test_linear_layers_in_one_process(implementation):
    module = implementation(MODULE)
    x = drawn(1, 2, 3, dtype=torch.float32)
    weight = drawn(2, 4, 3, dtype=torch.float32)
    for name in ("ColumnParallelLinear", "RowParallelLinear"):
        layer = load(getattr(module, name)(3, 4), weight=weight)
        check_tensor(layer(x), x @ weight.T, f"{name} in one process")
