"""Loads the grader, which does nothing for tests outside assignments/."""

import signal

pytest_plugins = ["lm_course.grading.pytest_plugin"]


def pytest_configure() -> None:
    """A shell that starts us in the background has SIGINT ignored, and every process that a test
    starts would inherit that: Ctrl-C could not be tested.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
