"""Find the function that returned None by mistake: a forgotten `return` is the most common slip.

"'NoneType' object is not iterable" names neither the function nor the slip. So a check that failed
in this way runs again in its child, under a profiler that records which of the learner's functions
ended and returned None. What this leaves out: a None that raises no error; the comparisons
(comparisons.py) report that one.
"""

import contextlib
import dis
import io
import sys
from collections.abc import Callable, Collection
from types import CodeType, FrameType

from lm_course.grading.check_outcome import LearnerCode

GENERATOR = 0x20 | 0x80 | 0x200  # inspect's CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR


def is_about_none(error: BaseException) -> bool:
    """Return True for a TypeError or AttributeError that names None's type."""
    return isinstance(error, TypeError | AttributeError) and "NoneType" in str(error)


def function_without_return(
    check: Callable[[], object], code: LearnerCode, graded: Collection[str]
) -> str:
    """Run `check` again, and return the name of the last function that returned None, or "".

    Args:
        check: a check that fails with an error that `is_about_none`.
        code: tells the learner's functions from ours.
        graded: names of the task functions ("train_bpe", "Tokenizer.encode").
    """
    names: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_qualname
        ended = event == "return" and argument is None and name in graded and _returned(frame)
        if ended and code.holds(frame.f_code.co_filename) and not _gives_none(name, frame):
            names.append(name)

    before = sys.getprofile()
    screen = io.StringIO()  # the code's output has already been printed once
    try:
        with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            sys.setprofile(note)
            check()
    except BaseException as error:
        sys.setprofile(before)
        return names[-1] if names and is_about_none(error) else ""
    finally:
        sys.setprofile(before)
    return ""


def _returned(frame: FrameType) -> bool:
    """Return False if the function was left by an exception or a `yield`."""
    code: CodeType = frame.f_code
    if code.co_flags & GENERATOR or frame.f_lasti < 0:
        return False
    return dis.opname[code.co_code[frame.f_lasti]].startswith("RETURN_")


def _gives_none(name: str, frame: FrameType) -> bool:
    """Return True if the signature says `-> None`: such a function has nothing to return."""
    found: object = frame.f_globals.get(name.partition(".")[0])
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return getattr(found, "__annotations__", {}).get("return", "") in (None, "None")
