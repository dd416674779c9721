"""The two checks that each graded function has: on inputs drawn from its space, it does what the
reference does, and it keeps the contracts.

A wrong result is shrunk to a small input, which the message shows. What this leaves out: why it is
wrong; the checks with worked examples know the likely causes.
"""

import copy
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lm_course.drawn_inputs.contracts import check_contracts
from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, outcome_of
from lm_course.drawn_inputs.reference_process import ReferenceProcess, ask
from lm_course.drawn_inputs.result_comparison import check_result
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import message_of, shown

CONTRACT_DRAWS = 8  # a contract that is broken is broken for most inputs

Import = Callable[[str], ModuleType]


def drawn_checks(spaces: Iterable[Space]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the two checks for all these spaces, for a suite to name `test_...`."""
    each = pytest.mark.parametrize(
        "space",
        [pytest.param(space, id=space.function, marks=pytest.mark.task(space.task))
         for space in spaces],
    )  # fmt: skip

    @each
    def test_as_the_reference(
        space: Space, implementation: Import, reference: ReferenceProcess
    ) -> None:
        check_drawn_inputs(space, implementation(space.module), reference)

    @each
    def test_contracts(space: Space, implementation: Import) -> None:
        check_drawn_contracts(space, implementation(space.module))

    return test_as_the_reference, test_contracts


def check_drawn_inputs(space: Space, module: ModuleType, reference: ReferenceProcess) -> None:
    """Compare with the reference on `space.draws` inputs."""
    with reference.connect() as connection:

        def compare(inputs: dict[str, Any]) -> None:
            expected = ask(connection, space, inputs)
            _compare(space, outcome_of(space, module, inputs), expected)

        _for_drawn_inputs(space, space.draws, compare)


def check_drawn_contracts(space: Space, module: ModuleType) -> None:
    """Check the contracts on some inputs."""
    _for_drawn_inputs(space, CONTRACT_DRAWS, lambda inputs: check_contracts(space, module, inputs))


def _for_drawn_inputs(space: Space, draws: int, check: Callable[[dict[str, Any]], None]) -> None:
    """Call `check` with drawn inputs, the same in every run, and shrink the first that fails."""

    def example(inputs: dict[str, Any]) -> None:
        try:
            check(inputs)
        except GradedFailure as failure:
            arguments = "\n".join(f"    {name} = {shown(value)}" for name, value in inputs.items())
            raise GradedFailure(f"{failure}\n  for example with\n{arguments}") from None

    for inputs in space.examples:
        example(copy.deepcopy(inputs))
    settings(
        max_examples=draws,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )(given(space.inputs)(example))()


def _compare(space: Space, got: Returned | Raised, expected: Returned | Raised) -> None:
    name = space.function
    if isinstance(expected, Raised):
        if isinstance(got, Returned):
            values = {"expected": expected.kind, "got": shown(got.seen)}
            raise GradedFailure(message_of(f"{name} should refuse this input", values))
    elif isinstance(got, Raised):
        values = {"expected": shown(expected.seen), "got": f"{got.kind}: {got.message}"}
        raise GradedFailure(message_of(f"{name} refuses an input that is right", values))
    else:
        check_result(got.seen, expected.seen, f"the result of {name}")
