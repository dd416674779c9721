"""Checks of tensors for graded suites: values with the likely cause.

A wrong tensor is compared with the result of each typical mistake, so that the message can name the
mistake. What this leaves out: numbers and lists (comparisons.py), and counts of work and memory
(containment/counted_work.py).
"""

from typing import Any

import torch
from torch import Tensor

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import Causes, check_close, check_true, shown

FEW = 8  # values that are shown in full


def check_tensor(
    got: Any,
    expected: Tensor,
    what: str,
    causes: Causes | None = None,
    *,
    dtype: torch.dtype | None = torch.float32,
    rtol: float | Tensor = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Fail unless `got` is a tensor of this dtype and shape, and all its values are close.

    Args:
        got: the learner's tensor.
        expected: from a float64 reference.
        what: the subject of the sentence.
        causes: each with its wrong tensor, within the same tolerance, or a test of `got`.
        dtype: the dtype that the result must have; None for any.
        rtol, atol: as in `check_close`; rtol may also be a tensor, one per value (`one_rounding`).
    """
    if got is None:
        raise GradedFailure(f"{what} is None; is `return` missing?")
    check_true(isinstance(got, Tensor), f"{what}: expected a tensor, got {shown(got)}")
    got = got.detach()
    right = expected.detach().double()
    causes = {  # a test gets the tensor, not the float64 array of it
        cause: (lambda _, test=wrong: test(got)) if callable(wrong) else wrong
        for cause, wrong in (causes or {}).items()
    }
    try:
        each = rtol.numpy() if isinstance(rtol, Tensor) else rtol
        check_close(got, right, atol, each, what, causes)
    except GradedFailure as failure:
        raise GradedFailure(_with_values(str(failure), got, right)) from None
    check_true(
        dtype is None or got.dtype == dtype,
        f"{what}: the values are correct, but their dtype is {got.dtype}; expected {dtype}",
    )


def one_rounding(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the largest relative error of each value if it is rounded to `dtype` once: half of its
    last place, plus 2 % for sums in float32 before that.
    """
    exact = exact.detach().double().abs()
    size = torch.exp2(torch.floor(torch.log2(exact)))  # the power of two at or below it
    return torch.where(exact > 0, 0.51 * torch.finfo(dtype).eps * size / exact, 0.0)


def _with_values(message: str, got: Tensor, right: Tensor) -> str:
    """Return the message with counts of NaN and infinite values, and with small tensors in full."""
    lines = message.split("\n")
    end = -1 if lines[-1].lstrip().startswith("likely") else len(lines)
    extra = []
    if right.numel() <= FEW and got.numel() <= FEW:
        extra += [f"  expected {_rounded(right)}", f"  got      {_rounded(got)}"]
    for name, is_that in (("NaN", torch.isnan), ("infinite", torch.isinf)):
        if got.is_floating_point() and is_that(got).sum() > is_that(right).sum():
            extra.append(f"  {name:<8} {int(is_that(got).sum()):,} values")
    return "\n".join([*lines[:end], *extra, *lines[end:]])


def _rounded(x: Tensor) -> str:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        return f"{value:.5g}" if isinstance(value, float) else str(value)

    return text(x.tolist())
