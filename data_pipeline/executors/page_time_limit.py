"""A time limit, in seconds, for one page.

Where the operating system has an alarm signal (everywhere except Windows), its handler raises in
the main thread: between two Python instructions, or inside a regular expression, which checks for
signals while it searches. On Windows, a second thread triggers the Ctrl-C signal instead, which
interrupts Python instructions only; a real Ctrl-C is passed to the previous handler.

The block should be one call. In Python 3.13, a loop's jump back has no entry in the exception table
of `with` and `except`, so a signal that arrives exactly there bypasses both.

What this leaves out: a single call into C code that never checks for signals. Every function called
on a page takes time in proportion to the page's length (a test doubles it), and `max_page_bytes`
bounds that length.
"""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType


class PageTooSlow(BaseException):
    """The time limit was exceeded. It is not an `Exception`, so that no `except Exception` catches
    it.
    """


def time_limit(seconds: float) -> AbstractContextManager[None]:
    """Raise PageTooSlow inside the block once it has taken `seconds`.

    There is no limit outside the main thread, because Python does not handle signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return limit_by_alarm(seconds) if hasattr(signal, "setitimer") else limit_by_thread(seconds)


@contextmanager
def limit_by_alarm(seconds: float) -> Iterator[None]:
    """Limit the block by the operating system's alarm."""
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
    """Limit the block by a second thread and the Ctrl-C signal."""
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
        timer.join()  # so that a signal it still sends reaches our handler
        signal.signal(signal.SIGINT, before)
