"""A wrong tensor is reported with its place and cause."""

import pytest
import torch
from torch import Tensor

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.tensor_comparisons import check_tensor, one_rounding

X = torch.arange(12.0).view(3, 4)


def message(got: object, expected: Tensor, *arguments: object, **options: object) -> str:
    with pytest.raises(GradedFailure) as caught:
        check_tensor(got, expected, "it", *arguments, **options)
    return str(caught.value)


def test_right_tensors_pass() -> None:
    check_tensor(X, X.double(), "it", {"never named": X.double()})
    check_tensor(X.requires_grad_(), X.detach(), "it")
    check_tensor(X > 3, X > 3, "it", dtype=torch.bool)
    check_tensor(torch.tensor([float("-inf")]), torch.tensor([float("-inf")]), "it")
    check_tensor(X.half(), X.detach(), "it", dtype=None)


def test_every_line_of_a_message() -> None:
    wrong = X.detach().clone()
    wrong[1, 2] = 7
    assert message(wrong, X, {"it is zero": 0 * X, "six became seven": wrong}).split("\n") == [
        "it is wrong",
        "  shape    (3, 4), torch.float32",
        "  correct  11 of 12 values",
        "  worst    at [1, 2]: expected 6, got 7 (allowed: 6e-05 off)",
        "  likely   six became seven",
    ]


def test_small_tensors_are_shown_in_full() -> None:
    text = message(torch.tensor([[1.0, 2.5]]), torch.tensor([[1.0, 2]]))
    assert "\n  expected [[1, 2]]\n  got      [[1, 2.5]]" in text


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (None, ["it is None; is `return` missing?"]),
        ([1.0], ["it: expected a tensor, got [1.0]"]),
        (X.T, ["wrong shape", "(4, 3)", "expected  shape (3, 4)", "turned round"]),
        (X.double(), ["correct, but their dtype is torch.float64; expected torch.float32"]),
        (X * float("nan"), ["NaN      12 values", "0 of 12 values"]),
        (X + float("inf"), ["infinite 12 values"]),
        (X + 1, ["all are one too large"]),
    ],
    ids=["none", "list", "shape", "type", "nan", "infinite", "test"],
)
def test_what_is_wrong(got: object, words: list[str]) -> None:
    causes = {"turned round": X.T, "all are one too large": lambda y: bool((y == X + 1).all())}
    text = message(got, X, causes)
    assert all(word in text for word in words), text


def test_a_cause_that_is_as_good_as_right_is_not_named() -> None:
    assert "likely" not in message(X + 1, X, {"no": X + 1e-7, "nor this": X * 2})


def test_one_rounding_is_allowed_and_two_are_not() -> None:
    exact = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    allowed = one_rounding(exact, torch.bfloat16)
    once = exact.float().bfloat16()
    check_tensor(once, exact, "it", rtol=allowed, atol=0, dtype=torch.bfloat16)
    twice = ((exact / 3).bfloat16().float() * 3).bfloat16()
    text = message(twice, exact, {"twice": twice}, rtol=allowed, atol=0, dtype=torch.bfloat16)
    assert "likely   twice" in text
    assert float(one_rounding(torch.zeros(1), torch.bfloat16)) == 0
