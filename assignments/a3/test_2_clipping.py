"""a3.3: gradients clipped by their global norm."""

import math

import pytest
import torch
from torch import nn

from lm_course.grading.comparisons import check_close, check_true

pytestmark = pytest.mark.usefixtures("own_optimizers")
MODULE = "training.optimizers"


def with_gradients(*gradients, dtype=torch.float32):
    """Parameters with these gradients; None: without one."""
    found = []
    for gradient in gradients:
        values = torch.tensor(0.0 if gradient is None else gradient, dtype=dtype)
        found.append(nn.Parameter(torch.zeros_like(values)))
        found[-1].grad = None if gradient is None else values
    return found


def gradients_of(parameters):
    each = [p.grad.flatten() for p in parameters if p.grad is not None]
    return torch.cat(each)


@pytest.mark.task("a3.3")
def test_clipping_by_hand(implementation, a3):
    parameters = with_gradients([3.0, 0.0], None, [[4.0]])
    norm = implementation(MODULE).clip_gradients(parameters, 1.0)
    causes = {
        "nothing was scaled: multiply the gradients themselves, in place": torch.tensor(
            [3.0, 0, 4]
        ),
        "each parameter is clipped alone: take one norm over all": torch.tensor([1.0, 0, 1]),
        "the root of the sum of squares is missing": torch.tensor([3.0, 0, 4]) / 25,
        "the norms are added: their squares add up": torch.tensor([3.0, 0, 4]) / 7,
        "the largest value is taken for the norm": torch.tensor([3.0, 0, 4]) / 4,
    }
    a3.check(
        gradients_of(parameters), torch.tensor([0.6, 0, 0.8]), "(3, 0, 4) clipped to 1", causes
    )
    causes = {
        "this is the norm after clipping: return the one before": torch.tensor(1.0),
        "the root is missing": torch.tensor(25.0),
        "this is the factor": torch.tensor(0.2),
        "the norms of the parameters are added": torch.tensor(7.0),
    }
    a3.check(norm, torch.tensor(5.0), "the norm that clip_gradients returns", causes)
    check_true(parameters[1].grad is None, "a parameter without gradient must stay without")


@pytest.mark.task("a3.3")
def test_a_gradient_counts_though_its_parameter_is_frozen(implementation, a3):
    """A layer that was frozen after the backward pass."""
    parameters = with_gradients([3.0], [4.0])
    parameters[1].requires_grad_(False)
    norm = implementation(MODULE).clip_gradients(parameters, 1.0)
    likely = "a parameter with requires_grad=False is left out: ask whether .grad is None"
    what = "the norm of the gradients 3 and 4, if the second parameter is frozen"
    a3.check(norm, torch.tensor(5.0), what, {likely: torch.tensor(3.0)})
    what = "the gradients 3 and 4 clipped to 1, if the second parameter is frozen"
    causes = {likely: lambda got: bool(got[1] == 4)}
    a3.check(gradients_of(parameters), torch.tensor([0.6, 0.8]), what, causes)


@pytest.mark.task("a3.3")
@pytest.mark.parametrize("max_norm", [5.0, 7.5, math.inf])
def test_small_gradients_stay(implementation, a3, max_norm):
    parameters = with_gradients([3.0], [4.0])
    norm = implementation(MODULE).clip_gradients(parameters, max_norm)
    causes = {
        "small gradients are scaled up to max_norm: the factor is at most 1": torch.tensor([3.0, 4])
        * max_norm
        / 5,
        "something is added to the norm before the division: leave gradients as they are if their "
        "norm is not larger than max_norm": lambda got: bool(
            (got - got.round()).abs().max() < 1e-4
        ),
    }
    what = f"gradients of norm 5 with max_norm {max_norm}"
    a3.check(gradients_of(parameters), torch.tensor([3.0, 4]), what, causes, rtol=0.0, atol=0.0)
    check_close(float(norm), 5.0, 0.0, 1e-6, "the norm of gradients that are not clipped")


@pytest.mark.task("a3.3")
def test_parameters_may_be_a_generator(implementation, a3):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for each in model.parameters():
        each.grad = torch.full_like(each, 2.0)
    implementation(MODULE).clip_gradients(model.parameters(), 1.0)
    causes = {
        "nothing was scaled: model.parameters() is a generator, and can be gone through only once: "
        "make a list of the gradients": torch.full((13,), 2.0)
    }
    expected = torch.full((13,), 13**-0.5)
    a3.check(gradients_of(model.parameters()), expected, "clipped model.parameters()", causes)


@pytest.mark.task("a3.3")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned(implementation, value):
    parameters = with_gradients([1.0, value], [2.0])
    norm = float(implementation(MODULE).clip_gradients(parameters, 1.0))
    check_true(
        norm == value or (norm != norm and value != value),
        f"a gradient is {value}, so the norm is too: whoever calls must see it",
        {"got": norm},
    )


@pytest.mark.task("a3.3")
def test_the_norm_of_half_precision_gradients(implementation, a3):
    parameters = with_gradients([30000.0] * 4, [40000.0] * 4, dtype=torch.float16)
    norm = implementation(MODULE).clip_gradients(parameters, 10.0)
    causes = {
        "the squares overflow float16, which ends at 65504: sum them in float32": lambda got: bool(
            got.isinf() or got.isnan()
        )
    }
    a3.check(norm, torch.tensor(1e5), "the norm of float16 gradients", causes)
    expected = torch.tensor([3.0] * 4 + [4.0] * 4)
    what = "float16 gradients clipped from 100,000 to 10"
    a3.check(gradients_of(parameters), expected, what, dtype=torch.float16, rtol=2e-3)


@pytest.mark.task("a3.3")
def test_gradients_are_scaled_where_they_lie(implementation):
    """The gradients may be views of one buffer (task 12)."""
    parameters = with_gradients([0.0, 0.0], [0.0])
    buffer = torch.tensor([3.0, 0.0, 4.0])
    parameters[0].grad, parameters[1].grad = buffer[:2], buffer[2:]
    implementation(MODULE).clip_gradients(iter(parameters), 1.0)
    check_true(
        torch.allclose(buffer, torch.tensor([0.6, 0.0, 0.8])),
        "p.grad was replaced by another tensor: multiply in place (mul_), because others may hold "
        "the same memory",
        {"buffer": buffer.tolist()},
    )


@pytest.mark.task("a3.3")
def test_without_any_gradient_the_norm_is_0(implementation, a3):
    clip = implementation(MODULE).clip_gradients
    for parameters in ([], with_gradients(None, None)):
        a3.check(clip(parameters, 1.0), torch.tensor(0.0), "the norm without any gradient")
    parameters = with_gradients([0.0, 0.0])
    a3.check(clip(parameters, 0.0), torch.tensor(0.0), "the norm of gradients that are 0")
    causes = {"0 / 0 is NaN: do not divide by a norm of 0": lambda got: bool(got.isnan().any())}
    zeros = torch.zeros(2)
    a3.check(gradients_of(parameters), zeros, "gradients of 0 with max_norm 0", causes)
