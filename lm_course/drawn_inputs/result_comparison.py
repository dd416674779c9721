"""Comparison of whole results: plain values exactly, tensors within a tolerance, at any depth.

What this leaves out: likely causes, which only a check with a fixed input can know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import PLAIN, Words, check_close, check_equal

# By dtype, for sums in another order: the largest difference relative to the value, and absolute.
TOLERANCES = {
    "float64": (1e-9, 1e-10),
    "float32": (1e-4, 1e-5),
    "float16": (4e-3, 2e-3),
    "bfloat16": (3e-2, 1e-2),
}


@dataclass(frozen=True)
class Within:
    """A tensor or a number with a tolerance of its own; a `view` returns it."""

    value: Any
    rtol: float
    atol: float


def check_result(got: Any, expected: Any, what: str) -> None:
    """Fail unless `got` is `expected`: the same types, lengths and keys, and at each place an equal
    value or a tensor of the same dtype, device, shape and nearly the same values.
    """
    if isinstance(expected, Within):
        _check_within(got, expected, what)
    elif _is_array(expected):
        _check_array(got, expected, what)
    elif _is_deep(expected):
        _check_container(got, expected, what)
    else:
        check_equal(got, expected, what)


def first_difference(got: Any, expected: Any) -> str:
    """Return what `check_result` says about two values, on one line; "" if they are the same."""
    try:
        check_result(got, expected, "")
    except GradedFailure as failure:
        first, *values = str(failure).split("\n")
        parts = [first.removeprefix(": "), *(" ".join(line.split(None, 1)) for line in values)]
        return "; ".join(part.strip() for part in parts)
    return ""


def _check_container(got: Any, expected: Any, what: str) -> None:
    check_equal(type(got).__name__, type(expected).__name__, f"the type of {what}")
    if isinstance(expected, Mapping):
        check_equal(dict.fromkeys(got), dict.fromkeys(expected), f"the keys of {what}")
        places = [(f"{what}[{key!r}]", got[key], expected[key]) for key in expected]
    else:
        check_equal(len(got), len(expected), f"the length of {what}")
        pairs = zip(got, expected, strict=True)
        places = [(f"{what}[{i}]", *pair) for i, pair in enumerate(pairs)]
    for place, value, right in places:
        check_result(value, right, place)


def _check_within(got: Any, expected: Within, what: str) -> None:
    got = got.value if isinstance(got, Within) else got
    if _is_array(expected.value):
        _check_array(got, expected.value, what, (expected.rtol, expected.atol))
    else:
        check_close(got, expected.value, expected.atol, expected.rtol, what)


def _check_array(
    got: Any, expected: Any, what: str, tolerance: tuple[float, float] | None = None
) -> None:
    if type(got) is not type(expected) and not isinstance(got, type(expected)):
        check_equal(got, Words(f"a {type(expected).__name__}"), what)
    for quantity in ("dtype", "device"):
        if hasattr(expected, quantity):
            right, found = str(getattr(expected, quantity)), str(getattr(got, quantity))
            check_equal(Words(found), Words(right), f"the {quantity} of {what}")
    rtol, atol = tolerance or TOLERANCES.get(str(expected.dtype).removeprefix("torch."), (0.0, 0.0))
    check_close(got, expected, atol, rtol, what)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "__array__")


def _is_deep(value: Any) -> bool:
    """Return whether the parts of a value are compared one by one: some are lists, dicts or
    arrays.
    """
    if isinstance(value, Mapping):
        return any(map(_is_part, value.values()))
    if isinstance(value, list | tuple):
        return not set(map(type, value)) <= PLAIN and any(map(_is_part, value))
    return False


def _is_part(value: Any) -> bool:
    return isinstance(value, list | Mapping | Within) or _is_array(value) or _is_deep(value)
