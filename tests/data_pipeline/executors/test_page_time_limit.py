"""A limit on the time of a block: in Python, inside a regular expression, and beside Ctrl-C."""

import _thread
import contextlib
import re
import signal
import threading
import time

import pytest

from data_pipeline.executors.page_time_limit import (
    PageTooSlow,
    limit_by_alarm,
    limit_by_thread,
    time_limit,
)

HUNG = 60  # seconds after which a test gives up
HAS_ALARM = hasattr(signal, "setitimer")
WAYS = [limit_by_alarm, limit_by_thread] if HAS_ALARM else [limit_by_thread]


def handlers() -> list:
    return [signal.getsignal(n) for n in (signal.SIGINT, getattr(signal, "SIGALRM", 2))]


@pytest.mark.parametrize("limit", [time_limit, *WAYS])
def test_a_block_in_time_is_left_alone(limit):
    before = handlers()
    with limit(HUNG):
        pass
    assert handlers() == before
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


@pytest.mark.parametrize("limit", [time_limit, *WAYS])
def test_a_loop_is_ended_although_it_catches_exceptions(limit):
    before = handlers()
    with pytest.raises(PageTooSlow), limit(0.05):
        loop_that_catches()  # not inline: in 3.13 a loop's jump back is outside its `with`
    assert handlers() == before


def loop_that_catches() -> None:
    started = time.monotonic()
    while time.monotonic() < started + HUNG:
        with contextlib.suppress(Exception):
            sum(range(1000))


@pytest.mark.skipif(not HAS_ALARM, reason="no alarm interrupts a regular expression")
def test_a_regular_expression_is_ended():
    with pytest.raises(PageTooSlow), time_limit(0.05):
        re.match(r"(a|a)*b", "a" * 60)  # 2^60 steps


@pytest.mark.parametrize("limit", [time_limit, *WAYS])
def test_a_real_interrupt_goes_where_it_went_before(limit):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), limit(HUNG):
        _thread.interrupt_main()
        while time.monotonic() < started + HUNG:
            pass


def test_outside_the_main_thread_there_is_no_limit():
    done = []

    def work():
        with time_limit(1e-6):
            done.append(sum(range(100_000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [4999950000]
