"""Shared parts of the checks of a3_data.

Nothing here imports the code under test. What this leaves out: the oracles, which are beside the
checks that use them.
"""

import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lm_course.containment.step_counter import StepCounter
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import (
    Causes,
    check_close,
    check_equal,
    check_number,
    check_raises,
    check_true,
    likely_cause,
    message_of,
    shown,
)

sys.path.insert(0, str(Path(__file__).parent))  # for the strategies beside it


def array(got: Any, what: str) -> np.ndarray:
    """Return a result as an array; fail if it is something else."""
    if got is None:
        raise GradedFailure(f"{what} returned None; is `return` missing?")
    if not isinstance(got, np.ndarray):
        raise GradedFailure(f"{what}: expected a NumPy array, got a {type(got).__name__}")
    return got


def check_array(
    got: Any, expected: list[int], dtype: str, what: str, causes: Causes | None = None
) -> None:
    """Fail unless `got` is an array of this type with exactly these numbers."""
    found = array(got, what)
    check_true(
        str(found.dtype) == dtype,
        f"{what}: expected an array of {dtype}, got one of {found.dtype}",
    )
    check_true(
        found.ndim == 1, f"{what}: expected one axis, got an array of the shape {found.shape}"
    )
    check_equal([int(number) for number in found], expected, what, causes)


def close(
    got: Any, expected: Any, atol: float, rtol: float, what: str, causes: Causes | None = None
) -> None:
    """As `check_close`; the message of one number has no shape and no place."""
    if not isinstance(got, int | float | np.number) or not isinstance(expected, int | float):
        check_close(got, expected, atol, rtol, what, causes)
        return
    number = np.float64(got)

    def alike(one: Any, other: Any) -> bool:
        return abs(float(one) - float(other)) <= atol + rtol * abs(float(other))

    if not alike(number, expected):
        values = {"expected": repr(float(expected)), "got": repr(float(number))}
        if cause := likely_cause(number, expected, causes, alike):
            values["likely"] = cause
        raise GradedFailure(message_of(f"{what} is wrong", values))


@contextmanager
def written_files(contents: Mapping[str, bytes]) -> Iterator[list[Path]]:
    """Files of these names and bytes, in the order given, in a folder `in` of their own; beside it
    is room for a folder of results.
    """
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "in")
        inside.mkdir()
        for name, content in contents.items():
            (inside / name).write_bytes(content)
        yield [inside / name for name in contents]


def files_in(folder: Path) -> dict[str, bytes]:
    """Return name -> bytes of the files of a folder; empty if there is no such folder."""
    if not folder.is_dir():
        return {}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def with_little_memory(call: Callable[[], Any], what: str, instead: str) -> Any:
    """Return the result of a call whose input is too large for a list of all; if it asks for the
    memory of one, fail with a sentence that says what to do instead.
    """
    try:
        return call()
    except (MemoryError, OverflowError) as error:
        failure = GradedFailure(f"{what} reached the memory limit of this check: {instead}")
        raise failure.with_traceback(error.__traceback__) from None


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that the call took at one time, of Python and NumPy. The call is made
    once before, so that what is loaded on first use does not count.
    """
    call()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="session")
def a3_data() -> SimpleNamespace:
    """Provide the comparisons and counters."""
    return SimpleNamespace(
        GradedFailure=GradedFailure,
        StepCounter=StepCounter,
        array=array,
        check_array=check_array,
        check_number=check_number,
        close=close,
        expect=check_equal,
        files_in=files_in,
        peak_bytes=peak_bytes,
        raises=check_raises,
        shown=shown,
        true=check_true,
        with_little_memory=with_little_memory,
        written_files=written_files,
    )
