"""a2.6 to a2.8 on drawn inputs: rotary frequencies, the rotation, frequencies for longer
contexts.
"""

import pytest
import torch
from drawn_objects import ROPE_SCALING, called, scaling_of
from hypothesis import strategies as st
from torch import nn

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import integers, shapes, tensor
from lm_course.drawn_inputs.input_spaces import Space, arguments

pytestmark = pytest.mark.usefixtures("a2")  # one thread
head_dims = near_constants(st.integers(1, 64), 1, 300).map(lambda pairs: 2 * pairs)
thetas = near_constants(
    st.sampled_from([10000.0, 500000.0, 1e6, 50.0, 10.0, 1.5, 10000.1]), 2, 10**8
).map(float)


def call_frequencies(module, head_dim, theta, scaling=None):
    if scaling is None:
        return module.rotary_frequencies(head_dim, theta)
    return module.rotary_frequencies(head_dim, theta, scaling_of(scaling))


# a2.7 and a2.8


def fits(shape, positions):
    """Return the axes of positions: those of x but the last, each kept, 1 or left out."""
    kept = positions % (len(shape))
    axes = enumerate(shape[kept:-2], kept)
    kept_axes = [1 if (positions >> (4 + axis)) % 3 == 0 else size for axis, size in axes]
    return (*kept_axes, shape[-2])


widths = near_constants(st.sampled_from([2, 4, 6, 16]), 1, 150).map(lambda width: width + width % 2)
contexts = near_constants(st.sampled_from([1, 7, 64, 300]), 1, 9000)
booleans = st.booleans()


@st.composite
def two_rotations(draw, scaled):
    """Two modules with settings of their own."""
    layers = []
    inputs = {}
    for i in range(2):
        head_dim, context = draw(widths), draw(contexts)
        layers.append((head_dim, context, draw(thetas), draw(ROPE_SCALING) if scaled else None))
        shape = (*draw(shapes(1, 3, 6)), head_dim)
        inputs[f"x_{i}"] = tensor(draw, shape, sizes=(1.0, 100.0))
        axes = fits(shape, draw(st.integers(0, 255)))
        inputs[f"positions_{i}"] = integers(draw, axes, context)
    return {
        "layers": layers,
        **inputs,
        "converted": draw(booleans),
        "with_gradient": draw(booleans),
    }


def make_rotary(module, layers, **_):
    return of_settings(module, layers[0])


def of_settings(module, settings):
    head_dim, context, theta, scaling = settings
    if scaling is None:
        return module.RotaryEmbedding(head_dim, context, theta)
    return module.RotaryEmbedding(head_dim, context, theta, scaling_of(scaling))


class CalledAgain(nn.Module):
    """Calls a layer twice with one tensor of positions; in between, all but the ends change
    places.
    """

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, positions):
        last = positions.shape[-1] - 1
        order = [0, *range(last - 1, 0, -1), last][: last + 1]
        changed = positions.clone()
        self.layer(x, changed)
        changed.copy_(positions[..., order])
        return self.layer(x, changed)


def call_rotations(module, layers, x_0, positions_0, x_1, positions_1, converted, with_gradient):
    made = [of_settings(module, settings) for settings in layers]
    if converted:
        made = [layer.bfloat16() for layer in made]
    leaves = [{"x": x_0, "positions": positions_0}, {"x": x_1, "positions": positions_1}]
    leaves.append({"x": x_0.clone(), "positions": positions_0.clone()})
    made.append(CalledAgain(made[0]))
    return called(made, leaves, with_gradient, rounds=True)


def view_rotations(value):
    """Right to one rounding, and a float64 is the result in float32."""
    halves = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
    rtol = max(halves.get(result.dtype, 1e-5) for result in value.results)
    largest = max(float(result.detach().abs().max()) for result in value.results)
    seen = within(rtol, 1e-6 * max(largest, 10.0), (0.02, 1e-4))(value)
    return seen | {
        "whether it was computed in float32": tuple(
            result.dtype != torch.float64 or bool((result == result.float().double()).all())
            for result in value.results
        )
    }


def rotary_space(task, function, scaled):
    return Space(
        task,
        f"transformer_lm.rotary_embedding.{function}",
        two_rotations(scaled),
        call_rotations,
        view_rotations,
        makes=make_rotary,
        draws=30,
    )


SPACES = [
    Space(
        "a2.6",
        "transformer_lm.rotary_embedding.rotary_frequencies",
        arguments({"head_dim": head_dims, "theta": thetas}),
        call_frequencies,
        within(1e-9, 0.0),
        draws=30,
    ),
    rotary_space("a2.7", "RotaryEmbedding", scaled=False),
    Space(
        "a2.8",
        "transformer_lm.rotary_embedding.rotary_frequencies, rescaled",
        arguments({"head_dim": head_dims, "theta": thetas, "scaling": ROPE_SCALING}),
        call_frequencies,
        within(1e-9, 0.0),
        draws=100,
    ),
    rotary_space("a2.8", "RotaryEmbedding, rescaled", scaled=True),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
