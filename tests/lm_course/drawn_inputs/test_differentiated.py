"""Gradients are part of the result, and agree with differences of the function itself."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from lm_course.drawn_inputs.contracts import check_contracts
from lm_course.drawn_inputs.differentiated import Differentiated, within
from lm_course.drawn_inputs.drawn_tensors import TensorInput
from lm_course.drawn_inputs.input_spaces import Space, outcome_of
from lm_course.drawn_inputs.result_comparison import Within, first_difference
from lm_course.grading.check_outcome import GradedFailure

SPACE = Space(
    "t1.1",
    "stage.lesson.work",
    st.none(),
    call=lambda module, x: Differentiated(module.work, {"x": x}, step=1e-2),
    view=within(1e-5, 1e-6),
)
X = {"x": TensorInput((4,), "float64", seed=1)}
KEPT: dict[str, torch.Tensor] = {}


class ForgetsAFactor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]  # 2 x, not x


def keeps_its_result(x):
    if "result" not in KEPT or not x.equal(KEPT["x"]):
        KEPT.update(x=x.detach().clone(), result=x * 2)
    return KEPT["result"]


def changes_without_autograd(x):
    with torch.no_grad():
        x.sub_(1).add_(1)
    return x * x


def changes_where_nothing_is_kept(x):
    if not torch.is_grad_enabled():
        x.mul_(2)
    return x * x


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda x: x.detach() ** 2, "the result has no gradient"),
        (ForgetsAFactor.apply, "the gradients of work are not the derivatives of its results"),
        (lambda x: x * x.detach(), "the gradients of work are not the derivatives"),
        (lambda x: x * x + torch.rand(4) * 0, "depends on PyTorch's global random generator"),
        (changes_without_autograd, "work changes its argument x: work on a copy"),
    ],
)
def test_a_broken_contract_is_named(work, sentence: str) -> None:
    with pytest.raises(GradedFailure, match=sentence):
        check_contracts(SPACE, SimpleNamespace(work=work), X)


def test_a_parameter_or_an_input_without_a_gradient_is_named() -> None:
    unused = nn.Parameter(torch.ones(2))
    with pytest.raises(GradedFailure, match="no gradient reaches scale"):
        Differentiated(lambda x: x * 2, {"x": torch.ones(2)}, {"scale": unused})
    with pytest.raises(GradedFailure, match="no gradient reaches y"):
        Differentiated(lambda x, y: x * y.detach(), {"x": torch.ones(2), "y": torch.ones(2)})


def test_a_kept_result_is_seen() -> None:
    KEPT.clear()
    space = Space(
        "t1.1",
        "stage.lesson.work",
        st.none(),
        call=lambda module, x: Differentiated(module.work, {"x": x}, wanted=False),
        view=within(1e-5, 1e-6),
    )
    with pytest.raises(GradedFailure, match="work hands out an object that it uses again"):
        check_contracts(space, SimpleNamespace(work=keeps_its_result), X)
    with pytest.raises(GradedFailure, match="work changes its argument x"):
        check_contracts(space, SimpleNamespace(work=changes_where_nothing_is_kept), X)


class KeepsItsResult:
    def __init__(self):
        self.result = None

    def __call__(self, x):
        if self.result is None:
            self.result = x * 2
        return self.result


def test_an_object_that_keeps_its_result_is_seen() -> None:
    space = Space(
        "t1.1",
        "stage.lesson.work",
        st.none(),
        call=lambda module, x: Differentiated(module.Work(), {"x": x}, wanted=False),
        view=within(1e-5, 1e-6),
    )
    with pytest.raises(GradedFailure, match="work keeps something of its input or its"):
        check_contracts(space, SimpleNamespace(Work=KeepsItsResult), X)


class SpoilsWhatItReceives(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient.mul_(2)


class SpoilsWhatItKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(factor := torch.full_like(x, 2.0))
        return factor * x

    @staticmethod
    def backward(ctx, gradient):
        (factor,) = ctx.saved_tensors
        gradient = gradient * factor
        factor.add_(1)
        return gradient


class ForgetsWhatItKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.factors = [2.0, 3.0]
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factors.pop(0)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (SpoilsWhatItReceives, "backward pass of work changes the gradient that it receives"),
        (SpoilsWhatItKept, "a second backward pass through work, with retain_graph=True, fails"),
        (ForgetsWhatItKept, "a second backward pass through work gives other gradients"),
    ],
)
def test_a_backward_pass_that_can_be_made_once_only(work, sentence: str) -> None:
    with pytest.raises(GradedFailure, match=sentence):
        check_contracts(SPACE, SimpleNamespace(work=work.apply), X)


def test_a_gradient_that_is_not_a_number_twice_is_the_same() -> None:
    def work(x):
        return x * torch.where(x > 0, torch.inf, 1.0) * 0  # a gradient of NaN for positive numbers

    Differentiated(work, {"x": torch.tensor([1.0, -1.0])}, wanted=True).check_backward("work")


class KnowsItsInputByItsPlace:
    def __init__(self):
        self.kept = {}

    def __call__(self, x):
        place = x.data_ptr()
        if place not in self.kept:
            self.kept[place] = x * 2
        return self.kept[place].clone()


def test_an_object_that_knows_an_input_by_its_place_in_memory_is_seen() -> None:
    space = Space(
        "t1.1",
        "stage.lesson.work",
        st.none(),
        call=lambda module, x: called_twice(module.Work(), x),
        view=within(1e-5, 1e-6),
    )

    def called_twice(work, x):
        return Differentiated(work, {"x": x}, wanted=False)

    inputs = {"x": TensorInput((3, 4), seed=1)}
    with pytest.raises(GradedFailure, match="work keeps something of its input"):
        check_contracts(space, SimpleNamespace(Work=KnowsItsInputByItsPlace), inputs)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "expanded"])
def test_right_gradients_pass(dtype: str, layout: str) -> None:
    inputs = {"x": TensorInput((3, 4), dtype, layout, seed=1)}
    work = SimpleNamespace(work=lambda x: (torch.tanh(x), (x * x).sum(-1)))
    check_contracts(SPACE, work, inputs)


def test_gradients_are_compared_with_those_of_the_reference() -> None:
    right = outcome_of(SPACE, SimpleNamespace(work=lambda x: x * x), X)
    wrong = outcome_of(SPACE, SimpleNamespace(work=ForgetsAFactor.apply), X)
    assert not first_difference(right.seen["result"], wrong.seen["result"])
    assert "the gradient of x" in first_difference(wrong.seen, right.seen)
    assert "dtype" in first_difference(
        Within(torch.ones(2).double(), 1, 1), Within(torch.ones(2), 1, 1)
    )
