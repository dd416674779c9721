"""a3.2 to a3.5 on drawn inputs: two optimizers that step in turn, clipping, and Newton-Schulz."""

import math
from dataclasses import dataclass
from itertools import cycle, islice

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code
from lm_course.drawn_inputs.differentiated import within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import (
    LAYOUTS,
    LONGEST_AXIS,
    SEEDS,
    TensorInput,
    shapes,
    tensor,
)
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within
from lm_course.grading.comparisons import check_true

pytestmark = pytest.mark.usefixtures("a3", "own_optimizers")

booleans = st.booleans()
layouts = st.sampled_from(LAYOUTS)
own_layouts = st.sampled_from([layout for layout in LAYOUTS if layout != "expanded"])  # written to
lengths = near_constants(st.integers(1, 5), 1, LONGEST_AXIS)
NAMES = ["weight", "bias", "norm.weight", "token_embedding.weight", "blocks.0.mlp.up.weight"]


# Optimizers


@dataclass(frozen=True)
class ParameterInput:
    """A parameter that can be built, with gradients.

    Attributes:
        value: its values.
        grad_layout: how its gradients lie in memory.
        is_frozen: whether it has a gradient, but needs none.
    """

    value: TensorInput
    grad_layout: str
    is_frozen: bool

    def build(self):
        return nn.Parameter(self.value.build())

    def set_gradient(self, parameter, size, seed):
        parameter.requires_grad_(True)
        parameter.grad = None
        if size is not None:
            described = TensorInput(
                self.value.shape, self.value.dtype, self.grad_layout, self.value.seed + seed, size
            )
            parameter.grad = described.build()
        parameter.requires_grad_(not self.is_frozen)


@st.composite
def optimizer_runs(draw, settings, shape, dtypes, rates, gradient_sizes):
    """Draw two optimizers, and steps of either: a learning rate, and a size of the gradient for
    each parameter. None: it has no gradient.
    """
    optimizers = []
    for _ in range(2):
        types = draw(st.lists(st.sampled_from(dtypes), min_size=1, max_size=3))  # in turn
        few = near_constants(st.integers(1, 4), 1, 20)
        sizes = [draw(shape)]
        for _ in range(draw(few) - 1):  # often that of another one, or its transpose
            last = sizes[-1]
            sizes.append(draw(st.one_of(shape, st.sampled_from([last, last[::-1]]))))
        own = [
            (
                draw(texts_of_code(st.sampled_from(NAMES))),
                ParameterInput(
                    TensorInput(size, dtype, draw(own_layouts), draw(SEEDS)),
                    draw(layouts),
                    draw(st.sampled_from([False, False, False, True])),
                ),
            )
            for size, dtype in zip(sizes, cycle(types), strict=False)
        ]
        named = tuple((f"{number}.{name}", each) for number, (name, each) in enumerate(own))
        optimizers.append((draw(settings), named))
    sizes = [*gradient_sizes, None]
    if any(fields.get("eps") == 0 for fields, _ in optimizers):
        sizes.remove(0.0)  # 0 / 0
    if any(0.0 in fields.get("betas", ()) for fields, _ in optimizers):
        # v + (1 - 0) (g² - v) is right as well, and loses a small g² beside a large v.
        sizes = [size for size in sizes if size in (1.0, 0.0, None)]
    one = st.tuples(
        st.integers(0, 1),
        st.sampled_from(rates),
        st.lists(st.sampled_from(sizes), min_size=1, max_size=4).map(tuple),
    )
    return {
        "optimizers": tuple(optimizers),
        "steps": tuple(draw(st.lists(one, min_size=1, max_size=6))),
        "number": draw(near_constants(st.integers(1, 8), 1, 70)),
        "resumed_at": draw(st.none() | st.integers(0, 3)),
        "ahead": draw(near_constants(st.sampled_from([0, 0, 1000, 10**5]), 0, 10**6)),
        "is_generator": draw(booleans),
    }


def call_optimizer(name):
    """Return a call that makes two optimizers before either steps, and takes the steps again and
    again until there were `number`. At one of them, a new optimizer continues from the state, which
    says that there were more steps by `ahead`.
    """

    def call(module, optimizers, steps, number, resumed_at, ahead, is_generator):
        def make(settings, weights):
            pairs = weights.items()
            return getattr(module, name)(iter(pairs) if is_generator else pairs, **settings)

        all_weights = [{key: each.build() for key, each in named} for _, named in optimizers]
        for (_, named), weights in zip(optimizers, all_weights, strict=True):
            for key, each in named:
                each.set_gradient(weights[key], None, 0)
        made = [make(*pair) for pair in zip((s for s, _ in optimizers), all_weights, strict=True)]
        for count, (which, rate, sizes) in enumerate(islice(cycle(steps), number)):
            settings, named = optimizers[which]
            weights = all_weights[which]
            if count == resumed_at:
                kept = {key: x.clone() for key, x in made[which].state().items()}
                if "steps" in kept:
                    kept["steps"] += ahead
                made[which] = make(settings, weights)
                made[which].load_state(kept)
            for (key, each), size in zip(named, cycle(sizes), strict=False):
                each.set_gradient(weights[key], size, 1000 * (count + 1))
            before = {key: (x.detach().clone(), x._version) for key, x in weights.items()}
            made[which].step(rate)
            check_counted(name, before, weights)
        found, gradients = {}, {}
        for which, weights in enumerate(all_weights):
            wide = optimizers[which][0].get("dtype") == torch.float64
            for key, weight in weights.items():
                place = f"{key} of {which}"
                found[place] = weight.detach().clone(), wide
                if weight.grad is not None:
                    gradients[place] = weight.grad.clone()
        return {"weights": found, "gradients": gradients}

    return call


def check_counted(name, before, weights):
    """Fail if a weight has changed, and PyTorch has not counted a change in place."""
    for key, weight in weights.items():
        values, version = before[key]
        check_true(
            weight._version > version or torch.equal(weight, values),
            f"{name}.step changes a weight so that autograd does not notice it (.data does): a "
            "backward pass through the earlier weight would use the new one in place of an error. "
            "Change the parameter itself, under torch.no_grad()",
            {"parameter": key},
        )


def view_weights(tolerances, rough=None):
    """Gradients stay as they are. `rough`: the tolerance where Muon does not compute in float64."""

    def tolerance(x, wide):
        return tolerances[x.dtype] if rough is None or wide else rough

    def view(value):
        return {
            "weights": {
                key: Within(x, *tolerance(x, wide)) for key, (x, wide) in value["weights"].items()
            },
            "gradients": within(0.0, 0.0)(value["gradients"]),
        }

    return view


def some_of(choices):
    """Settings, of which any may be left out."""
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in choices.items()})


ADAMW_SETTINGS = some_of(
    {
        "betas": [(0.9, 0.95), (0.8, 0.97), (0.0, 0.9), (0.9, 0.0), (0.5, 0.999), (0.99, 0.99999)],
        "eps": [1e-8, 1e-6, 0.1, 0.5, 0.0],
        "weight_decay": [0.1, 0.0, 0.3, 1.5],
    }
)
# In bfloat16 a mean has three digits, so only betas and rates that keep the update small.
ROUNDED_SETTINGS = some_of(
    {
        "betas": [(0.9, 0.95), (0.8, 0.9)],
        "eps": [1e-8, 1e-6, 0.1, 0.5],
        "weight_decay": [0.1, 0.0, 0.3, 1.5],
    }
)
SIZES = (1.0, 1.0, 1e3, 1e-3, 1e-8, 0.0)
adamw_runs = st.one_of(
    optimizer_runs(
        ADAMW_SETTINGS, shapes(0, 3, 4), ["float32", "float64"], [0.1, 1e-3, 1.0, 0.0], SIZES
    ),
    optimizer_runs(
        ADAMW_SETTINGS, shapes(0, 3, 4), ["float32", "float64"], [0.1, 1e-3, 1.0, 0.0], SIZES
    ),
    optimizer_runs(ROUNDED_SETTINGS, shapes(0, 3, 4), ["bfloat16"], [0.1, 1e-3, 0.0], SIZES).map(
        lambda run: {**run, "number": min(run["number"], 4)}
    ),
)
MUON_SETTINGS = some_of(
    {
        "momentum": [0.95, 0.9, 0.5, 0.0],
        "weight_decay": [0.1, 0.0, 0.3, 1.5],
        "shape_scale": ["original", "match_adamw"],
        "dtype": [torch.float64, torch.float32, None],
    }
)


# a3.3


@dataclass(frozen=True)
class NoGradient:
    """A parameter of this type has none."""

    dtype: str


@st.composite
def clippings(draw):
    def gradient():
        if draw(st.integers(0, 4)) == 1:
            return NoGradient(draw(st.sampled_from(["float32", "float64", "bfloat16", "float16"])))
        shape = draw(shapes(0, 3, 4))
        dtypes = ("float32", "float32", "float64", "bfloat16", "float16")
        drawn = tensor(draw, shape, dtypes, (1.0, 1.0, 300.0, 1e-3, 1e-7))
        return TensorInput(shape, drawn.dtype, draw(own_layouts), drawn.seed, drawn.size)

    number = draw(near_constants(st.integers(0, 5), 0, 20))
    return {
        "gradients": tuple(gradient() for _ in range(number)),
        "max_norm": draw(st.sampled_from([1.0, 0.5, 3.0, 100.0, 1e-3, 1e-7, 0.0, math.inf])),
        "bad": draw(st.sampled_from(["", "", "", "", "nan", "inf", "-inf"])),
        "frozen": draw(st.sampled_from(["none", "none", "the first", "all"])),
        "is_generator": draw(booleans),
    }


def call_clip(module, gradients, max_norm, bad, frozen, is_generator):
    """Clip the gradients, also of parameters that were frozen after the backward pass. If the norm
    is not finite, the handout leaves open what they become.
    """
    built = [None if isinstance(each, NoGradient) else each.build() for each in gradients]
    parameters = [
        nn.Parameter(torch.zeros(2, dtype=getattr(torch, each.dtype)) if x is None else x * 0)
        for x, each in zip(built, gradients, strict=True)
    ]
    for each, x in zip(parameters, built, strict=True):
        each.grad = x
    for each in parameters[: {"none": 0, "the first": 1}.get(frozen)]:
        each.requires_grad_(False)
    present = [x for x in built if x is not None]
    if bad and present:
        present[-1][(-1,) * present[-1].ndim] = float(bad)
    norm = module.clip_gradients(iter(parameters) if is_generator else parameters, max_norm)
    found = {"the norm": norm}
    if not bad:
        found |= {f"gradient {i}": x.clone() for i, x in enumerate(present)}
        found["which are still there"] = tuple(
            each.grad is x for each, x in zip(parameters, built, strict=True)
        )
    return found


CLIPPED = {
    torch.float64: (1e-9, 0.0),
    torch.float32: (1e-5, 0.0),
    torch.bfloat16: (2**-7, 0.0),
    torch.float16: (2**-9, 2e-7),
}


def view_clipped(found):
    return {
        key: Within(x, *CLIPPED[x.dtype]) if isinstance(x, torch.Tensor) else x
        for key, x in found.items()
    }


# a3.4


@st.composite
def matrices(draw):
    batch = draw(shapes(0, 3, 3))
    sizes, offsets = (1.0, 1.0, 1e3, 1e-3, 1e-8, 0.0), (0.0, 0.0, 5.0)
    shape = (*batch, draw(lengths), draw(lengths))
    dtypes = ("float32", "float64")
    drawn = tensor(draw, shape, dtypes, sizes, offsets)
    return {
        "matrices": drawn,
        "steps": draw(st.none() | near_constants(st.integers(0, 7), 0, 8)),
    }


def call_newton_schulz(module, matrices, steps):
    return module.newton_schulz(matrices, *([] if steps is None else [steps]))


def view_matrices(value):
    """A singular value near 0 grows by 3.4 in each step, and so does its rounding."""
    return Within(value, *((1e-8, 1e-8) if value.dtype == torch.float64 else (2e-3, 2e-3)))


SPACES = [
    Space(
        "a3.2",
        "training.optimizers.AdamW.step",
        adamw_runs,
        call_optimizer("AdamW"),
        view_weights(
            {
                torch.float64: (1e-9, 1e-10),
                torch.float32: (1e-4, 1e-4),
                torch.bfloat16: (2**-6, 1e-2),
            }
        ),
        draws=80,
    ),
    Space(
        "a3.3",
        "training.optimizers.clip_gradients",
        clippings(),
        call_clip,
        view_clipped,
        draws=80,
    ),
    Space(
        "a3.4",
        "training.optimizers.newton_schulz",
        matrices(),
        call_newton_schulz,
        view_matrices,
    ),
    Space(
        "a3.5",
        "training.optimizers.Muon.step",
        optimizer_runs(
            MUON_SETTINGS,
            st.tuples(lengths, lengths),
            ["float32", "float64"],
            [0.1, 1e-3, 0.5, 0.0],
            (1.0, 1.0, 1e3, 1e-3, 0.0),
        ),
        call_optimizer("Muon"),
        view_weights({torch.float64: (1e-8, 1e-8), torch.float32: (2e-3, 2e-3)}, (2e-3, 2e-3)),
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
