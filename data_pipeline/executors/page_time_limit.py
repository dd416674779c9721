"""A limit on the seconds that one page may take.

Where the operating system has an alarm (everywhere but on Windows) its handler raises in the main
thread: between two steps of Python, or inside a regular expression, which looks for signals while
it searches. On Windows a second thread asks for the signal of Ctrl-C instead, which reaches the
steps of Python only; a real Ctrl-C goes to the handler that was there before.

The block should be one call. Python 3.13 gives a loop's jump back no entry in the table of `with`
and `except`: a signal that arrives right there leaves the block past both.

Left out: a single call into C code that never looks for signals. Everything that is called on a
page takes time in proportion to its length (a test doubles it), and `max_page_bytes` bounds that.
"""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType


class PageTooSlow(BaseException):
    """The time is over. Not an `Exception`, so that no `except Exception` on the way catches it."""


def time_limit(seconds: float) -> AbstractContextManager[None]:
    """Raise PageTooSlow inside the block once it has taken `seconds`.

    Outside the main thread, where Python handles no signals, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return limit_by_alarm(seconds) if hasattr(signal, "setitimer") else limit_by_thread(seconds)


@contextmanager
def limit_by_alarm(seconds: float) -> Iterator[None]:
    """By the operating system's alarm."""
    inside = True

    def on_alarm(number: int, frame: FrameType | None) -> None:
        nonlocal inside
        if inside:
            inside = False
            raise PageTooSlow

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            inside = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def limit_by_thread(seconds: float) -> Iterator[None]:
    """By a second thread and the signal of Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    inside, asked = True, False

    def ask_for_signal() -> None:
        nonlocal asked
        asked = True
        _thread.interrupt_main()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal inside, asked
        if asked:
            asked = False
            if inside:
                inside = False
                raise PageTooSlow
        elif callable(before):
            before(number, frame)

    timer = threading.Timer(seconds, ask_for_signal)
    timer.daemon = True
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        timer.start()
        try:
            yield
        finally:
            inside = False
    finally:
        timer.cancel()
        timer.join()  # so that a signal that it still asks for meets our handler
        signal.signal(signal.SIGINT, before)
