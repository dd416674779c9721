"""a3.1 on drawn inputs: losses of all types and layouts with z-loss and mask, and gradients."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import Differentiated
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import (
    LAYOUTS,
    SEEDS,
    TensorInput,
    integers,
    shapes,
    tensor,
)
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within

pytestmark = pytest.mark.usefixtures("a3")  # one thread

ANY_ERROR = (ValueError, IndexError, RuntimeError)  # PyTorch's own for an id that does not exist
z_losses = st.sampled_from([0.0, 1e-4, 0.0, 0.3, 1, 2.5])
vocabularies = near_constants(st.sampled_from([1, 2, 3, 5, 17]), 1, 300)


# Tokens of one batch. float16 counts to 2,048 and bfloat16 to 256; and pieces of a power of two are
# then of unequal size.
many = near_constants(st.sampled_from([257, 300, 1025, 2049, 4097]), 1, 5000)


@st.composite
def predictions(draw, masked):
    """Draw logits and targets; with few, also a mask that counts none or only the last."""
    batch, vocab_size = draw(shapes(0, 3, 4)), draw(vocabularies)
    if draw(st.integers(0, 5)) == 3:
        batch, vocab_size = (draw(many),), draw(st.integers(1, 3))
    sizes, offsets = (1.0, 1.0, 1e-3, 30.0, 1e4), (0.0, 0.0, -2e4)
    unknown = draw(st.sampled_from([0] * 9 + [1]))  # an id that does not exist, masked or not
    drawn = {
        "logits": tensor(draw, (*batch, vocab_size), sizes=sizes, offsets=offsets),
        "targets": integers(draw, batch, vocab_size + unknown),
        "z_loss": draw(z_losses),
        "with_gradient": draw(st.booleans()),
    }
    if not masked:
        return drawn
    counted = draw(st.sampled_from(["no mask", "some", "some", "some", "all", "none", "last"]))
    mask = MaskInput(batch, draw(SEEDS), draw(layouts), counted)
    drawn["mask"] = None if counted == "no mask" else mask
    if not mask.build().any():  # the gradients of NaN are open
        drawn["with_gradient"] = False
    return drawn


layouts = st.sampled_from(LAYOUTS)


@dataclass(frozen=True)
class MaskInput:
    """A mask, built before each call. Unlike `TensorInput`'s, a row of it may count no token."""

    shape: tuple[int, ...]
    seed: int
    layout: str
    counted: str

    def build(self):
        mask = TensorInput((*self.shape, 3), "bool", self.layout, self.seed).build()[..., 1]
        if self.counted == "last":
            mask = torch.zeros(self.shape, dtype=torch.bool)
            mask.view(-1)[-1:] = True
        elif self.counted != "some":
            mask = torch.full(self.shape, self.counted == "all")
        return mask

    def __repr__(self):
        return f"mask: {self.build().tolist()}"


def call_losses(name):
    def call(module, logits, targets, z_loss, with_gradient, mask=None):
        def function(logits):
            if name == "token_losses":
                return module.token_losses(logits, targets, *([z_loss] if z_loss != 0.0 else []))
            if z_loss != 0.0:
                return module.cross_entropy(logits, targets, mask, z_loss)
            return module.cross_entropy(logits, targets, *([mask] if mask is not None else []))

        smooth = logits.abs().max().item() < 5 if logits.numel() else False
        step = 1e-2 if smooth else None
        return Differentiated(function, {"logits": logits}, wanted=with_gradient, step=step)

    return call


def view_losses(value):
    """A loss is the difference of two logits, each of which is rounded; the gradient holds
    exponentials of such differences.
    """
    logits = value.leaves["logits"]
    largest = logits.abs().max().item() if logits.numel() else 0.0
    eps = 1e-15 if logits.dtype == torch.float64 else 2e-7
    rough = torch.finfo(logits.dtype).eps if logits.dtype.itemsize == 2 else 0.0
    seen = {
        "result": tuple(
            Within(each.detach(), 20 * eps, 4 * eps * max(largest, 1.0)) for each in value.results
        )
    }
    wide = max(largest, 1.0) * eps * 20
    return seen | {
        f"the gradient of {name}": Within(x.detach(), wide + rough, wide + rough / 100)
        for name, x in value.gradients.items()
    }


def wrong_target(shape, below, **settings):
    """The last id is one too large."""
    return {
        "logits": TensorInput((*shape, below), seed=3),
        "targets": TensorInput(shape, "int64", order="in a row", below=below + 1, seed=4),
        "z_loss": 0.0,
        "with_gradient": False,
        **settings,
    }


def many_tokens(dtype, number, mask=None):
    """More tokens than the type of the logits can count."""
    return {
        "logits": TensorInput((number, 2), dtype, seed=1),
        "targets": TensorInput((number,), "int64", seed=2),
        "z_loss": 0.0,
        "with_gradient": True,
        "mask": mask,
    }


EMPTY = {
    "logits": TensorInput((0, 4)),
    "targets": TensorInput((0,), "int64"),
    "z_loss": 0.5,
    "with_gradient": False,
}

SPACES = [
    Space(
        "a3.1",
        "training.loss.token_losses",
        predictions(masked=False),
        call_losses("token_losses"),
        view_losses,
        errors=ANY_ERROR,
        examples=[EMPTY, wrong_target((4,), 3)],
    ),
    Space(
        "a3.1",
        "training.loss.cross_entropy",
        predictions(masked=True),
        call_losses("cross_entropy"),
        view_losses,
        errors=ANY_ERROR,
        examples=[
            {**EMPTY, "mask": None},
            wrong_target((4,), 3, mask=None),
            many_tokens("float32", 4099),
            many_tokens("bfloat16", 301, MaskInput((301,), 0, "contiguous", "all")),
            many_tokens("float16", 4300, MaskInput((4300,), 5, "contiguous", "some")),
        ],
    ),
    Space(
        "a3.1",
        "training.loss.bits_per_byte",
        arguments(
            {
                "total_nats": st.sampled_from([0.0, 1.0, 1e-9, 1e12]) | st.floats(0, 1e6),
                "total_bytes": near_constants(st.integers(-1, 10**6), -(10**3), 10**9),
            }
        ),
        view=lambda value: Within(value, 1e-12, 0.0) if isinstance(value, float) else value,
        told=r"-?\d+(?= bytes)",
        examples=[{"total_nats": 1.0, "total_bytes": number} for number in (0, -3)],
        draws=30,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
