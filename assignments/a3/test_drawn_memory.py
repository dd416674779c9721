"""a3.9 and a3.10 on drawn inputs: micro-batches, and checkpointed functions.

A checkpointed function is compared with the function itself, which is the oracle.
"""

import pytest
import torch
from batch_oracles import plainly
from hypothesis import strategies as st
from torch import nn

from lm_course.drawn_inputs.constant_strategies import near_constants, sizes_of_code
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import LAYOUTS, tensor
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within
from lm_course.grading.comparisons import check_equal, check_true

pytestmark = pytest.mark.usefixtures("a3", "own_checkpoint")
booleans = st.booleans()
seeds = st.integers(0, 99)


# a3.9

ROLES = ("used", "used", "used", "frozen", "frozen with a gradient", "unused", "in some parts")
SHAPES = ((), (1,), (3,), (2, 3), (4, 1, 2), (0, 3), (40,))


@st.composite
def accumulations(draw):
    parameter = st.tuples(
        st.sampled_from(["float32", "float32", "float64", "bfloat16", "float16"]),
        st.sampled_from(SHAPES),
        st.sampled_from(ROLES),
    )
    counts = st.one_of(st.integers(0, 5), st.sampled_from([1, 300, 70_000]))
    count = draw(near_constants(st.integers(1, 6), 1, 300))
    parts = draw(st.lists(st.tuples(counts, seeds), min_size=min(count, 12), max_size=12))[:count]
    parts = (parts * (count // 12 + 1))[:count]
    if draw(st.integers(0, 11)) == 5:
        parts = [(0, seed) for _, seed in parts] if draw(booleans) else []
    return {
        "parameters": draw(st.lists(parameter, min_size=1, max_size=4)),
        "tied": draw(booleans),
        "parts": parts,
        "size": draw(sizes_of_code(st.sampled_from([1.0, 1.0, 1e-3, 300.0, 2e4]), 2e4)),
        "counts": draw(st.sampled_from(["int", "int64", "int32"])),
        "given_as": draw(st.sampled_from(["list", "tuple", "generator"])),
        "training": draw(booleans),
        "earlier": draw(st.sampled_from(["none"] * 9 + ["zeros"])),
    }


class Drawn(nn.Module):
    """Parameters of several types and roles; the first has two names if `tied`."""

    def __init__(self, parameters, tied):
        super().__init__()
        self.roles = [role for _, _, role in parameters]
        generator = torch.Generator().manual_seed(1)
        for number, (dtype, shape, role) in enumerate(parameters):
            values = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
            parameter = nn.Parameter(values, requires_grad=not role.startswith("frozen"))
            if role == "frozen with a gradient":
                parameter.grad = torch.ones_like(values)
            self.register_parameter(f"p{number}", parameter)
        if tied:
            self.again = self.p0

    def loss_sum(self, part, size, double):
        """A sum over the parameters that a part uses, of factor * tanh of the parameter."""
        count, seed = part
        generator = torch.Generator().manual_seed(seed)
        wide = torch.float64 if double else torch.float32
        total = torch.zeros((), dtype=wide, requires_grad=True) * 1
        for number, role in enumerate(self.roles):
            parameter = getattr(self, f"p{number}")
            factors = torch.randn(parameter.shape, generator=generator)
            if role == "unused" or (role == "in some parts" and seed % 2):
                continue
            factors = (factors * size).to(parameter.dtype).to(wide) * bool(count)
            total = total + (factors * parameter.to(wide)).sum()
        if hasattr(self, "again"):
            total = total + bool(count) * self.again.to(wide).sin().sum()
        return total


def call_accumulation(module, parameters, tied, parts, size, counts, given_as, training, earlier):
    """Accumulate in one model, while another one has gradients already."""
    model, other = Drawn(parameters, tied), Drawn(parameters, False)
    model.train(training)
    other.p0.grad = torch.ones_like(other.p0)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    if earlier == "zeros":
        model.p0.grad = torch.zeros_like(model.p0)
    double = any(dtype == "float64" for dtype, _, _ in parameters)
    kept = []

    def loss_sum_of(given, part):
        check_true(given is model, "loss_sum_of must be called with the model itself")
        total = given.loss_sum(part, size, double)
        count = part[0] if counts == "int" else torch.tensor(part[0], dtype=getattr(torch, counts))
        kept.append((total, float(total.detach()), count, part[0]))
        return total, count

    given = {"list": list, "tuple": tuple, "generator": iter}[given_as](parts)
    loss = module.accumulate_gradients(model, loss_sum_of, given)
    check_true(not loss.requires_grad, "the returned loss holds the graph: return it detached")
    for total, value, count, number in kept:
        check_true(
            float(total.detach()) == value and int(count) == number,
            "accumulate_gradients changes a sum or a number that loss_sum_of has returned: add "
            "into a tensor of your own (.detach() shares memory)",
        )
    check_equal(model.training, training, "model.training after accumulate_gradients")
    for name, x in model.named_parameters():
        check_true(torch.equal(x, before[name]), f"accumulate_gradients changes {name} itself")
    return {"loss": loss, **{name: x.grad for name, x in model.named_parameters()}}


def view_accumulation(found):
    """16 bits: one rounding of the sum in float32."""
    tolerances = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-4, 1e-6)}
    tolerances |= {torch.bfloat16: (2**-7, 1e-5), torch.float16: (2**-9, 1e-5)}
    seen = {}
    for name, x in found.items():
        if x is None:
            seen[name] = None
            continue
        rtol, atol = tolerances[x.dtype]
        largest = max(1.0, float(x.abs().max())) if x.numel() else 1.0
        seen[name] = Within(x, rtol, atol * largest)
    return seen


# a3.10

FUNCTIONS = {
    "layers": lambda own, way, a, b: own.layers(a) * b,
    "inputs alone": lambda own, way, a, b: a.sin() * b + a * b**2,
    "several": lambda own, way, a, b: (own.layers(a), 2 * b, a.argmax(-1), b.detach()),
    "a tuple of one": lambda own, way, a, b: (own.layers(a + b),),
    "the input itself": lambda own, way, a, b: a,
    "a view": lambda own, way, a, b: (own.layers(b) + a).t(),
    "nested": lambda own, way, a, b: way(own.layers, a) * way(lambda x: own.layers(x) * a, b),
    "draws": lambda own, way, a, b: a * torch.rand(a.shape) + own.layers(b) * torch.randn(()),
    "one parameter": lambda own, way, a, b: own.scale * a.detach(),
    "ids": lambda own, way, a, b: (
        own.table((a.detach().abs() * 3).long().clamp(max=6)) * b[..., None]
    ),
}


class Layers(nn.Module):
    def __init__(self, width, dtype, dropout):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(width, 5), nn.Linear(5, width)
            self.scale, self.table = nn.Parameter(torch.ones(())), nn.Embedding(7, 3)
        self.layers = nn.Sequential(linear[0], nn.Dropout(dropout), linear[1])
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.to(dtype)


class Calling(nn.Module):
    """A module that calls a function. In eval mode, that may draw numbers, too."""

    def __init__(self, function, given):
        super().__init__()
        self.function = function
        self.train(given != "module in eval mode")

    def forward(self, *inputs):
        return self.function(*inputs)


@st.composite
def checkpoints(draw):
    dtype = draw(st.sampled_from(["float32", "float32", "float64"]))
    shape = draw(near_constants(st.integers(1, 4), 1, 70)), draw(st.integers(1, 4))
    if draw(st.integers(0, 9)) == 6:
        shape = 0, shape[1]
    layouts = tuple(layout for layout in LAYOUTS if layout != "expanded")
    count = draw(near_constants(st.integers(1, 3), 1, 40))
    return {
        "a": tensor(draw, shape, (dtype,), layouts=layouts if shape[0] else ("contiguous",)),
        "b": tensor(draw, shape, (dtype,), layouts=layouts if shape[0] else ("contiguous",)),
        "function": draw(st.sampled_from(sorted(FUNCTIONS))),
        "needs": draw(st.sampled_from(["ab", "ab", "a", "b", ""])),
        "from_leaves": draw(booleans),
        "same_input": draw(st.sampled_from([False, False, True])),
        "more": draw(st.sampled_from([(), (3,), (None, "x"), ([1, 2], {"k": 0.0}, False)])),
        "calls": count,
        "draws_between": draw(booleans),
        "dropout": draw(st.sampled_from([0.0, 0.3])),
        "given": draw(st.sampled_from(["function", "method", "module", "module in eval mode"])),
        "mode": draw(st.sampled_from(["grad"] * 6 + ["autocast", "no_grad", "outer_autocast"])),
        "backward": draw(st.sampled_from([1, 1, 2])),
        "seed": draw(seeds),
    }


def run(way, a, b, function, needs, from_leaves, same_input, more, calls, draws_between, dropout,
        given, mode, backward, seed):  # fmt: skip
    """Call the function several times through `way`, go backward, and return all that shows."""
    if a.shape[0] == 0 and function == "several":
        function = "layers"  # argmax needs a row
    own = Layers(a.shape[1], a.dtype, dropout)
    leaves = [x.detach().requires_grad_(name in needs) for name, x in (("a", a), ("b", b))]
    inputs = leaves if from_leaves else [x * 1 for x in leaves]
    if same_input:
        inputs = [inputs[0], inputs[0]]
    body, got, found = FUNCTIONS[function], [], []

    def called(first, second, *others):
        got.append(others)
        return body(own, way, first, second)

    function_given = called if given == "function" else Calling(called, given)
    if given == "method":
        function_given = function_given.forward
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with (
            torch.set_grad_enabled(mode != "no_grad"),
            torch.autocast("cpu", torch.bfloat16, enabled="autocast" in mode),
        ):
            for number in range(calls):
                ordered = inputs if number % 2 == 0 else inputs[::-1]
                results = way(function_given, *ordered, *more)
                found += results if isinstance(results, tuple) else (results,)
                if draws_between:
                    torch.rand(3)
        after = torch.rand(2)
        loss = own.scale * 0.0
        for number, result in enumerate(found):
            if result.is_floating_point():
                weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(number))
                loss = loss + (result.to(a.dtype) * weight.to(a.dtype)).sum()
        if mode != "no_grad":
            with torch.autocast("cpu", torch.bfloat16, enabled=mode == "outer_autocast"):
                for time in range(backward):
                    loss.backward(retain_graph=time + 1 < backward)
        for each in got:
            check_true(
                list(map(id, each)) == list(map(id, more)),
                "the function gets other arguments than checkpointed got, or copies of them: pass "
                "on what is not a tensor as it is, both times",
            )
        last = torch.rand(2)
    named = {"a": leaves[0], "b": leaves[1], **dict(own.named_parameters())}
    return {
        "results": [x.detach().clone() for x in found],
        "gradients": {name: x.grad for name, x in named.items()},
        "random numbers after forward and backward": [after, last],
        "autocast": "autocast" in mode,
    }


def call_checkpointed(module, **drawn):
    return run(module.checkpointed, **drawn)


def checkpoint_oracle(**drawn):
    return run(plainly, **drawn)


def view_checkpoint(found):
    """Gradients that are None and those that are 0 are the same; sums are in another order."""

    allowed = 0.05 if found["autocast"] else 1e-5

    def near(x):
        largest = max(1.0, float(x.abs().max())) if x.numel() else 1.0
        return Within(x, allowed, allowed * largest)

    gradients = {
        name: 0.0 if x is None or not x.any() else near(x) for name, x in found["gradients"].items()
    }
    return {**found, "results": list(map(near, found["results"])), "gradients": gradients}


SPACES = [
    Space(
        "a3.9",
        "training.gradient_accumulation.accumulate_gradients",
        accumulations(),
        call_accumulation,
        view_accumulation,
    ),
    Space(
        "a3.10",
        "training.activation_checkpointing.checkpointed",
        checkpoints(),
        call_checkpointed,
        view_checkpoint,
        oracle=checkpoint_oracle,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
