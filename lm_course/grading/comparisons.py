"""Comparisons for graded suites: each failure is a sentence, the values, and the likely cause.

A suite calls these in place of a bare `assert`. Work is counted, never timed. What this leaves out:
points, which depend on the test's task.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from lm_course.grading.check_outcome import GradedFailure

LONGEST_VALUE = 160  # characters of a value in a message
# Exceptions that a function raises by mistake if it should have refused its input.
WRONG_REFUSALS = (AssertionError, LookupError, TypeError, OSError, ArithmeticError)
PLAIN = {int, float, bool, str, bytes}
# Likely cause (a sentence) -> the wrong value that this mistake gives, or a test of the value. The
# first cause that fits is named, but never one whose wrong value is as good as the expected one.
Causes = Mapping[str, Any]


def check_true(
    condition: object, sentence: str, details: Mapping[str, object] | None = None
) -> None:
    """Fail with `sentence` and one line per detail (name -> value), unless `condition` holds."""
    if not condition:
        raise GradedFailure(message_of(sentence, {k: shown(v) for k, v in (details or {}).items()}))


def check_equal(got: object, expected: object, what: str, causes: Causes | None = None) -> None:
    """Fail unless `got` equals `expected`, with the same types at every level.

    Args:
        got: the learner's value.
        expected: the correct value.
        what: the subject of the sentence: 'merge_pair of "aaa" and (a, a)'.
        causes: each with its wrong value, or a test of `got`.
    """
    if _same(got, expected):
        return
    place, got_part, expected_part = _first_difference(got, expected)
    values = {"expected": shown(expected_part), "got": shown(got_part)}
    if got_part is None:
        values["likely"] = "a `return` is missing: the function returned None"
    elif type(got_part).__module__ == "numpy" and type(expected_part).__module__ == "builtins":
        values["likely"] = "these are NumPy numbers: .tolist() of an array gives Python numbers"
    if cause := likely_cause(got, expected, causes):
        values["likely"] = cause
    raise GradedFailure(message_of(f"{what}: {place}", values))


def check_close(
    got: Any,
    expected: Any,
    atol: float,
    rtol: float,
    what: str,
    causes: Causes | None = None,
) -> None:
    """Fail unless every number is within `atol + rtol * |expected|` of the expected one.

    Args:
        got: a number, a list, an array or a tensor.
        expected: the same shape, from a float64 reference.
        atol: absolute tolerance.
        rtol: relative tolerance.
        what: the subject of the sentence.
        causes: each with its wrong value, within the same tolerance, or a test of `got` as a
            float64 array.
    """
    import numpy as np

    kind = str(getattr(got, "dtype", type(got).__name__))
    if got is None:
        raise GradedFailure(message_of(f"{what} is None", {"likely": "a `return` is missing"}))
    try:
        numbers, right = _float64(got), _float64(expected)
    except (TypeError, ValueError):
        raise GradedFailure(message_of(f"{what} is not numbers", {"got": shown(got)})) from None
    values = {"shape": f"{numbers.shape}, {kind}"}
    if numbers.shape != right.shape:
        values["expected"] = f"shape {right.shape}"
        sentence = f"{what} has the wrong shape"
    else:
        error, allowed, close = _distance(numbers, right, atol, rtol)
        if close.all():
            return
        excess = np.where(close, -1.0, np.where(np.isnan(error), np.inf, error - allowed))
        worst = np.unravel_index(int(excess.argmax()), excess.shape)
        values["correct"] = f"{int(close.sum()):,} of {close.size:,} values"
        values["worst"] = (
            f"at [{', '.join(str(int(axis)) for axis in worst)}]: expected {right[worst]:.6g}, "
            f"got {numbers[worst]:.6g} (allowed: {allowed[worst]:.1g} off)"
        )
        sentence = f"{what} is wrong"

    def alike(numbers: Any, wrong: Any) -> bool:
        wrong = _float64(wrong)
        if numbers.shape != wrong.shape:
            return False
        *_, close = _distance(numbers, wrong, atol, rtol)
        return bool(close.all())

    if cause := likely_cause(numbers, right, causes, alike):
        values["likely"] = cause
    raise GradedFailure(message_of(sentence, values))


def check_number(
    answers: Any, key: str, expected: float, causes: Mapping[str, float], within: float = 0.0
) -> None:
    """Compare a written answer; `causes` maps a likely cause to the wrong number that it gives."""
    found = answers.number(key)
    likely = [cause for cause, wrong in causes.items() if abs(found - wrong) <= max(within, 1e-9)]
    sentence = f"{key}: {found:.10g} is not right"
    if likely:
        sentence += f": {likely[0]}"
    check_true(abs(found - expected) <= within, sentence)


def likely_cause(
    got: Any,
    expected: Any,
    causes: Causes | None,
    alike: Callable[[Any, Any], bool] | None = None,
) -> str:
    """Return the first of `causes` that fits `got`, or "".

    Args:
        got: the learner's value.
        expected: the correct value.
        causes: each with its wrong value, or a test of `got`.
        alike: compares `got` and `expected` with a wrong value; by default they must be equal and
            of the same type.
    """
    alike = alike or _alike
    for cause, wrong in (causes or {}).items():
        try:
            if callable(wrong):
                recognised = bool(wrong(got))
            else:
                recognised = alike(got, wrong) and not alike(expected, wrong)
        except Exception:  # the test does not apply to this value
            recognised = False
        if recognised:
            return cause
    return ""


def check_raises(
    error_type: type[Exception],
    function: Callable[[], object],
    what: str,
    must_mention: Sequence[str] = (),
) -> None:
    """Fail unless `function()` raises `error_type` with all of `must_mention` in its text."""
    try:
        result = function()
    except NotImplementedError:
        raise
    except error_type as error:
        for word in must_mention:
            if word not in str(error):
                values = {"expected": f"a message with {word!r}", "got": shown(str(error))}
                raise GradedFailure(
                    message_of(f"{what}: the error message does not help", values)
                ) from None
        return
    except WRONG_REFUSALS as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        values = {"expected": error_type.__name__, "got": text}
        failure = GradedFailure(message_of(f"{what} should be refused with another error", values))
        # The traceback has the lines of the learner's code that led to it.
        raise failure.with_traceback(error.__traceback__) from None
    values = {"expected": error_type.__name__, "got": f"no error, but {shown(result)}"}
    raise GradedFailure(message_of(f"{what} should be refused", values))


def check_work(steps: int, at_most: int, what: str, likely: str = "") -> None:
    """Fail if more work was done than a bound allows; `what` names the counted steps."""
    if steps > at_most:
        values = {"expected": f"at most {at_most:,}", "got": f"{steps:,}"}
        raise GradedFailure(
            message_of(f"too much work: {what}", {**values, "likely": likely} if likely else values)
        )


def count_calls(function: Callable[[], Any]) -> tuple[Any, int]:
    """Return (the result of `function()`, how many calls of Python and C functions it made)."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        result = function()
    finally:
        sys.setprofile(before)
    return result, calls - 1  # setprofile itself is the last one seen


def shown(value: object) -> str:
    """Return the repr, cut in the middle if it is long."""
    text = repr(value)
    if len(text) <= LONGEST_VALUE:
        return text
    half = LONGEST_VALUE // 2
    return f"{text[:half]} ... {text[-half // 2 :]} ({len(text):,} characters)"


def message_of(sentence: str, values: Mapping[str, str]) -> str:
    """Return a failure's text: the sentence, and one line for each value."""
    width = max(map(len, values), default=0)
    return "\n".join([sentence, *(f"  {name:<{width}}  {text}" for name, text in values.items())])


class Words(str):
    """Text that a message shows without quotes, because it describes a value."""

    __slots__ = ()
    __repr__ = str.__str__


def _same(got: object, expected: object) -> bool:
    """Return True if both are equal and of the same type or a subclass: 1 is not True here."""
    if not _same_type(got, expected):
        return False
    try:
        return bool(got == expected) and _same_types_inside(got, expected)
    except ValueError:  # arrays
        return False


def _same_types_inside(got: Any, expected: Any) -> bool:
    """Return True if two equal values also hold elements of the same types."""
    if isinstance(expected, str | bytes):
        return True
    if isinstance(expected, Mapping):
        keys = {key: key for key in got}
        return all(
            _same(keys[key], key) and _same(got[key], value) for key, value in expected.items()
        )
    if isinstance(expected, Sequence):
        kinds = set(map(type, expected))
        if kinds <= PLAIN:  # thousands of ids: equal already, so their types remain
            return set(map(type, got)) <= kinds and (
                len(kinds) <= 1 or all(map(_same_type, got, expected))
            )
        return all(map(_same, got, expected))
    return True


def _same_type(got: object, expected: object) -> bool:
    if isinstance(got, bool) != isinstance(expected, bool):
        return False
    return isinstance(got, type(expected))


def _alike(got: object, wrong: object) -> bool:
    """Return True if both are equal and of the same type, whatever the types of their elements."""
    return _same_type(got, wrong) and _equal(got, wrong)


def _first_difference(got: Any, expected: Any) -> tuple[str, Any, Any]:
    """Return (where they differ, the part that was found, the part that was expected)."""
    if not _same_type(got, expected):
        return f"expected {_a(expected)}, got {_a(got)}", got, expected
    if isinstance(expected, Mapping):
        return _first_difference_of_mappings(got, expected)
    if isinstance(expected, set | frozenset):
        if expected - got:
            return f"missing elements: {len(expected - got)}", got, expected
        return f"unexpected elements: {len(got - expected)}", got, expected
    if not isinstance(expected, Sequence):
        return "wrong value", got, expected
    short = len(expected) <= 8 and not isinstance(expected, str | bytes)
    for index, (left, right) in enumerate(zip(got, expected, strict=False)):
        if not _same(left, right):
            if _equal(left, right) and not _same_type(left, right):
                return f"expected {_a(right)} at index {index}, got {_a(left)}", left, right
            place = f"wrong from index {index} on"
            if short and len(shown(got)) <= LONGEST_VALUE:
                return place, got, expected
            if isinstance(expected, str | bytes):
                near = slice(max(0, index - 10), index + 30)
                return place, got[near], expected[near]
            return f"wrong at index {index} ({len(expected):,} expected)", left, right
    lengths = f"{len(got):,} elements, expected {len(expected):,}"
    end = min(len(got), len(expected))
    if len(expected) <= 8 and len(got) <= 16:
        return lengths, got, expected
    return f"{lengths}; equal up to there", got[end : end + 3], expected[end : end + 3]


def _first_difference_of_mappings(got: Any, expected: Any) -> tuple[str, Any, Any]:
    missing = [key for key in expected if key not in got]
    if missing:
        many = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        key = missing[0]
        without = got if len(got) <= 6 else Words(f"no such key among {len(got):,}")
        return f"the key {shown(key)} is missing{many}", without, {key: expected[key]}
    extra = [key for key in got if key not in expected]
    if extra:
        many = f" (and {len(extra) - 1:,} more)" if len(extra) > 1 else ""
        key = extra[0]
        few = len(expected) <= 6
        without = expected if few else Words(f"no such key among {len(expected):,}")
        return f"the key {shown(key)} should not be there{many}", {key: got[key]}, without
    keys = {key: key for key in expected}
    for key in got:
        if not _same(key, keys[key]):
            return f"expected {_a(keys[key])} as a key, got {_a(key)}", key, keys[key]
    for key in expected:
        if not _same(got[key], expected[key]):
            return f"wrong under the key {shown(key)}", got[key], expected[key]
    return "wrong value", got, expected


def _equal(left: object, right: object) -> bool:
    try:
        return bool(left == right)
    except ValueError:  # arrays
        return False


def _a(value: object) -> str:
    kind = type(value)
    name = f"numpy.{kind.__name__}" if kind.__module__ == "numpy" else kind.__name__
    return name if value is None else f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def _distance(numbers: Any, right: Any, atol: float, rtol: float) -> tuple[Any, Any, Any]:
    """Return (the error of each number, the allowed error, whether it is close enough)."""
    import numpy as np

    with np.errstate(all="ignore"):
        error = np.abs(numbers - right)
        allowed = atol + rtol * np.abs(right)
        close = (error <= allowed) | (numbers == right) | (np.isnan(numbers) & np.isnan(right))
    return error, allowed, close


def _float64(value: Any) -> Any:
    """Return a NumPy array of float64 from a number, a list, an array or a tensor on any device."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu().double()
    return np.asarray(value, dtype=np.float64)
