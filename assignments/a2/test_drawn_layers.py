"""a2.1 to a2.5 on drawn inputs: softmax, activations, linear and embedding, norms, feed-forward."""

import math
from dataclasses import replace

import pytest
import torch
from drawn_objects import called, filled
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import Differentiated, within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import SEEDS, TensorInput, integers, shapes, tensor
from lm_course.drawn_inputs.input_spaces import Space

pytestmark = pytest.mark.usefixtures("a2")  # one thread
DRAWS = 25
HALF = {"bfloat16": (2**-7, 4e-3), "float16": (2**-10, 1e-3)}
widths = near_constants(st.integers(1, 8), 1, 300)


def by_type(value, tolerances=HALF, exact=(1e-4, 1e-5), gradients=None):
    """The tolerances of a result depend on its type."""
    dtypes = {str(x.dtype).removeprefix("torch.") for x in value.results}
    half = max((tolerances[dtype] for dtype in dtypes & set(tolerances)), default=None)
    rough = (0.1, 0.1) if half else gradients
    return within(*(half or exact), rough)(value)


# a2.1, a2.2


@st.composite
def logits(draw):
    sizes, offsets = (1.0, 1.0, 30.0, 1e4), (0.0, 0.0, -2e4)
    x = tensor(draw, draw(shapes(1, 4)), sizes=sizes, offsets=offsets)
    return {
        "x": x,
        "dim": draw(st.integers(-len(x.shape), len(x.shape) - 1)),
        "hidden": TensorInput(x.shape, "bool", seed=draw(SEEDS)) if draw(st.booleans()) else None,
        "with_gradient": draw(st.booleans()),
    }


# Float16 ends at 65,504: a little above 11, an exponential is infinite.
TWELVE = [
    {
        "x": TensorInput((3, 5), dtype, offset=offset),
        "dim": -1,
        "hidden": None,
        "with_gradient": False,
    }
    for dtype, offset in (("float16", 13.0), ("float16", -20.0), ("bfloat16", 60.0))
]


def call_softmax(module, x, dim, hidden, with_gradient):
    """Some logits are -inf, as a mask makes them; never the first of a slice."""
    if hidden is not None:
        x, hidden = x.clone(), hidden.clone()
        hidden.select(dim, 0).fill_(False)
        x.masked_fill_(hidden, -math.inf)
    step = 1e-2 if hidden is None else None
    return Differentiated(
        lambda x: module.softmax(x, dim), {"x": x}, wanted=with_gradient, step=step
    )


def view_weights(value):
    """Hidden logits have no weight at all, and not only a small one."""
    exact = [x for x in value.results if x.dtype in (torch.float32, torch.float64)]
    exact_types = {x.dtype for x in value.results}
    seen = by_type(value, exact=(1e-9, 1e-12) if exact_types == {torch.float64} else (1e-4, 1e-5))
    return seen | {"where it is nearly 0": tuple(x.detach() < 1e-20 for x in exact)}


@st.composite
def activated(draw, sizes):
    dtype = draw(st.sampled_from(sorted(sizes)))
    x = tensor(draw, draw(shapes(0, 3)), (dtype,), sizes[dtype])
    return {"x": x, "with_gradient": draw(st.booleans())}


def call_activation(name):
    def call(module, x, with_gradient):
        return Differentiated(getattr(module, name), {"x": x}, wanted=with_gradient, step=1e-2)

    return call


ANY_SIZE = (1.0, 3.0, 1e-3, 300.0)
SILU_SIZES = {
    "float32": (*ANY_SIZE, 1e10),
    "float64": (*ANY_SIZE, 1e100),
    "bfloat16": ANY_SIZE,
    "float16": ANY_SIZE,
}
GELU_SIZES = SILU_SIZES | {  # in which the cube and its derivative are finite
    "float32": ANY_SIZE,
    "float64": ANY_SIZE,
    "float16": (1.0, 3.0, 1e-3),
}


def far_from_zero(sizes):
    """Both signs, at the largest size of each type, with gradients."""
    return [
        {"x": TensorInput((9,), dtype, seed=1, size=max(of_type)), "with_gradient": True}
        for dtype, of_type in sizes.items()
    ]


# a2.3


layer_types = st.sampled_from(["float32", "float64", "bfloat16"])
linear_settings = st.tuples(widths, widths, st.booleans())


@st.composite
def two_linears(draw):
    dtype = draw(layer_types)
    layers = draw(linear_settings), draw(linear_settings)
    inputs = {
        f"x_{i}": tensor(draw, (*draw(shapes(0, 3, 3)), layers[i][0]), (dtype,), (1.0, 100.0))
        for i in range(2)
    }
    return {"layers": layers, **inputs, "seed": draw(SEEDS), "with_gradient": draw(st.booleans())}


def call_two(make):
    """Return a call that makes two layers with settings of their own before it calls them."""

    def call(module, layers, x_0, x_1, seed, with_gradient):
        dtype = str(x_0.dtype).removeprefix("torch.")
        made = [filled(make(module, *layers[i]), seed + i, dtype) for i in range(2)]
        return called(made, [{"x": x_0}, {"x": x_1}], with_gradient)

    return call


def first_of(make):
    return lambda module, layers, **_: make(module, *layers[0])


def make_linear(module, d_in, d_out, bias):
    return module.Linear(d_in, d_out, *([True] if bias else []))


@st.composite
def two_embeddings(draw):
    layers = [(draw(widths), draw(widths)) for _ in range(2)]
    inputs = {f"x_{i}": integers(draw, draw(shapes(0, 3, 4)), layers[i][0]) for i in range(2)}
    return {"layers": layers, **inputs, "seed": draw(SEEDS), "with_gradient": draw(st.booleans())}


def make_embedding(module, vocab_size, d_model):
    return module.Embedding(vocab_size, d_model)


def call_embeddings(module, layers, x_0, x_1, seed, with_gradient):
    made = [filled(make_embedding(module, *layers[i]), seed + i) for i in range(2)]
    return called(made, [{"ids": x_0}, {"ids": x_1}], with_gradient)


# a2.4


NORM_SIZES = (1.0, 3.0, 0.03, 300.0)
norm_settings = st.tuples(
    near_constants(st.integers(2, 40), 2, 1030), st.sampled_from([1e-5, 1e-6, 1e-3, 0.5, 0.0])
)


@st.composite
def two_norms(draw):
    layers = draw(norm_settings), draw(norm_settings)
    inputs = {
        f"x_{i}": tensor(draw, (*draw(shapes(1, 3, 3)), layers[i][0]), sizes=NORM_SIZES)
        for i in range(2)
    }
    if draw(st.booleans()):  # far from zero, but not by so much that float32 loses the rest
        inputs = {name: replace(x, offset=10 * x.size) for name, x in inputs.items()}
    return {
        "layers": layers,
        **inputs,
        "seed": draw(SEEDS),
        "narrow_weights": draw(st.booleans()),
        "with_gradient": draw(st.booleans()),
    }


def call_norms(name):
    def call(module, layers, x_0, x_1, seed, narrow_weights, with_gradient):
        made = [getattr(module, name)(width, eps=eps) for width, eps in layers]
        dtype = "bfloat16" if narrow_weights and x_0.dtype == torch.bfloat16 else "float32"
        made = [filled(layer, seed + i, dtype) for i, layer in enumerate(made)]
        step = 1e-2 if min(x_0.abs().max(), x_1.abs().max()) > 0.5 else None
        return called(made, [{"x": x_0}, {"x": x_1}], with_gradient, step, rounds=True)

    return call


def view_norms(value):
    """Right to one rounding; and a float64 is the result in float32."""
    seen = by_type(
        value,
        {"bfloat16": (2**-7, 1e-5), "float16": (2**-10, 1e-5)},
        exact=(1e-3, 1e-4),
        gradients=(1e-2, 1e-3),
    )
    return seen | {
        "whether it was computed in float32": tuple(
            result.dtype != torch.float64 or bool((result == result.float().double()).all())
            for result in value.results
        )
    }


def make_norm(name):
    return lambda module, layers, **_: getattr(module, name)(*layers[0])


# a2.5


def make_feed_forward(name):
    return lambda module, d_model, d_ff, bias: getattr(module, name)(
        d_model, d_ff, **({"bias": True} if bias else {})
    )


def feed_forward(name):
    make = make_feed_forward(name)
    return Space(
        "a2.5",
        f"transformer_lm.layers.{name}",
        two_linears(),
        call=call_two(make),
        makes=first_of(make),
        view=lambda value: by_type(
            value, {"bfloat16": (0.05, 0.05)}, exact=(1e-3, 1e-3), gradients=(1e-3, 1e-4)
        ),
        draws=DRAWS,
    )


SPACES = [
    Space(
        "a2.1",
        "transformer_lm.layers.softmax",
        logits(),
        call_softmax,
        view_weights,
        examples=TWELVE,
        draws=40,
    ),
    Space(
        "a2.2",
        "transformer_lm.layers.silu",
        activated(SILU_SIZES),
        call_activation("silu"),
        by_type,
        examples=far_from_zero(SILU_SIZES),
        draws=DRAWS,
    ),
    Space(
        "a2.2",
        "transformer_lm.layers.gelu",
        activated(GELU_SIZES),
        call_activation("gelu"),
        lambda value: by_type(value, {"bfloat16": (0.03, 0.01), "float16": (4e-3, 2e-3)}),
        examples=far_from_zero(GELU_SIZES),
        draws=DRAWS,
    ),
    Space(
        "a2.3",
        "transformer_lm.layers.Linear",
        two_linears(),
        call_two(make_linear),
        lambda value: by_type(value, {"bfloat16": (0.03, 0.03)}, gradients=(1e-4, 1e-5)),
        makes=first_of(make_linear),
        draws=DRAWS,
    ),
    Space(
        "a2.3",
        "transformer_lm.layers.Embedding",
        two_embeddings(),
        call_embeddings,
        by_type,
        makes=first_of(make_embedding),
        draws=DRAWS,
    ),
    *(
        Space(
            "a2.4",
            f"transformer_lm.layers.{name}",
            two_norms(),
            call_norms(name),
            view_norms,
            makes=make_norm(name),
            draws=40,
        )
        for name in ("RMSNorm", "LayerNorm")
    ),
    feed_forward("SwiGLU"),
    feed_forward("GELUMLP"),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
