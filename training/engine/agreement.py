"""Errors that all ranks share: if one cannot continue, none does, and one line says why.

A rank that raised alone would leave the others waiting for it in their next collective.
"""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from lm_core.artifact_paths import out_of_space
from lm_core.user_error import UserError

Value = TypeVar("Value")
EXPECTED = (UserError, OSError)


class SharedError(UserError):
    """An error that every rank raises with the same message, so one of them may print it."""


def on_main(function: Callable[[], Value]) -> Value:
    """Run a function on rank 0 alone; return its result, or raise its error, on all ranks.

    Args:
        function: its result is sent to the other ranks.
    """
    outcome: list[tuple[Value | None, str | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            outcome = [(function(), None)]
        except EXPECTED as error:
            outcome = [(None, in_one_line(error))]
    dist.broadcast_object_list(outcome, src=0)
    value, problem = outcome[0]
    if problem is not None:
        raise SharedError(problem)
    return value


def on_all(function: Callable[[], Value]) -> Value:
    """Run a function on every rank; if it fails on one, raise that error on all."""
    value, problem = None, None
    try:
        value = function()
    except EXPECTED as error:
        problem = in_one_line(error)
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    failed = [rank for rank, each in enumerate(problems) if each is not None]
    if failed:
        alone = f"rank {failed[0]}: " if len(failed) < len(problems) else ""
        raise SharedError(f"{alone}{problems[failed[0]]}")
    return value


def is_of_the_group(error: BaseException) -> bool:
    """Return whether a collective failed, because another rank has ended or does not answer."""
    words = ("gloo", "Connection closed by peer", "Connection reset", "NCCL", "Timed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def in_one_line(error: BaseException) -> str:
    """Return what went wrong, in one line."""
    if out_of_space(error):
        return "no space left on the device; free some space and run the same command again"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
