"""The comparisons pass correct values, and say of others where, how and why they are wrong."""

import math

import numpy as np
import pytest

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import (
    check_close,
    check_equal,
    check_raises,
    check_true,
    check_work,
    count_calls,
    shown,
)


def message(check: object, *arguments: object, **options: object) -> str:
    with pytest.raises(GradedFailure) as caught:
        check(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [1, "a", b"a", [1, (2,)], {"a": [1]}, {1, 2}, None, 1.5])
def test_equal_values_pass(value: object) -> None:
    check_equal(value, value, "it")


@pytest.mark.parametrize(
    ("got", "expected", "first_line"),
    [
        ([1, 2], (1, 2), "it: expected a tuple, got a list"),
        (True, 1, "it: expected an int, got a bool"),
        ([1, 2], [1, 3], "it: wrong from index 1 on"),
        ([1, 2, 3], [1, 2], "it: 3 elements, expected 2"),
        ({"a": 1}, {"a": 1, "b": 2, "c": 3}, "it: the key 'b' is missing (and 1 more)"),
        ({"a": 1, "b": 2}, {"a": 1}, "it: the key 'b' should not be there"),
        ({"a": 1}, {"a": 2}, "it: wrong under the key 'a'"),
        ({1}, {1, 2}, "it: missing elements: 1"),
        ("abcd", "abxd", "it: wrong from index 2 on"),
        (list(range(50)), [*range(49), 7], "it: wrong at index 49 (50 expected)"),
        (list(range(50)), list(range(40)), "it: 50 elements, expected 40; equal up to there"),
        ([1, np.uint16(2)], [1, 2], "it: expected an int at index 1, got a numpy.uint16"),
        ([bytearray(b"a")], [b"a"], "it: expected a bytes at index 0, got a bytearray"),
        ({"a": 1.0}, {"a": 1}, "it: wrong under the key 'a'"),
        ({np.int64(1): b"a"}, {1: b"a"}, "it: expected an int as a key, got a numpy.int64"),
        ([(1, True)], [(1, 1)], "it: wrong from index 0 on"),
    ],
)
def test_where_they_differ(got: object, expected: object, first_line: str) -> None:
    assert message(check_equal, got, expected, "it").splitlines()[0] == first_line


def test_the_values_and_the_likely_cause() -> None:
    text = message(
        check_equal,
        (b"a", b"aa"),
        (b"aa", b"a"),
        "merge_pair",
        {"one too many": (b"aa", b"aa"), "from the right": (b"a", b"aa")},
    )
    assert text.splitlines() == [
        "merge_pair: wrong from index 0 on",
        "  expected  (b'aa', b'a')",
        "  got       (b'a', b'aa')",
        "  likely    from the right",
    ]
    assert "return" in message(check_equal, None, [1], "f")
    assert "too long" in message(check_equal, [1, 2], [1], "f", {"too long": lambda got: got[1]})
    assert "likely" not in message(check_equal, 1, 2, "f", {"fails": lambda got: got[1]})
    assert ".tolist()" in message(check_equal, [np.uint16(1)], [1], "f")


def test_a_cause_is_recognised_whatever_the_types_inside() -> None:
    causes = {"never: it equals the expected": [1, 2], "turned round": [2, 1]}
    got = [np.int64(2), np.int64(1)]
    assert "likely    turned round" in message(check_equal, got, [1, 2], "f", causes)
    assert "never" not in message(check_equal, got[::-1], [1, 2], "f", causes)
    assert "likely" not in message(check_equal, True, 2, "f", {"one less": 1})


def test_a_key_too_many_is_not_compared_with_a_size() -> None:
    large = dict.fromkeys(range(65), 1)
    got, without = message(check_equal, large | {"x": 1}, large, "f").splitlines()[2:0:-1]
    assert (got, without) == ("  got       {'x': 1}", "  expected  no such key among 65")
    lines = message(check_equal, large, large | {"x": 1}, "f").splitlines()
    assert lines[1:] == ["  expected  {'x': 1}", "  got       no such key among 65"]


def test_close_numbers_pass() -> None:
    check_close([1.0, math.inf, math.nan], [1.0 + 1e-9, math.inf, math.nan], 1e-8, 0, "it")
    check_close(np.float32(100), 100.5, 0, 0.01, "it")


def test_the_worst_element_is_named() -> None:
    got = np.array([[1.0, 2.0], [3.5, 4.2]], dtype=np.float32)
    causes = {"overflow": lambda x: x.max() > 100, "half too much": lambda x: x[1, 0] == 3.5}
    lines = message(check_close, got, [[1, 2], [3, 4]], 0.1, 0, "logits", causes).splitlines()
    assert lines == [
        "logits is wrong",
        "  shape    (2, 2), float32",
        "  correct  2 of 4 values",
        "  worst    at [1, 0]: expected 3, got 3.5 (allowed: 0.1 off)",
        "  likely   half too much",
    ]


@pytest.mark.parametrize("wrong", [[2.0, 4.0], np.array([2.0, 4.0]), (2, 4.001)])
def test_a_wrong_value_is_recognised_within_the_tolerance(wrong: object) -> None:
    causes = {"other shape": 2.0, "no numbers": "words", "twice": wrong}
    assert "likely   twice" in message(check_close, [2.0, 4.0], [1, 2], 0.01, 0, "it", causes)
    assert "likely" not in message(check_close, [2.0, 4.1], [1, 2], 0.01, 0, "it", causes)
    assert "likely    twice" in message(check_close, [2.0, 4.0], [1], 0.01, 0, "it", causes)
    as_good_as_right = {"no": [1, 2.08]}
    assert "likely" not in message(check_close, [1, 2.15], [1, 2], 0.1, 0, "it", as_good_as_right)


def test_not_a_number_is_the_worst_of_all() -> None:
    assert "at [0]: expected 1, got nan" in message(
        check_close, [math.nan, 9.0], [1.0, 2.0], 0.1, 0, "it"
    )


def test_shape_none_and_words() -> None:
    text = message(check_close, [1.0, 2.0], [[1.0, 2.0]], 1, 0, "it")
    assert "wrong shape" in text
    assert "(1, 2)" in text
    assert "`return`" in message(check_close, None, [1.0], 1, 0, "it")
    assert "not numbers" in message(check_close, "words", [1.0], 1, 0, "it")


def test_tensors_are_compared_in_float64() -> None:
    torch = pytest.importorskip("torch")
    check_close(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), [1, 1], 0, 0, "it")
    assert "torch.bfloat16" in message(
        check_close, torch.ones(2, dtype=torch.bfloat16), [1, 2], 0, 0, "it"
    )


def test_errors_that_are_asked_for() -> None:
    def refuse() -> None:
        raise ValueError("vocab_size 3 is too small")

    check_raises(ValueError, refuse, "a small vocabulary", ["vocab_size", "3"])
    assert "does not help" in message(check_raises, ValueError, refuse, "it", ["4"])
    assert "no error, but 5" in message(check_raises, ValueError, lambda: 5, "it")

    def other_error() -> None:
        raise AssertionError("named twice")

    lines = message(check_raises, ValueError, other_error, "a token named twice").splitlines()
    assert lines[0] == "a token named twice should be refused with another error"
    assert lines[1:] == ["  expected  ValueError", "  got       AssertionError: named twice"]
    with pytest.raises(GradedFailure) as caught:
        check_raises(ValueError, other_error, "it")
    assert caught.traceback[-1].name == "other_error", "the learner's lines are told"

    def stub() -> None:
        raise NotImplementedError("t1.1: write stub")

    with pytest.raises(NotImplementedError):
        check_raises(Exception, stub, "a stub is not an answer")


def test_work_and_truth() -> None:
    check_work(10, 10, "steps")
    text = message(check_work, 1234, 10, "recounting", "the corpus is read at each merge")
    assert "at most 10" in text
    assert "1,234" in text
    check_true([1], "not empty")
    assert message(check_true, [], "empty", {"got": []}) == "empty\n  got  []"


@pytest.mark.parametrize("times", [0, 3, 300])
def test_calls_are_counted(times: int) -> None:
    def work() -> int:
        return sum([len("a") for _ in range(times)])

    result, calls = count_calls(work)
    assert result == times
    # work, range, sum and in Python 3.11 the comprehension, besides len
    assert times <= calls <= times + 4


def test_long_values_are_cut() -> None:
    assert len(shown("x" * 10_000)) < 200
    assert shown([1, 2]) == "[1, 2]"
