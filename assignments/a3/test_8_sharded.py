"""a3.14: the optimizer's state divided among the ranks."""

import pytest
import torch
from rank_models import (
    Blocks,
    batch_of,
    check_named,
    model_of,
    weights,
    whole_batch_loss,
)
from ranks import RECORD, bytes_at_rest, on_ranks
from torch import nn

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.comparisons import check_equal, check_true
from lm_course.grading.tensor_comparisons import check_tensor

MODULE = "training.sharded_optimizer"
pytestmark = [
    pytest.mark.usefixtures("a3", "compiler_loaded"),
    pytest.mark.limit(seconds=40),
]
OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
}


def groups_of(model):
    """Two groups, the second with a learning rate of its own; frozen parameters among them."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "lr": 0.01},
    ]


def five_steps(make):
    """Train with a schedule and a group that is added after two steps."""
    model = model_of(0)
    first, second = groups_of(model)
    optimizer = make([first])
    rates = []
    for step in range(5):
        if step == 2:
            optimizer.add_param_group(second)
        for group in optimizer.param_groups:
            group["lr"] *= 0.8
        optimizer.zero_grad()
        whole_batch_loss(model, batch_of(step)).backward()
        optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    return model, optimizer, rates


@pytest.mark.task("a3.14")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_without_sharding(implementation, name):
    sharded = implementation(MODULE).ShardedOptimizer
    kind, settings = OPTIMIZERS[name]

    def run(rank, size):
        model, optimizer, rates = five_steps(lambda groups: sharded(groups, kind, **settings))
        has_state = [n for n, p in model.named_parameters() if optimizer.state.get(p)]
        return weights(model), has_state, rates

    results = on_ranks(2, run)
    model, _, rates = five_steps(lambda groups: kind(groups, **settings))
    causes = {
        "this parameter is never updated on this rank: its owner sends it to the others": weights(
            model_of(0)
        )
    }
    for rank, (found, _, own_rates) in enumerate(results):
        what = f"{name}, five steps, with a second group from step 2 on: on rank {rank}, the value"
        check_named(found, weights(model), what, causes, rtol=1e-6, atol=1e-9)
        check_equal(own_rates, rates, "the learning rates in param_groups, which the check sets")
    for key, value in results[0][0].items():
        check_true(torch.equal(value, results[1][0][key]), f"the ranks' values of {key} differ")
    trained = sorted(n for n, p in model.named_parameters() if p.grad is not None)
    for key in trained:
        owners = [rank for rank in (0, 1) if key in results[rank][1]]
        check_true(
            len(owners) == 1,
            f"the state of {key} must be on one rank, in its `state`",
            {"found on the ranks": owners},
        )


def ones(*shape):
    return torch.ones(shape, requires_grad=True)


def copies_of(parameters):
    """Return parameters with the same values, which lie one behind the other in one buffer."""
    values = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    parts = values.split([parameter.numel() for parameter in parameters])
    return [
        nn.Parameter(part.view(parameter.shape), parameter.requires_grad)
        for part, parameter in zip(parts, parameters, strict=True)
    ]


def owned(module, parameters, later=()):
    """Return the values of momentum on each rank after a step, and the bytes that the state takes
    in memory.
    """

    def run(rank, size):
        own, others = (copies_of(each) if each else [] for each in (parameters, later))
        optimizer = module.ShardedOptimizer(own, torch.optim.SGD, lr=0.1, momentum=0.9)
        if others:
            optimizer.add_param_group({"params": others})
        for parameter in [*own, *others]:
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        with TensorCounter() as counter:
            optimizer.step()
        states = [optimizer.state.get(parameter) for parameter in [*own, *others]]
        sizes = [state["momentum_buffer"].numel() if state else 0 for state in states]
        return sizes, bytes_at_rest(counter, 4 * sum(sizes)), [*own, *others]

    results = on_ranks(2, run)
    for rank, (_, _, found) in enumerate(results):
        for parameter, start in zip(found, [*parameters, *later], strict=True):
            right = start - 0.1 if start.requires_grad else start
            check_tensor(parameter, right, f"after one step of 0.1, on rank {rank} the parameter",
                         dtype=None)  # fmt: skip
    return [sizes for sizes, _, _ in results], [grown for _, grown, _ in results]


@pytest.mark.task("a3.14")
def test_the_state_is_balanced(implementation):
    """Six trained parameters of 8 to 64 values, and a frozen one of 500 that needs no state."""
    sizes = [8, 16, 500, 16, 32, 48, 64]
    parameters = [torch.zeros(n).requires_grad_(n < 500) for n in sizes]
    states, _ = owned(implementation(MODULE), parameters)
    found = [sum(each) for each in states]
    likely = ""
    if max(found) == 184:
        likely = "all is on one rank"
        if min(found) == 184:
            likely = "each rank keeps the state of all parameters"
        elif min(found) == 0:
            likely = "the frozen parameter counts: it has no state"
    elif max(found) == 112:
        likely = "the parameters are dealt out in turn: give the largest away first"
        likely += " (they are views of one buffer: a parameter's bytes are not its storage's)"
    check_true(
        sum(found) == 184 and max(found) <= 96,
        "the state of parameters of 8, 16, 16, 32, 48 and 64 values is not balanced: 64 + 16 + 16 "
        "and 48 + 32 + 8 is what the rule of the handout gives",
        {"values on the ranks": found} | ({"likely": likely} if likely else {}),
    )


@pytest.mark.task("a3.14")
def test_a_later_group_fills_the_emptier_rank(implementation):
    states, _ = owned(implementation(MODULE), [ones(6)], [ones(4), ones(1)])
    check_equal(
        sorted(map(sum, states)),
        [5, 6],
        "the values of state on the two ranks, for a group with a parameter of 6 values and a "
        "later group with parameters of 4 and 1",
    )


@pytest.mark.task("a3.14")
def test_bytes_that_the_state_takes(implementation):
    """Four parameters of 4,096 values: two momentum buffers on each rank."""
    _, grown = owned(implementation(MODULE), [ones(64, 64) for _ in range(4)])
    for rank, found in enumerate(grown):
        check_true(
            found <= 2 * 16_384 + 4_096,
            f"rank {rank} keeps more than its half of the state (of four buffers of 16,384 bytes)",
            {"expected": "32,768 bytes", "got": f"{found:,} bytes"},
        )


@pytest.mark.task("a3.14")
def test_a_rank_may_own_nothing(implementation):
    states, _ = owned(implementation(MODULE), [ones(3)])
    check_equal(sorted(states), [[0], [3]], "the values of state of one parameter on two ranks")


@pytest.mark.task("a3.14")
def test_a_parameter_is_sent_once(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        model = model_of(0, Blocks)
        model.blocks[0].requires_grad_(False)
        optimizer = module.ShardedOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        RECORD.clear()
        optimizer.step()
        return [(each.kind, each.nbytes) for each in RECORD.started()]

    started = on_ranks(2, run)[0]
    trained = [p for n, p in model_of(0, Blocks).named_parameters() if "blocks.0" not in n]
    whole = sum(4 * p.numel() for p in trained)
    sent = sum(nbytes * (2 if kind == "all_reduce" else 1) for kind, nbytes in started)
    check_true(
        sent <= 1.25 * whole,
        "a step sends more than every trained parameter once (an all-reduce sends it twice)",
        {"expected": f"{whole:,} bytes", "got": f"{sent:,} bytes"},
    )


@pytest.mark.task("a3.14")
def test_a_layer_that_is_trained_later(implementation):
    """It was frozen when the optimizer was made. Another one is frozen from then on."""
    module = implementation(MODULE)

    def run(rank, size):
        early, late = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2), False)
        optimizer = module.ShardedOptimizer(iter([early, late]), torch.optim.SGD, lr=1.0)
        optimizer.step()
        for parameter in (early, late):
            parameter.requires_grad_(parameter is late)
        late.grad = torch.ones(2)
        RECORD.clear()
        optimizer.step()
        sent = sum(each.nbytes for each in RECORD.started("broadcast"))
        return early, late, sent

    for rank, (early, late, sent) in enumerate(on_ranks(2, run)):
        check_tensor(early, torch.zeros(3), f"a parameter that is frozen, on rank {rank}")
        hint = "the owner sends what is trained now"
        causes = {f"it is not updated, or not sent: {hint}": torch.zeros(2)}
        what = f"on rank {rank}, a parameter that was frozen at the start, after a step of 1"
        check_tensor(late, torch.full((2,), -1.0), what, causes)
        check_true(sent <= 8, f"a frozen parameter is sent: {hint}", {"bytes": sent})


@pytest.mark.task("a3.14")
def test_settings_in_new_dictionaries(implementation):
    """PyTorch's load_state_dict puts new dictionaries into param_groups."""
    module = implementation(MODULE)
    weight = nn.Parameter(torch.zeros(2))
    optimizer = module.ShardedOptimizer([{"params": iter([weight])}], torch.optim.SGD, lr=1.0)
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    optimizer.param_groups[0]["lr"] = 0.25
    weight.grad = torch.ones(2)
    optimizer.step()
    causes = {
        "the settings are read from dictionaries that are no longer in param_groups": torch.full(
            (2,), -1.0
        ),
        "params may be an iterator: PyTorch makes a list of it": torch.zeros(2),
    }
    what = "a weight of 0 after a step of 0.25, set in a new dictionary in param_groups"
    check_tensor(weight, torch.full((2,), -0.25), what, causes)


@pytest.mark.task("a3.14")
def test_a_closure(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        weight = nn.Parameter(torch.ones(3))
        optimizer = module.ShardedOptimizer([weight], torch.optim.SGD, lr=0.5)
        calls = []

        def closure():
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = (weight**2).sum()
            if loss.requires_grad:
                loss.backward()
            return loss

        result = optimizer.step(closure)
        optimizer.zero_grad()
        nothing = optimizer.step()
        return calls, result, weight, nothing

    for calls, result, weight, nothing in on_ranks(2, run):
        check_equal(calls, [True], "the calls of the closure, and whether gradients are enabled")
        check_tensor(result, torch.tensor(3.0), "what step(closure) returns: the closure's result")
        check_true(nothing is None, "step() without a closure returns None")
        check_tensor(weight, torch.zeros(3), "the weight after a step of half of its gradient")


@pytest.mark.task("a3.14")
def test_a_closure_that_sets_the_learning_rate(implementation):
    module = implementation(MODULE)
    weight = nn.Parameter(torch.ones(2))
    optimizer = module.ShardedOptimizer([weight], torch.optim.SGD, lr=1.0)

    def closure():
        weight.grad = torch.ones(2)
        optimizer.param_groups[0]["lr"] = 0.25
        return 7

    optimizer.step(closure)
    hint = "call it first: what it changes in param_groups holds for this step"
    causes = {f"the rate that was set before the closure is used; {hint}": torch.zeros(2)}
    what = "a weight of 1 after a step of 0.25, which the closure sets in param_groups"
    check_tensor(weight, torch.full((2,), 0.75), what, causes)


@pytest.mark.task("a3.14")
def test_state_that_the_optimizer_has_at_the_start(implementation):
    """Adagrad fills its state when it is made."""
    module = implementation(MODULE)

    def run(rank, size):
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        return len(module.ShardedOptimizer(parameters, torch.optim.Adagrad, lr=0.1).state)

    for rank, found in enumerate(on_ranks(2, run)):
        what = f"Adagrad fills its state when it is made: the parameters in `state` on rank {rank}"
        check_equal(found, 1, f"{what}, which owns one of two")


@pytest.mark.task("a3.14")
def test_settings_are_those_of_the_optimizer(implementation):
    """In one process, without a group."""
    module = implementation(MODULE)
    model = nn.Linear(2, 1)
    optimizer = module.ShardedOptimizer(model.parameters(), torch.optim.AdamW, lr=0.3)
    plain = torch.optim.AdamW(model.parameters(), lr=0.3)
    check_true(isinstance(optimizer, torch.optim.Optimizer), "ShardedOptimizer is an Optimizer")
    check_equal(optimizer.defaults, plain.defaults, "defaults, which are those of AdamW")
    found, right = (
        [{k: v for k, v in group.items() if k != "params"} for group in each.param_groups]
        for each in (optimizer, plain)
    )
    check_equal(found, right, "param_groups, with the settings of AdamW")
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    check_equal(len(optimizer.state), 2, "the parameters with state in one process")
