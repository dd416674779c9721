"""Errors of kernels that run in Triton's interpreter, as the learner wrote them.

What this leaves out: the kernels themselves.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any


def own_error(call: Callable[[], Any]) -> Any:
    """Return the result of `call`. Triton's interpreter wraps an error of a kernel, call by call:
    unwrap it, and keep the lines of all those calls.
    """
    try:
        return call()
    except Exception as error:
        wrapped: BaseException = error
        lines = wrapped.__traceback__
        while type(wrapped).__name__ == "InterpreterError" and wrapped.__cause__ is not None:
            wrapped = wrapped.__cause__
            lines = joined(lines, wrapped.__traceback__)
        if isinstance(wrapped, AssertionError):  # Triton's own: no check has failed
            wrapped = TypeError(str(wrapped))
        raise wrapped.with_traceback(lines) from None


def joined(outer: TracebackType | None, inner: TracebackType | None) -> TracebackType | None:
    """Join two tracebacks, one after the other."""
    if outer is None:
        return inner
    rest = joined(outer.tb_next, inner)
    return TracebackType(rest, outer.tb_frame, outer.tb_lasti, outer.tb_lineno)
