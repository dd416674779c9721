"""Load the grader, which does nothing for tests outside assignments/."""

import signal

pytest_plugins = ["lm_course.grading.pytest_plugin"]


def pytest_configure() -> None:
    """Restore the handler of SIGINT. A shell that starts pytest in the background ignores SIGINT,
    and every process that a test starts would inherit that, so Ctrl-C could not be tested.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
