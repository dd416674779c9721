"""The measurements of processor time in the suite of a1."""

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lm_course.grading.check_outcome import GradedFailure
from tokenizer_bpe import tokenizer

SUITE = Path(__file__).parents[2] / "assignments" / "a1"


def load(name: str) -> ModuleType:
    """A file of the suite, of which this run collects nothing."""
    spec = importlib.util.spec_from_file_location(f"a1_{name}", SUITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def times(tries: list[tuple[float, float]], *longest: float) -> Iterator[float]:
    """Yield the measured times: in every try, five short words and one of four times the length."""
    for short, long in tries:
        yield from (short, *[9.0 * short] * 4, long)
    yield from longest


def measured(given: Iterator[float]) -> None:
    conftest = load("conftest")
    a1 = SimpleNamespace(vocabulary=conftest.vocabulary, processor_seconds=lambda *_: next(given))
    check = load("test_5_tokenizer").test_a_long_word_is_no_trap_inside_of_c
    check(lambda name: tokenizer, a1, "a")


def test_nothing_is_collected_while_a_call_is_measured() -> None:
    seen = []
    measure = load("conftest").processor_seconds
    measure(lambda: seen.append(gc.isenabled()))
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 / 0)
    assert gc.isenabled()
    gc.disable()
    try:
        measure(lambda: seen.append(gc.isenabled()))
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert seen == [False, False]


@pytest.mark.parametrize("slow", [0, 1, 4])
def test_a_long_word_that_was_disturbed_is_measured_again_and_no_more_than_needed(slow) -> None:
    given = times([*[(1.0, 16.0)] * slow, (1.0, 9.0)])
    measured(given)
    assert next(given, None) is None


@pytest.mark.parametrize("longest", [(144.0,), (250.0, 144.0)])
def test_a_longer_word_decides_if_the_first_takes_too_long(longest) -> None:
    given = times([(1.0, 16.0)] * 5, *longest)
    measured(given)
    assert next(given, None) is None


def test_two_lengths_that_take_too_long_are_a_mistake() -> None:
    given = times([(1.0, 16.0)] * 5, 250.0, 260.0)
    with pytest.raises(GradedFailure, match="16 times from 240 to 960 bytes, and 16 times from"):
        measured(given)
    assert next(given, None) is None


def test_a_short_word_that_was_disturbed_hides_nothing() -> None:
    """Its best time of all tries counts."""
    with pytest.raises(GradedFailure, match="grows with the square"):
        measured(times([(1.0, 16.0), *[(2.0, 16.0)] * 4], 250.0, 250.0))
