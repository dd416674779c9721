"""Data parallelism: gradients of one process on the whole batch, collectives during backward."""

import copy

import pytest
import torch
import torch.distributed as dist
from counted_collectives import OddModel, checksum, nbytes, recorded, token_loss_sum
from gloo_ranks import Ranks
from torch import Tensor, nn

from training.data_parallel import (
    DataParallel,
    average_each_gradient,
    average_flat_gradient,
    mean_over_ranks,
)


def batch(step: int, size: int, unequal: bool = False) -> list[tuple[Tensor, Tensor]]:
    """(ids, targets) of each rank; unequal: rank r has r more tokens than rank 0."""
    generator = torch.Generator().manual_seed(step)
    lengths = [4 + unequal * rank for rank in range(size)]
    return [
        tuple(torch.randint(0, 11, (2, length), generator=generator) for _ in range(2))
        for length in lengths
    ]


def simple_model() -> nn.Module:
    layers = [nn.Embedding(11, 6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 11)]
    return nn.Sequential(*layers).double()


def whole_batch_run(size: int, steps: int, unequal: bool, skips: bool) -> OddModel:
    """The same training in one process."""
    torch.manual_seed(0)
    model = OddModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        parts = batch(step, size, unequal)
        optimizer.zero_grad()
        for rank, (ids, targets) in enumerate(parts):
            total = token_loss_sum(model(ids, not skips or rank == 0), targets)
            (total / sum(t.numel() for _, t in parts)).backward()
        optimizer.step()
    return model


def largest_difference(model: nn.Module, other: nn.Module) -> float:
    return max(
        (a - b).abs().max().item()
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def train(rank: int, size: int, synchronize: str, unequal: bool, skips: bool) -> dict:
    torch.manual_seed(rank)  # the first rank's weights must reach the others
    model = OddModel()
    if synchronize == "class":
        wrapper = DataParallel(model, bucket_mb=0.0005)
    else:
        torch.manual_seed(0)
        wrapper = model = OddModel()
    optimizer = torch.optim.AdamW(wrapper.parameters(), lr=0.01)
    for step in range(3):
        ids, targets = batch(step, size, unequal)[rank]
        optimizer.zero_grad()
        total = token_loss_sum(wrapper(ids, not skips or rank == 0), targets)
        mean_over_ranks(total, targets.numel()).backward()
        match synchronize:
            case "class":
                wrapper.finish_gradient_synchronization()
            case "each":
                average_each_gradient(wrapper.parameters())
            case "flat":
                average_flat_gradient(wrapper.parameters())
        optimizer.step()
    reference = whole_batch_run(size, 3, unequal, skips)
    never = [p for name, p in model.named_parameters() if name.startswith("never")]
    return {
        "difference": largest_difference(model, reference),
        "checksum": checksum(model.parameters()),
        "never": [None if p.grad is None else p.grad.abs().max().item() for p in never],
        "frozen": model.frozen.weight.grad is None,
        "contiguous_wide": model.wide.is_contiguous(),
    }


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("skips", [False, True], ids=["all use", "one rank uses"])
def test_weights_are_those_of_the_whole_batch(ranks: Ranks, size: int, skips: bool) -> None:
    """With unequal numbers of tokens, tied, frozen and unused parameters, and two types."""
    found = ranks.call(size, train, "class", True, skips)
    for result in found:
        assert result["difference"] < 1e-6  # float32's part of the model; see the next test
        assert result["never"] == [None, None], "no rank has a gradient: the optimizer skips it"
        assert result["frozen"]
    assert len({result["checksum"] for result in found}) == 1, "replicas differ"


@pytest.mark.parametrize("stage", ["each", "flat"])
def test_the_plain_functions_give_the_same(ranks: Ranks, stage: str) -> None:
    found = ranks.call(2, train, stage, False, True)
    assert all(result["checksum"] == found[0]["checksum"] for result in found)
    assert all(result["never"] == [0.0, 0.0] for result in found)


def replicated(rank: int, size: int) -> list[list[float]]:
    rows = torch.full((4, 4), float(rank + 1), dtype=torch.bfloat16)
    module = nn.Module()
    for number, view in enumerate((rows[:1, 0], rows[:, 1], rows[:2, 2:].T, rows[3, 3])):
        module.register_buffer(f"b{number}", view)
    DataParallel(module)
    return rows.tolist()


def test_values_that_lie_apart_in_memory_reach_the_other_ranks(ranks: Ranks) -> None:
    """One value alone may have any stride, and is called contiguous nevertheless."""
    first, second = ranks.call(2, replicated)
    assert {value for row in first for value in row} == {1.0}
    sent = {(0, 0), *((row, 1) for row in range(4)), (0, 2), (0, 3), (1, 2), (1, 3), (3, 3)}
    at = {(row, column): second[row][column] for row in range(4) for column in range(4)}
    assert at == {place: 1.0 if place in sent else 2.0 for place in at}


def transposed_parameter(rank: int, size: int, stage: str) -> list[list[float]]:
    """Only rank 1 has a gradient, in the parameter's own layout."""
    parameter = nn.Parameter(torch.zeros(3, 2).T)
    if rank == 1:
        parameter.grad = torch.empty_like(parameter).copy_(torch.arange(6.0).view(2, 3))
    average = {"each": average_each_gradient, "flat": average_flat_gradient}[stage]
    average([parameter])
    return parameter.grad.tolist()


@pytest.mark.parametrize("stage", ["each", "flat"])
def test_a_gradient_that_one_rank_lacks_of_a_parameter_that_is_transposed(
    ranks: Ranks, stage: str
) -> None:
    found = ranks.call(2, transposed_parameter, stage)
    assert found == [[[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]]] * 2


def test_fractions_of_tokens() -> None:
    assert mean_over_ranks(torch.tensor(1.0), torch.tensor(0.25)).item() == 4.0
    assert mean_over_ranks(torch.tensor(0.0), 0).item() == 0.0


def exact_gradients(rank: int, size: int) -> float:
    """The largest relative difference of a float64 gradient from that of the whole batch."""
    torch.manual_seed(0)
    model = simple_model()
    parts = batch(7, size, unequal=True)
    count = sum(targets.numel() for _, targets in parts)
    for ids, targets in parts:
        (token_loss_sum(model(ids), targets) / count).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    wrapper = DataParallel(model)
    ids, targets = parts[rank]
    mean_over_ranks(token_loss_sum(wrapper(ids), targets), targets.numel()).backward()
    wrapper.finish_gradient_synchronization()
    return max(
        ((p.grad - e).norm() / e.norm()).item()
        for p, e in zip(model.parameters(), expected, strict=True)
    )


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_in_float64(ranks: Ranks, size: int) -> None:
    assert max(ranks.call(size, exact_gradients)) < 1e-13


def first_broadcast(rank: int, size: int) -> tuple:
    torch.manual_seed(rank)
    wrapper = DataParallel(OddModel())
    buffers = [b.double().sum().item() for b in wrapper.module.buffers()]
    return checksum(wrapper.parameters()), buffers, wrapper.wide.stride()


def test_parameters_and_buffers_of_rank_0_are_sent(ranks: Ranks) -> None:
    found = ranks.call(4, first_broadcast)
    torch.manual_seed(0)
    model = OddModel()
    assert found[0] == (
        checksum(model.parameters()),
        [b.double().sum().item() for b in model.buffers()],
        (1, 5),
    )
    assert all(result == found[0] for result in found)


def order_of_events(rank: int, size: int) -> tuple[list[str], int, float, float]:
    """Events during backward, all all-reduces, and the bytes predicted and counted."""
    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(6)))
    wrapper = DataParallel(model, bucket_mb=2 * 16 * 16 * 4 / 2**20)
    with recorded(size) as record:
        for index, layer in enumerate(model):
            layer.weight.register_post_accumulate_grad_hook(
                lambda _, index=index: record.events.append(f"gradient {index}")
            )
        wrapper(torch.randn(3, 16)).sum().backward()  # a first step, which the second is to equal
        wrapper.finish_gradient_synchronization()
        with wrapper.no_sync():
            record.events.clear()
            wrapper(torch.randn(3, 16)).sum().backward()
            assert record.count("all_reduce") == 0
        record.events.clear()
        record.sent.clear()
        wrapper(torch.randn(3, 16)).sum().backward()
        during = list(record.events)
        wrapper.finish_gradient_synchronization()
    gradient_bytes = sum(nbytes(p) for p in model.parameters())
    predicted = 2 * (size - 1) / size * gradient_bytes
    flags = 2 * (size - 1) / size * (6 + 3)
    return during, record.count("all_reduce"), predicted, record.sent["all_reduce"] - flags


def test_a_bucket_is_sent_while_backward_continues(ranks: Ranks) -> None:
    during, in_all, predicted, sent = ranks.call(2, order_of_events)[0]
    assert during.count("all_reduce") == 3
    assert during.index("all_reduce") < during.index("gradient 3"), (
        "the all-reduce of layers 5 and 4 starts before the gradient of layer 3"
    )
    assert in_all == 4, "three buckets, and the flags"
    assert sent == predicted


def collectives_of_each_stage(rank: int, size: int) -> list[int]:
    counts = []
    for synchronize in (average_each_gradient, average_flat_gradient):
        model = OddModel()
        token_loss_sum(model(*batch(0, size)[rank][:1]), batch(0, size)[rank][1]).backward()
        with recorded(size) as record:
            synchronize([*model.parameters(), model.head.weight])
        counts.append(record.count("all_reduce"))
    return counts


def test_collectives_of_the_plain_functions(ranks: Ranks) -> None:
    trainable = sum(p.requires_grad for p in OddModel().parameters())  # a tied weight once
    assert ranks.call(2, collectives_of_each_stage)[0] == [trainable, 2]


def bypass_and_accumulate(rank: int, size: int, odd: bool) -> dict[str, float]:
    """Gradients of two micro-batches, against those of one process, in several ways."""
    torch.manual_seed(0)
    # In the odd model, a module that is never used keeps the buckets after it from early launch.
    model = OddModel() if odd else simple_model()
    wrapper = DataParallel(model, bucket_mb=0.0005)

    def losses(which: int, of: list[int], module: nn.Module) -> Tensor:
        parts = batch(which, size)
        return sum(token_loss_sum(module(parts[r][0]), parts[r][1]) for r in of)

    everyone = list(range(size))
    (sum(losses(which, everyone, model) for which in (0, 1)) / size).backward()
    wrapper.finish_gradient_synchronization()  # an average of equal gradients
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    wrapper.zero_grad()

    def difference() -> float:
        wrapper.finish_gradient_synchronization()
        found = [p.grad for p in model.parameters()]
        wrapper.zero_grad()
        assert [f is None for f in found] == [e is None for e in expected]
        pairs = [(f, e) for f, e in zip(found, expected, strict=True) if f is not None]
        return max((f - e).abs().max().item() for f, e in pairs)

    results = {}
    with wrapper.no_sync():
        losses(0, [rank], wrapper).backward()
    losses(1, [rank], wrapper).backward()
    results["no_sync"] = difference()
    for which in (0, 1):
        losses(which, [rank], wrapper).backward()
    results["two backward passes"] = difference()
    for which in (0, 1):
        losses(which, [rank], wrapper.module).backward()
    results["bypassed"] = difference()
    with wrapper.no_sync():
        losses(0, [rank], wrapper).backward()
        losses(1, [rank], wrapper).backward()
    results["all inside no_sync"] = difference()
    with pytest.raises(TypeError):
        wrapper("not ids")
    for which in (0, 1):
        losses(which, [rank], wrapper).backward()
        wrapper.finish_gradient_synchronization()
    results["finished twice, after an exception"] = difference()
    return results


@pytest.mark.parametrize("odd", [False, True])
def test_accumulation_and_a_bypassed_wrapper(ranks: Ranks, odd: bool) -> None:
    for found in ranks.call(2, bypass_and_accumulate, odd):
        assert max(found.values()) < 1e-5, found


def compare_with_torch(rank: int, size: int) -> float:
    torch.manual_seed(0)
    model = simple_model()
    theirs = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    wrapper = DataParallel(model)
    ids, targets = batch(0, size)[rank]
    token_loss_sum(wrapper(ids), targets).backward()
    wrapper.finish_gradient_synchronization()
    token_loss_sum(theirs(ids), targets).backward()
    return max(
        (a.grad - b.grad).abs().max().item()
        for a, b in zip(model.parameters(), theirs.parameters(), strict=True)
    )


def test_gradients_are_those_of_torchs_own(ranks: Ranks) -> None:
    assert max(ranks.call(2, compare_with_torch)) < 1e-13


def test_one_process_without_a_group() -> None:
    torch.manual_seed(0)
    wrapper = DataParallel(OddModel())
    ids, targets = batch(0, 1)[0]
    mean_over_ranks(token_loss_sum(wrapper(ids), targets), targets.numel()).backward()
    before = wrapper.wide.grad.clone()
    wrapper.finish_gradient_synchronization()
    average_each_gradient(wrapper.parameters())
    average_flat_gradient(wrapper.parameters())
    assert torch.equal(wrapper.wide.grad, before)
    assert not dist.is_initialized()


def test_names_are_those_of_the_module() -> None:
    model = OddModel()
    wrapper = DataParallel(model)
    assert wrapper.state_dict().keys() == model.state_dict().keys()
    assert dict(wrapper.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert wrapper.layers is model.layers
    wrapper.load_state_dict(OddModel().state_dict())
    with pytest.raises(AttributeError, match="nothing"):
        _ = wrapper.nothing
