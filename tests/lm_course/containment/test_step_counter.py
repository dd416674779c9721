"""Steps are counted, and code with too many is stopped and its tracing given back."""

import sys

from lm_course.containment.step_counter import StepCounter


def loop(times: int) -> None:
    for _ in range(times):
        len("a")


def test_steps_grow_with_the_work() -> None:
    with StepCounter() as few:
        loop(10)
    with StepCounter() as many:
        loop(110)
    assert many.steps - few.steps == 200  # two lines, a hundred times
    assert not many.stopped


def test_calls_of_c_functions_are_counted_if_asked() -> None:
    with StepCounter() as lines:
        loop(100)
    with StepCounter(c_calls=True) as both:
        loop(100)
    assert both.steps - lines.steps >= 100


def test_code_is_stopped_at_the_limit_also_if_it_catches_exceptions() -> None:
    before = sys.gettrace(), sys.getprofile()
    ended = False
    with StepCounter(50, c_calls=True) as counter:
        try:
            loop(1_000_000)
        except Exception:
            ended = True
        ended = True
    assert counter.stopped
    assert not ended
    assert 50 < counter.steps < 200
    assert (sys.gettrace(), sys.getprofile()) == before
