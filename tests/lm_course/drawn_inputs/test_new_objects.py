"""Each contract of objects with new weights is seen when it is broken."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from lm_course.drawn_inputs.contracts import check_contracts
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.new_objects import check_new_objects
from lm_course.grading.check_outcome import GradedFailure

SPACE = Space(
    "t1.1",
    "stage.lesson.Layer",
    st.none(),
    call=lambda module, width: sum(x.numel() for x in module.Layer(width).parameters()),
    makes=lambda module, width: module.Layer(width),
)
KEPT: dict[int, nn.Parameter] = {}


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(self.weights(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def weights(self, width):
        return torch.randn(width, width)


class Shared(Layer):
    def __init__(self, width):
        super().__init__(width)
        self.weight = KEPT.setdefault(width, self.weight)


class Equal(Layer):
    def weights(self, width):
        return torch.randn(width, width, generator=torch.Generator().manual_seed(0))


class Unseeded(Layer):
    def weights(self, width):
        generator = torch.Generator()
        generator.seed()
        return torch.randn(width, width, generator=generator)


class Seeds(Layer):
    def weights(self, width):
        values = torch.randn(width, width)
        torch.manual_seed(5)
        return values


class Ones(Layer):
    def weights(self, width):
        return torch.ones(width, width)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Shared, "two new objects share a parameter: Layer, weight"),
        (Equal, "two Layer, made one after the other, start with the same weight"),
        (Unseeded, r"a new Layer is another after the same torch.manual_seed \(weight\)"),
        (Seeds, "a new Layer sets PyTorch's global random generator"),
    ],
)
def test_a_broken_contract_is_named(kind: type[nn.Module], sentence: str) -> None:
    KEPT.clear()
    with pytest.raises(GradedFailure, match=sentence):
        check_new_objects(SPACE, SimpleNamespace(Layer=kind), {"width": 3})


@pytest.mark.parametrize("kind", [Layer, Ones])
def test_what_keeps_them_passes_and_leaves_the_generator(kind: type[nn.Module]) -> None:
    state = torch.get_rng_state()
    check_new_objects(SPACE, SimpleNamespace(Layer=kind), {"width": 3})
    assert (torch.get_rng_state() == state).all()


def test_a_space_that_makes_objects_may_draw_from_pytorch_only() -> None:
    check_contracts(SPACE, SimpleNamespace(Layer=Layer), {"width": 3})
    with pytest.raises(GradedFailure, match="two Layer, made one after the other"):
        check_contracts(SPACE, SimpleNamespace(Layer=Equal), {"width": 3})
