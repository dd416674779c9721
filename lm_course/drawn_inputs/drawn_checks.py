"""The two checks that each graded function has: on inputs drawn from its space, it does what the
reference does, and it keeps the contracts.

A wrong result is shrunk to a small input, which the message shows. What this leaves out: why it is
wrong; the checks with worked examples know the likely causes.
"""

import copy
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lm_core.user_error import UserError
from lm_course.drawn_inputs.contracts import check_contracts
from lm_course.drawn_inputs.drawing import smallest_failure, with_example
from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, outcome_of
from lm_course.drawn_inputs.reference_process import Drawn, ReferenceProcess, answer_in, ask
from lm_course.drawn_inputs.result_comparison import check_result
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import Words, message_of, shown

CONTRACT_DRAWS = 8  # a contract that is broken is broken for most inputs

Import = Callable[[str], ModuleType]
Compare = Callable[[dict[str, Any], Returned | Raised], None]


@dataclass(frozen=True)
class DrawnInputs:
    """The inputs of one space, for one check.

    Attributes:
        space: where the inputs come from.
        drawn: the inputs and the reference's outcomes.
        reference: answers for inputs that are tried while one is shrunk.
        failed: the file for inputs that failed, which are tried first in the next run; None: they
            are forgotten.
    """

    space: Space
    drawn: list[Drawn]
    reference: ReferenceProcess
    failed: Path | None = None

    def in_turn(self) -> "Iterator[DrawnInputs]":
        """Yield these inputs, and then all, if these are the first ones for a function that was
        still to be written when the run began: it may have been replaced since.
        """
        yield self
        if self.space.task in self.reference.unwritten:
            yield replace(self, drawn=self.reference.drawn(self.space))


def drawn_checks(spaces: Iterable[Space]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the two checks for all these spaces, for a suite to name `test_...`."""
    each = pytest.mark.parametrize(
        "space",
        [pytest.param(space, id=space.function, marks=pytest.mark.task(space.task))
         for space in spaces],
    )  # fmt: skip

    @each
    def test_as_the_reference(
        space: Space, implementation: Import, drawn_inputs: DrawnInputs
    ) -> None:
        module = implementation(space.module)
        for inputs in drawn_inputs.in_turn():
            check_drawn_inputs(inputs, module)

    @each
    def test_contracts(space: Space, implementation: Import, drawn_inputs: DrawnInputs) -> None:
        module = implementation(space.module)
        for inputs in drawn_inputs.in_turn():
            check_drawn_contracts(inputs, module)

    return test_as_the_reference, test_contracts


def check_drawn_inputs(inputs: DrawnInputs, module: ModuleType) -> None:
    """Compare with the reference on all drawn inputs."""
    space = inputs.space

    def compare(drawn: dict[str, Any], expected: Returned | Raised) -> None:
        _compare(space, outcome_of(space, module, drawn), expected)

    _check_each(inputs, 1, compare)


def check_drawn_contracts(inputs: DrawnInputs, module: ModuleType) -> None:
    """Check the contracts on some inputs, which are spread over the drawn ones."""
    step = max(1, len(inputs.drawn) // CONTRACT_DRAWS)

    right = (each for each in reversed(inputs.drawn) if not _is_refused(each))
    others = pickle.loads(last.inputs) if (last := next(right, None)) else None

    def check(drawn: dict[str, Any], _: Returned | Raised) -> None:
        check_contracts(inputs.space, module, drawn, others)

    _check_each(inputs, step, check)


def _is_refused(drawn: Drawn) -> bool:
    return isinstance(answer_in(drawn.outcome), Raised)


def _check_each(inputs: DrawnInputs, step: int, compare: Compare) -> None:
    """Check each `step`-th of the inputs, first the one that failed in the run before; shrink what
    fails.
    """
    space, reference = inputs.space, inputs.reference

    def check_another(drawn: dict[str, Any]) -> None:
        with reference.connect() as connection:
            expected = ask(connection, space, drawn)
        compare(drawn, expected)

    _repeat_failed(inputs, check_another)
    for number, (given, outcome) in list(enumerate(inputs.drawn))[::step]:
        try:
            compare(pickle.loads(given), answer_in(outcome))
        except NotImplementedError:
            raise
        except Exception as failure:
            found: tuple[Exception, dict[str, Any]] = failure, pickle.loads(given)
            if number >= len(space.examples):
                found = smallest_failure(space, reference.times, check_another, *found)
            if inputs.failed is not None:
                inputs.failed.parent.mkdir(exist_ok=True)
                inputs.failed.write_bytes(pickle.dumps(found[1]))
            raise with_example(*found) from None


def _repeat_failed(inputs: DrawnInputs, check: Callable[[dict[str, Any]], None]) -> None:
    """Check the inputs that failed in the run before, and forget them once they pass."""
    if inputs.failed is None or not inputs.failed.is_file():
        return
    known = False
    with suppress(Exception):  # an input of an older suite
        drawn = pickle.loads(inputs.failed.read_bytes())
        before = copy.deepcopy(drawn)
        with inputs.reference.connect() as connection:
            ask(connection, inputs.space, drawn)
        known = True
    if known:
        try:
            check(drawn)
        except NotImplementedError:
            raise
        except Exception as failure:
            raise with_example(failure, before) from None
    inputs.failed.unlink()


def _public(kind: str) -> str:
    """Return the name that a handout uses: UserError is the reference's own ValueError."""
    return "ValueError" if kind == UserError.__name__ else kind


def _compare(space: Space, got: Returned | Raised, expected: Returned | Raised) -> None:
    name = space.function
    if isinstance(expected, Raised) and isinstance(got, Raised):
        for part in re.findall(space.told, expected.message) if space.told else ():
            if not re.search(rf"(?<![\w-]){re.escape(part)}(?!\w)", got.message):
                values = {"expected": shown(Words(f"{part} in it")), "got": got.message}
                raise GradedFailure(message_of(f"the message of {name} lacks a part", values))
    elif isinstance(got, Returned) and isinstance(expected, Raised):
        refusal = Words(f"{_public(expected.kind)}: {expected.message}")
        values = {"expected": shown(refusal), "got": shown(got.seen)}
        raise GradedFailure(message_of(f"{name} should refuse this input", values))
    elif isinstance(got, Raised):
        values = {"expected": shown(expected.seen), "got": f"{got.kind}: {got.message}"}
        raise GradedFailure(message_of(f"{name} refuses an input that is right", values))
    else:
        check_result(got.seen, expected.seen, f"the result of {name}")
