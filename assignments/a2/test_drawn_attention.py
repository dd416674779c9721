"""a2.9 to a2.11 on drawn inputs: the causal mask, the attention formula, the attention layer."""

import pytest
import torch
from drawn_objects import KeptCache, config_of, configs, filled, pieces_of, rotary_of
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import Differentiated, within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import SEEDS, mask, shapes, tensor
from lm_course.drawn_inputs.input_spaces import Space

pytestmark = pytest.mark.usefixtures("a2")  # one thread
lengths = near_constants(st.integers(1, 7), 1, 300)
booleans = st.booleans()


# a2.9


@st.composite
def masks(draw):
    queries = draw(near_constants(st.integers(1, 12), 1, 1030))
    more = st.sampled_from([0, 0, 1, 2, 7, 60, 1020, 2050, 4100])
    keys = queries + draw(near_constants(more, 0, 5000))
    window = draw(st.none() | st.integers(1, keys + 2))
    return {"num_queries": queries, "num_keys": keys, "sliding_window": window}


def call_mask(module, num_queries, num_keys, sliding_window):
    window = () if sliding_window is None else (sliding_window,)
    return module.causal_mask(num_queries, num_keys, torch.device("cpu"), *window)


# a2.10

SIZES = {"float64": (1.0, 10.0, 1000.0, 1e5), "float32": (1.0, 0.01, 10.0)}


@st.composite
def formulas(draw):
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "bfloat16", "float16"]))
    sizes = SIZES.get(dtype, (1.0,))
    leading = draw(shapes(0, 2, 3))
    queries, keys, d_k, d_v = draw(lengths), draw(lengths), draw(lengths), draw(lengths)
    hidden = None
    if draw(booleans):
        kept = draw(st.integers(0, len(leading)))
        more = draw(st.sampled_from([(), (), (1,), (2,)])) if kept == 0 else ()
        hidden = mask(draw, (*more, *leading[kept:], queries, keys))
    return {
        "q": tensor(draw, (*leading, queries, d_k), (dtype,), sizes, (0.0, 0.0, 3.0)),
        "k": tensor(draw, (*leading, keys, d_k), (dtype,), sizes, (0.0, 0.0, -3.0)),
        "v": tensor(draw, (*leading, keys, d_v), (dtype,)),
        "mask": hidden,
        "with_gradient": draw(booleans),
    }


def call_formula(module, q, k, v, mask, with_gradient):
    def attend(q, k, v):
        if mask is None:
            return module.scaled_dot_product_attention(q, k, v)
        return module.scaled_dot_product_attention(q, k, v, mask)

    leaves = {"q": q, "k": k, "v": v}
    return Differentiated(attend, leaves, wanted=with_gradient, step=1e-2)


def view_formula(value):
    (result,) = value.results
    if result.dtype in (torch.bfloat16, torch.float16):
        return within(0.05, 0.05, (0.2, 0.2))(value)
    if result.dtype == torch.float64:
        return within(1e-6, 1e-7, (1e-5, 1e-6))(value)
    return within(1e-3, 1e-3, (1e-3, 1e-3))(value)


# a2.11


@st.composite
def layers(draw, backends):
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "bfloat16"]))
    fields = draw(configs())
    length = draw(st.integers(1, fields["context_length"]))
    x = tensor(draw, (draw(st.integers(1, 3)), length, fields["d_model"]), (dtype,))
    return {
        "config": fields,
        "x": x,
        "first_position": draw(st.integers(0, fields["context_length"] - length)),
        "cuts": draw(st.none() | st.lists(st.integers(1, 8), max_size=3)),
        "layer": draw(near_constants(st.integers(0, 2), 0, 100)),
        "backend": draw(st.sampled_from(backends)),
        "seed": draw(SEEDS),
        "with_gradient": draw(booleans),
    }


def call_layer(module, config, x, first_position, cuts, layer, backend, seed, with_gradient):
    """Call it on the whole of x, or behind a cache in pieces. Another layer, with other settings,
    is made after it.
    """
    settings = config_of(config)
    dtype = str(x.dtype).removeprefix("torch.")
    made = filled(make_layer(module, config, layer, backend), seed, dtype)
    others = {"norm_eps": 0.1, "sliding_window": 2, "biases": not config["biases"]}
    module.CausalSelfAttention(config_of(config | others), 7, "eager")
    rotary = rotary_of(settings)
    positions = torch.arange(first_position, first_position + x.shape[1])
    caches = []

    def attend(x):
        if cuts is None:
            return made(x, rotary, positions)
        caches.append(KeptCache())
        pieces = pieces_of(x.shape[1], cuts)
        results = [made(x[:, piece], rotary, positions[piece], caches[-1]) for piece in pieces]
        return (*results, *caches[-1].layers.get(layer, ()))

    made.train(with_gradient)
    parameters = dict(made.named_parameters()) if with_gradient else {}
    return Differentiated(
        attend, {"x": x}, parameters, wanted=with_gradient, step=1e-2, rounds=True
    )


def make_layer(module, config, layer, backend, **_):
    by_default = backend == "auto"
    return module.CausalSelfAttention(config_of(config), layer, *([] if by_default else [backend]))


def view_layer(value):
    if value.results[0].dtype == torch.bfloat16:
        return within(0.1, 0.1, (0.3, 0.3))(value)
    return within(1e-3, 1e-4, (1e-2, 1e-3))(value)


def layer_space(task, name, backends, draws):
    return Space(
        task,
        f"transformer_lm.attention.{name}",
        layers(backends),
        call_layer,
        view_layer,
        makes=make_layer,
        draws=draws,
    )


SPACES = [
    Space(
        "a2.9",
        "transformer_lm.attention.causal_mask",
        masks(),
        call_mask,
        draws=60,
        examples=[
            {"num_queries": 2, "num_keys": keys, "sliding_window": window}
            for keys in (2**15 + 2, 2**16 + 2)  # beyond integers of 16 bits
            for window in (None, 2**15 + 1)
        ],
    ),
    Space(
        "a2.10",
        "transformer_lm.attention.scaled_dot_product_attention",
        formulas(),
        call_formula,
        view_formula,
        draws=60,
    ),
    layer_space("a2.11", "CausalSelfAttention", ["eager", "auto", "matmul", "sdpa"], 40),
    layer_space("a2.17", "CausalSelfAttention, tiled", ["tiled"], 15),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
