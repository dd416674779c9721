"""Errors of a rank, sent to the check's process with the lines that led to them.

A traceback does not survive pickle. Here its lines do, and the check's process makes a traceback of
them again, in which the grader finds the learner's file as in any other check.
"""

import pickle
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, NoReturn, TypeVar

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.forked_check import STACK_LINE

MOST_FRAMES = 60
Frame = tuple[str, int, str]  # file, line, function
Error = TypeVar("Error", bound=BaseException)


class PackedError:
    """An exception as it is sent.

    Args:
        error: with its traceback.
    """

    def __init__(self, error: BaseException) -> None:
        self.kind = type(error).__name__
        self.text = str(error)
        self.frames = _frames_of(error)
        self.looked_up = _looked_up(error)
        self.pickled = b""
        with suppress(Exception):
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
            self.pickled = pickled

    def raise_again(self, failed: list[int], size: int, difference: str) -> NoReturn:
        """Raise the error in this process.

        Args:
            failed: the ranks that have raised an error.
            size: how many ranks there are.
            difference: the sentence about two collectives that do not match, or "".
        """
        error = self._error()
        if isinstance(error, RuntimeError) and difference:
            sentence = f"{difference}; rank {failed[0]} got {self.text.splitlines()[0]}"
            error = GradedFailure(sentence)
        elif len(failed) < size and len(error.args) == 1 and isinstance(error.args[0], str):
            first, *others = error.args[0].split("\n")
            error.args = ("\n".join([f"{first} (on rank {failed[0]} alone)", *others]),)
        raise raised_at(error, self.frames) from None

    def _error(self) -> BaseException:
        if self.pickled:
            error = pickle.loads(self.pickled)
        else:
            error = type(self.kind, (Exception,), {})(self.text)
        if self.looked_up is not None and isinstance(error, AttributeError):
            error.name, error.obj = self.looked_up[0], _found(*self.looked_up[1:])
        return error


def raised_at(error: Error, frames: list[Frame]) -> Error:
    """Return the error with a traceback of these lines, outermost first."""
    link: TracebackType | None = None
    for file, line, function in reversed(frames[-MOST_FRAMES:]):
        code = compile("\n" * (line - 1) + "raise error", file, "exec").replace(co_name=function)
        try:
            exec(code, {"error": RuntimeError()})
        except RuntimeError as raised:
            real = raised.__traceback__.tb_next
            link = TracebackType(link, real.tb_frame, real.tb_lasti, line)
    return error.with_traceback(link)


def frames_of_stack(stack: str) -> list[Frame]:
    """Return the lines of a stack that faulthandler wrote, outermost first."""
    found = [(file, int(line), name) for file, line, name in STACK_LINE.findall(stack)]
    return [frame for frame in reversed(found) if not frame[0].startswith("<")]


def _frames_of(error: BaseException) -> list[Frame]:
    frames = []
    link = error.__traceback__
    while link is not None:
        code = link.tb_frame.f_code
        if not code.co_filename.startswith("<"):
            frames.append((code.co_filename, link.tb_lineno or 1, code.co_name))
        link = link.tb_next
    return frames


def _looked_up(error: BaseException) -> tuple[str, str, str] | None:
    """Return the name that an AttributeError could not find, and the module and class of what was
    asked for it, by name; the class is "" for a module, and "." begins that of an instance.
    """
    if not isinstance(error, AttributeError) or error.name is None:
        return None
    if isinstance(error.obj, ModuleType):
        return error.name, error.obj.__name__, ""
    if isinstance(error.obj, type):
        return error.name, error.obj.__module__, error.obj.__qualname__
    kind = type(error.obj)
    return error.name, kind.__module__, f".{kind.__qualname__}"


def _found(module: str, kind: str) -> Any:
    """Return the module, the class, or an empty instance of the class."""
    import sys

    found: Any = sys.modules.get(module)
    if not kind or found is None:
        return found
    with suppress(Exception):
        for name in kind.lstrip(".").split("."):
            found = getattr(found, name)
        return object.__new__(found) if kind.startswith(".") else found
    return None
