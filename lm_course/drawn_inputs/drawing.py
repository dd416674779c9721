"""Drawing inputs from a space, the same in every run, and shrinking one that fails.

Hypothesis does both. What this leaves out: what is checked (drawn_checks.py).
"""

import copy
import signal
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.strategies import builds

from lm_course.drawn_inputs.code_constants import begin_input, constants_of
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.grading.check_outcome import EXAMPLE
from lm_course.grading.comparisons import shown

SEED = 20240229
BACKEND = "independent"
SECONDS_TO_SHRINK = 3

Check = Callable[[dict[str, Any]], None]


class IndependentDraws(HypothesisProvider):
    """Draws every input anew. Hypothesis' own search changes a part of the input before, five times
    out of six, which suits thousands of draws and wastes sixty.
    """


AVAILABLE_PROVIDERS[BACKEND] = f"{__name__}.{IndependentDraws.__name__}"


class _Stop(BaseException):
    """Ends Hypothesis' search from within; not an Exception, so that nothing catches it."""


def draw_inputs(space: Space, times: int, use: Check) -> None:
    """Call `use` with `times * space.draws` inputs, or fewer if the space is that small; at least
    with one.
    """
    _search(space, max(1, times * space.draws), [Phase.generate], use)


def smallest_failure(
    space: Space, times: int, check: Check, failure: Exception, inputs: dict[str, Any]
) -> tuple[Exception, dict[str, Any]]:
    """Return the failure for the smallest inputs that are found in a short time, and the inputs.

    Args:
        space: where the inputs came from.
        times: as they were drawn.
        check: raises an exception of the same type for inputs that fail.
        failure: returned if none is found.
        inputs: for which it was raised.
    """
    found = [(failure, inputs)]

    def note_failure(inputs: dict[str, Any]) -> None:
        before = copy.deepcopy(inputs)
        try:
            check(inputs)
        except Exception as error:
            if type(error) is type(failure):
                found.append((error, before))
                raise

    earlier = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_SHRINK)
    try:
        _search(space, times * space.draws, [Phase.generate, Phase.shrink], note_failure)
    except (_Stop, Exception):
        pass  # the last that failed is the smallest so far
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    return found[-1]


def with_example(failure: Exception, inputs: Mapping[str, Any]) -> Exception:
    """Return the failure with its inputs in a note."""
    lines = [f"    {name} = {shown(value)}" for name, value in inputs.items()]
    failure.add_note("\n".join([EXAMPLE, *lines]))
    return failure


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stop


def _search(space: Space, draws: int, phases: list[Phase], use: Check) -> None:
    def example(inputs: dict[str, Any]) -> None:
        use(inputs)

    one_by_one = builds(begin_input).flatmap(lambda _: space.inputs)
    searched = settings(
        max_examples=draws,
        deadline=None,
        database=None,
        backend=BACKEND,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )(given(one_by_one)(example))
    with constants_of(space.task):
        seed(SEED)(searched)()
