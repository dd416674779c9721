"""a3.10: functions that keep only their inputs for the backward pass."""

import gc

import pytest
import torch
from batch_oracles import AliveBytes, plainly
from torch import nn

from lm_course.containment.counted_work import TensorCounter, saved_values
from lm_course.grading.comparisons import Words, check_close, check_equal, check_raises, check_true
from lm_course.grading.tensor_comparisons import check_tensor

pytestmark = pytest.mark.usefixtures("a3", "own_checkpoint")
MODULE = "training.activation_checkpointing"


def numbers(*shape, seed=0, needs=True):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(needs)


def layers_of(width=6, hidden=8, dropout=0.0):
    torch.default_generator.manual_seed(0)
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
    )


def gradients_of(way, run, layers, x):
    """Return the result, the gradients and the next random number, by name."""
    torch.default_generator.manual_seed(1)
    layers.zero_grad()
    x.grad = None
    result = run(way, layers, x)
    after = torch.rand(1)
    try:
        result.square().sum().backward()
    except RuntimeError as error:
        cause = "the second run must begin a new graph, at detached inputs" * (
            "second" in str(error)
        )
        sentence = f"backward through a checkpointed function fails: {str(error).splitlines()[0]}"
        check_true(False, sentence, {"likely": Words(cause)} if cause else None)
    found = {"the result": result, "the gradient of x": x.grad}
    for name, parameter in layers.named_parameters():
        found[f"the gradient of {name}"] = parameter.grad
    found["the next random number after forward"] = after
    found["the next random number after backward"] = torch.rand(1)
    return found


def compare(checkpointed, run, layers, x, what, causes=None):
    """Compare with the function as it is, without a checkpoint."""
    expected = gradients_of(plainly, run, layers, x)
    got = gradients_of(checkpointed, run, layers, x)
    for name, right in expected.items():
        found = got[name]
        if right is None:
            check_true(found is None, f"{name} of {what} should be None")
            continue
        check_true(found is not None, f"{name} of {what} is None: it does not reach it")
        wrong = {cause: value for (place, cause), value in (causes or {}).items() if place in name}
        check_tensor(found, right, f"{name} of {what}", wrong, rtol=1e-5, atol=1e-6)


@pytest.mark.task("a3.10")
def test_a_product_by_hand(implementation):
    """3 w² with w = 2: the handout's example."""
    w = nn.Parameter(torch.tensor(2.0))
    x = torch.tensor(3.0, requires_grad=True)
    result = implementation(MODULE).checkpointed(lambda x: x * w.square(), x)
    check_close(result, 12.0, 0, 1e-6, "checkpointed x w² with x = 3 and w = 2")
    result.backward()
    check_true(x.grad is not None, "no gradient reaches the input of a checkpointed function")
    check_close(x.grad, 4.0, 0, 1e-6, "the gradient of x in x w²")
    check_true(
        w.grad is not None, "no gradient reaches a parameter that a checkpointed function uses"
    )
    causes = {"backward went through the function twice": 24.0}
    check_close(w.grad, 12.0, 0, 1e-6, "the gradient of w in x w²", causes)


@pytest.mark.task("a3.10")
@pytest.mark.parametrize("needs", [True, False], ids=["input with gradient", "input without"])
def test_only_the_input_is_kept(implementation, needs):
    checkpointed, layers = implementation(MODULE).checkpointed, layers_of(8, 512)
    x = numbers(64, 8, needs=needs)
    for inner in (layers, lambda x: layers(x) + checkpointed(layers, x)):
        _, kept = saved_values(lambda inner=inner: checkpointed(inner, x))
        others = [shape for shape in kept if shape not in ((64, 8), (0,), (1,), ())]
        check_true(
            not others and sum(kept.values()) <= 2,
            "checkpointed must keep only its inputs for the backward pass",
            {"kept shapes": list(kept), "input": (64, 8)},
        )
        gc.collect()
        with AliveBytes() as counter:
            counter.ignore(x, *layers.parameters())
            result = checkpointed(inner, x)
            gc.collect()
            alive = counter.alive
        check_true(
            alive <= 2 * x.nbytes + 16_384,  # the result, and states of random generators
            "after the forward pass, checkpointed holds more than its input and its result: what "
            "the function computed in between must be freed",
            {"bytes of the result": result.nbytes, "alive": alive, "hidden": 64 * 512 * 4},
        )


@pytest.mark.task("a3.10")
def test_what_a_chain_keeps_at_most(implementation):
    """Eight functions one after another: backward holds what one of them computes."""
    checkpointed, layers, x = implementation(MODULE).checkpointed, layers_of(8, 512), numbers(64, 8)
    peaks, flops = {}, {}
    for name, way in (("plain", plainly), ("checkpointed", checkpointed)):
        gc.collect()
        with AliveBytes() as counter:
            counter.ignore(x, *layers.parameters())
            y = x
            for _ in range(8):
                y = way(layers, y)
            forward = counter.flops
            y.sum().backward()
            del y
            x.grad = None
            layers.zero_grad()
            gc.collect()
            left = counter.alive
        peaks[name], flops[name] = counter.peak_bytes, (forward, counter.flops)
    check_true(
        peaks["checkpointed"] < peaks["plain"] / 2,
        "eight checkpointed functions in a row must need less than half of the memory",
        {"peak bytes without": peaks["plain"], "with": peaks["checkpointed"]},
    )
    check_true(left <= 1000, "memory is kept after backward, and nobody needs it", {"bytes": left})
    forward, whole = flops["plain"]
    causes = {
        "the function runs more than once in the backward pass": whole + 2 * forward,
        "nothing is computed again": whole,
    }
    what = "FLOPs of forward and backward of eight checkpointed functions"
    check_equal(flops["checkpointed"][0], forward, "FLOPs of the forward pass: one run each")
    check_equal(flops["checkpointed"][1], whole + forward, what, causes)


@pytest.mark.task("a3.10")
def test_ids_alone_are_kept(implementation):
    """The first block of a model reads ids: no input of it needs a gradient."""
    checkpointed = implementation(MODULE).checkpointed
    block = nn.Sequential(nn.Embedding(7, 8), layers_of(8, 512))
    ids = torch.zeros(64, dtype=torch.int64)
    _, kept = saved_values(lambda: checkpointed(block, ids))
    check_true(
        sum(kept.values()) <= 2 and all(shape in ((64,), (0,), (1,), ()) for shape in kept),
        "checkpointed must keep only its inputs for the backward pass, also if none of them needs "
        "a gradient",
        {"kept shapes": list(kept), "input": (64,)},
    )


def once(way, layers, x):
    return way(layers, x)


def with_draws_between(way, layers, x):
    y = way(layers, x)
    z = nn.functional.dropout(y, 0.5) + torch.rand(y.shape)
    return way(layers, z)


@pytest.mark.task("a3.10")
@pytest.mark.parametrize("run", [once, with_draws_between], ids=["once", "twice"])
def test_dropout_is_the_same_in_both_runs(implementation, run):
    """And the caller's random state continues as if there were no checkpoint."""
    causes = {
        ("gradient", "dropout drew other numbers in the second run: keep the random state"): (
            lambda got: True
        ),
        ("after backward", "the second run changed the caller's random state: put it back"): (
            lambda got: True
        ),
        ("after forward", "the forward pass must draw as the function alone does"): (
            lambda got: True
        ),
    }
    what = "checkpointed layers with dropout"
    compare(
        implementation(MODULE).checkpointed,
        run,
        layers_of(dropout=0.4),
        numbers(5, 6),
        what,
        causes,
    )


@pytest.mark.task("a3.10")
def test_parameters_of_a_function_without_such_inputs(implementation):
    """An embedding: its input are ids, so no input needs a gradient."""
    checkpointed, table = implementation(MODULE).checkpointed, nn.Embedding(7, 3)
    ids = torch.tensor([[1, 4, 4]])
    result = checkpointed(table, ids)
    check_true(
        result.requires_grad,
        "the result of a checkpointed embedding needs a gradient, although its ids do not: "
        "autograd calls a backward only if an input of it needs one",
    )
    result.sum().backward()
    check_true(table.weight.grad is not None, "no gradient reaches the embedding's weight")
    right = torch.zeros(7, 3)
    right[1], right[4] = 1, 2
    check_tensor(table.weight.grad, right, "the gradient of the weight of an embedding")


COPIED = "the function gets a copy of what is not a tensor: pass it on as it is, both times"


def with_other_arguments(way, layers, x):
    given = {"power": 2}

    def function(fixed, number, x, options, nothing, name):
        assert nothing is None and name == "x"
        check_true(options is given, COPIED)
        return layers(fixed) * number + x ** options["power"]

    return way(function, x.detach() + 1, 3, x, given, None, "x")


def of_a_module_and_its_input(way, layers, x):
    def function(module, x):
        check_true(module is layers, COPIED)
        return module(x)

    return way(function, layers, x)


def with_several_results(way, layers, x):
    results = way(lambda x: (layers(x), 2 * x, x.argmax(-1), x.detach()), x)
    check_true(
        isinstance(results, tuple) and len(results) == 4,
        "a checkpointed function that returns a tuple of 4 must return a tuple of 4",
    )
    return results[0] * results[1] + results[2][:, None]


def with_an_unused_result(way, layers, x):
    return way(lambda x: (layers(x), 2 * x), x)[0]


def with_a_tuple_of_one(way, layers, x):
    results = way(lambda x: (layers(x),), x)
    check_true(isinstance(results, tuple), "a tuple of one tensor must stay a tuple")
    return results[0]


def the_same_twice(way, layers, x):
    return way(lambda first, second: layers(first) * second, x, x)


def from_inside(way, layers, x):
    return way(lambda y: layers(y), (2 * x).sin()) + x


def nested(way, layers, x):
    return way(lambda x: way(layers, x) + way(layers, 2 * x), x)


def out_of_order(way, layers, x):
    first, second = way(layers, x), way(lambda x: layers(x).tanh(), 2 * x)
    return second * first.exp()


CASES = [
    with_other_arguments,
    of_a_module_and_its_input,
    with_several_results,
    with_an_unused_result,
    with_a_tuple_of_one,
    the_same_twice,
    from_inside,
    nested,
    out_of_order,
]


@pytest.mark.task("a3.10")
@pytest.mark.parametrize("run", CASES, ids=lambda run: run.__name__.replace("_", " "))
def test_any_arguments_and_results(implementation, run):
    what = f"a checkpointed function {run.__name__.replace('_', ' ')}"
    checkpointed = implementation(MODULE).checkpointed
    compare(checkpointed, run, layers_of(dropout=0.2), numbers(5, 6), what)


@pytest.mark.task("a3.10")
def test_backward_twice(implementation):
    """With retain_graph, the gradients add up; the function runs once more each time."""
    checkpointed, layers, runs = implementation(MODULE).checkpointed, layers_of(), []

    def function(x):
        runs.append(torch.is_grad_enabled())
        return layers(x)

    x = numbers(5, 6)
    plainly(layers, x).sum().backward()
    right = [x.grad.clone(), layers[0].weight.grad.clone()]
    x.grad = None
    layers.zero_grad()
    result = checkpointed(function, x).sum()
    check_equal(len(runs), 1, "runs of a checkpointed function in its forward pass")
    for times in (1, 2):
        try:
            result.backward(retain_graph=times == 1)
        except RuntimeError as error:
            check_true(False, f"backward number {times} fails: {str(error).splitlines()[0]}")
        for got, each in zip([x.grad, layers[0].weight.grad], right, strict=True):
            causes = {"the gradients of the first backward are lost": each}
            check_tensor(got, times * each, f"a gradient after {times} backward passes", causes)
        check_equal(len(runs), 1 + times, f"runs of the function after {times} backward passes")


@pytest.mark.task("a3.10")
def test_the_second_run_uses_the_same_autocast(implementation):
    """Forward in bfloat16, backward outside of autocast."""
    checkpointed, layers, x, found = (
        implementation(MODULE).checkpointed,
        layers_of(),
        numbers(5, 6),
        [],
    )

    def function(x):
        found.append(layers[0](x).dtype)
        return layers(x)

    with torch.autocast("cpu", torch.bfloat16):
        result = checkpointed(function, x)
    result.float().sum().backward()
    check_equal(
        [str(each) for each in found],
        ["torch.bfloat16"] * 2,
        "types that the function computes in, forward and when it runs again",
        {"autocast ended before backward: keep its settings": lambda got: "float32" in got[-1]},
    )


@pytest.mark.task("a3.10")
@pytest.mark.parametrize("changed", ["floats", "floats without gradient", "ids", "mask"])
def test_an_input_that_was_changed_is_noticed(implementation, changed):
    """As without a checkpoint: an error is better than a gradient of other numbers."""
    checkpointed, layers = implementation(MODULE).checkpointed, layers_of()
    x, fixed, table = numbers(5, 6) * 1, numbers(5, 6, needs=False), nn.Embedding(7, 6)
    ids, mask = torch.tensor([1, 2, 3, 4, 5]), torch.ones(5, 6, dtype=torch.bool)
    given = {"floats": x, "floats without gradient": fixed, "ids": ids, "mask": mask}

    def function(x, fixed, ids, mask):
        return layers(x + table(ids)) * fixed * mask

    result = checkpointed(function, *given.values())
    given[changed].detach().zero_()
    what = f"backward through a checkpointed function with an input ({changed}) that was changed"
    check_raises(RuntimeError, lambda: result.sum().backward(), f"{what} in place")
    compare(checkpointed, once, layers, numbers(5, 6), "checkpointed layers")


@pytest.mark.task("a3.10")
def test_without_gradients_nothing_is_kept(implementation):
    checkpointed, layers, x, runs = (
        implementation(MODULE).checkpointed,
        layers_of(),
        numbers(5, 6),
        [],
    )
    with torch.no_grad(), TensorCounter():
        result = checkpointed(lambda x: runs.append(1) or layers(x), x)
    check_true(not result.requires_grad, "under torch.no_grad(), the result needs no gradient")
    check_equal(len(runs), 1, "runs of the function under torch.no_grad()")
    check_tensor(result, layers(x), "a checkpointed function under torch.no_grad()")


@pytest.mark.task("a3.10")
def test_an_error_reaches_the_caller(implementation):
    """And the checkpoint leaves gradients switched on, and the random state in order."""
    checkpointed = implementation(MODULE).checkpointed

    def function(x):
        raise KeyError("own error")

    try:
        checkpointed(function, numbers(2, 2))
        check_true(False, "an error of the function must reach the caller")
    except KeyError:
        pass
    check_true(torch.is_grad_enabled(), "gradients are switched off after an error in a function")
    compare(checkpointed, once, layers_of(), numbers(5, 6), "checkpointed layers after an error")
