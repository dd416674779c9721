"""The outcome of one check, and the sentence that tells the learner why.

An exception from the learner's code is shown with the lines of *their* files, never with ours. What
this leaves out: how a check is run (forked_check) and what it is worth (score_table).
"""

import linecache
import os
import re
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

PASSED = "passed"
FAILING = "failing"
NOT_WRITTEN = "not written"
NOT_SUBMITTED = "not submitted"
SKIPPED = "skipped"

LONGEST_MESSAGE = 4000  # characters
MOST_FRAMES = 3
DEEPEST = 100  # frames to look at
STUB_MESSAGE = re.compile(r"(?P<task>\w+\.\d+): write (?P<name>[\w.]+)")
EXAMPLE = "  for example with"  # begins a note of drawn_inputs
FOUND = re.compile(r"(Falsifying example|Failing test case): ")  # Hypothesis, older and newer


class GradedFailure(AssertionError):
    """A check found a wrong result. The text is the whole message; its first line is a sentence."""


class NotWritten(Exception):
    """The code or answer that the check needs is still as it was shipped."""


class NotSubmitted(Exception):
    """The folder under test lacks the file that the check is about."""


@dataclass(frozen=True)
class Outcome:
    """The result of one check.

    Attributes:
        status: PASSED, FAILING, NOT_WRITTEN, NOT_SUBMITTED or SKIPPED.
        message: its first line is a sentence; empty if the check passed.
        where: the learner's lines, outermost first: "workspace/x/y.py:3 in f\\n  return a + b".
        traceback: the whole traceback, for `-v`.
        timed_out: whether the check was stopped at its time limit.
        forbidden: whether the code under test did what no solution may do; its task scores nothing.
    """

    status: str
    message: str = ""
    where: tuple[str, ...] = ()
    traceback: str = ""
    timed_out: bool = False
    forbidden: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        return cls(**{**values, "where": tuple(values["where"])})


@dataclass(frozen=True)
class LearnerCode:
    """The folders of the code under test, and how its files are named in messages."""

    folders: tuple[Path, ...]
    root: Path  # files in it are named relative to `started_in`, others in full
    started_in: Path | None = None  # None for `root`
    functions: Mapping[str, str] = field(default_factory=dict)  # "module.Class.method" -> its task

    def holds(self, file: str | Path) -> bool:
        if str(file).startswith("<"):  # <frozen importlib._bootstrap>, <string>: not a file
            return False
        path = Path(file).absolute()
        return any(path.is_relative_to(folder) for folder in self.folders)

    def name(self, file: str | Path) -> str:
        path = Path(file).absolute()
        if not path.is_relative_to(self.root):
            return path.as_posix()
        return Path(os.path.relpath(path, self.started_in or self.root)).as_posix()

    def line(self, file: str, number: int, function: str) -> str:
        source = linecache.getline(file, number).strip()
        return f"{self.name(file)}:{number} in {function}" + (f"\n  {source}" if source else "")


def outcome_of(error: BaseException, code: LearnerCode, task_id: str) -> Outcome:
    """Describe an exception that a check raised.

    Args:
        error: the exception that left the test function.
        code: tells the learner's frames from ours.
        task_id: the check's task; another task's stub is named as something that this task needs.
    """
    if isinstance(error, BaseExceptionGroup):  # Hypothesis found several mistakes
        return outcome_of(error.exceptions[0], code, task_id)
    frames = [frame for frame in _last_frames(error) if code.holds(frame[0])]
    where = tuple(dict.fromkeys(code.line(*frame) for frame in frames))[-MOST_FRAMES:]
    status, message = _status_and_message(error, code, task_id, bool(frames))
    if isinstance(error, SyntaxError):
        where = ()  # the message names the line
    if status == NOT_WRITTEN:
        where = tuple(place.partition("\n")[0] for place in where[-1:])
    message = printable("\n".join([message, *_example(error)])[:LONGEST_MESSAGE])
    text = "".join(traceback.format_exception(error, limit=-DEEPEST))
    text = printable(text[-LONGEST_MESSAGE:])
    return Outcome(status, message, tuple(map(printable, where)), text)


def without_return(outcome: Outcome, name: str) -> Outcome:
    """Return the outcome of a check that failed because function `name` returned None; unchanged if
    no name is known.
    """
    if not name:
        return outcome
    _, *details = outcome.message.split("\n")
    sentence = f"{name} returned None; is `return` missing?"
    return replace(outcome, message="\n".join([sentence, *details]))


def _status_and_message(
    error: BaseException, code: LearnerCode, task_id: str, in_learner_code: bool
) -> tuple[str, str]:
    import pytest  # `lm hint` needs none of it

    if isinstance(error, NotSubmitted):
        return NOT_SUBMITTED, str(error)
    if isinstance(error, NotWritten):
        return NOT_WRITTEN, str(error)
    if isinstance(error, NotImplementedError):
        return NOT_WRITTEN, _stub_sentence(str(error), task_id)
    if isinstance(error, pytest.skip.Exception):
        return SKIPPED, str(error)
    missing = _missing_name(error, code, task_id)
    if missing:
        return NOT_WRITTEN, missing
    ours = isinstance(error, GradedFailure | pytest.fail.Exception)
    if ours or (isinstance(error, AssertionError) and not _last_frame_is_in(error, code)):
        return FAILING, str(error) or "an assertion of the check failed"
    return FAILING, _mishap(error, code, in_learner_code)


def _mishap(error: BaseException, code: LearnerCode, in_learner_code: bool) -> str:
    """Return the sentence for an exception that no check raised on purpose."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename and code.holds(error.filename):
        line = f"\n  {error.text.strip()}" if error.text else ""
        place = f"{code.name(error.filename)}, line {error.lineno}"
        return f"{place}, is not valid Python: {error.msg}{line}"
    if isinstance(error, SystemExit):
        return (
            f"your code called sys.exit({error.code!r}): a function should return or raise, and "
            "leave it to its caller to end the program"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "your code asked for more memory than this check allows"
    if isinstance(error, RecursionError):
        return "your code calls itself without end (RecursionError)"
    if in_learner_code:
        return f"your code raised {text}"
    return f"the check could not work with the value that your code returned: {text}"


def _stub_sentence(message: str, task_id: str) -> str:
    stub = STUB_MESSAGE.match(message)
    if stub is None:
        return f"not written yet: {message}" if message else "not written yet"
    if stub["task"] == task_id:
        return f"{stub['name']} is not written yet"
    return f"this needs {stub['name']}, which is not written yet (task {stub['task']})"


def _missing_name(error: BaseException, code: LearnerCode, task_id: str) -> str:
    """Return the sentence for a name that the learner's file lacks; empty for other errors.

    The name was in the stub and is gone, or the task has been given it since.
    """
    file, place, name = _looked_up(error)
    if file is None or not code.holds(file):
        return ""
    task = code.functions.get(f"{place.rpartition('.')[2]}.{name}")
    on_instance = isinstance(error, AttributeError) and not isinstance(error.obj, ModuleType | type)
    if task is None and (on_instance or _last_frame_is_in(error, code)):
        return ""  # a slip in the learner's own code
    what = f"{name}, which task {task} asks for" if task else name
    return (
        f"{code.name(file)} has no {what}: to get it, set your file aside, let "
        f"`lm start {task_id.rpartition('.')[0]}` write the stub in its place, and copy {name} "
        "from there into yours"
    )


def _looked_up(error: BaseException) -> tuple[str | None, str, str]:
    """Return the file, the module, and the name that was looked up there; no file if none was."""
    if isinstance(error, AttributeError) and error.name is not None:
        if isinstance(error.obj, ModuleType):
            return getattr(error.obj, "__file__", None), error.obj.__name__, error.name
        owner = error.obj if isinstance(error.obj, type) else type(error.obj)
        module = sys.modules.get(owner.__module__)
        name = f"{owner.__qualname__}.{error.name}"
        return getattr(module, "__file__", None), owner.__module__, name
    match = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    if isinstance(error, ImportError) and match and "circular" not in str(error):
        return error.path, match[2], match[1]
    return None, "", ""


def _last_frames(error: BaseException) -> list[tuple[str, int, str]]:
    """Return (file, line, function), outermost first; only the last, as recursion may leave
    millions.
    """
    frames: deque[tuple[str, int, str]] = deque(maxlen=DEEPEST)
    link = error.__traceback__
    while link is not None:
        code = link.tb_frame.f_code
        frames.append((code.co_filename, link.tb_lineno, code.co_name))
        link = link.tb_next
    return list(frames)


def _last_frame_is_in(error: BaseException, code: LearnerCode) -> bool:
    frames = _last_frames(error)
    return bool(frames) and code.holds(frames[-1][0])


def _example(error: BaseException) -> list[str]:
    """Return the smallest input that was found, from a note on the exception."""
    notes = getattr(error, "__notes__", [])
    if ours := [note for note in notes if note.startswith(EXAMPLE)]:
        return ours[:1]
    notes = [note for note in notes if FOUND.match(note)]
    arguments = [
        line.strip().rstrip(",")
        for note in notes[:1]
        for line in note.splitlines()[1:]
        if "=" in line and "=<" not in line  # fixtures are not inputs
    ]
    return [f"{EXAMPLE} {', '.join(arguments)}"] if arguments else []


def printable(text: str) -> str:
    """Return `text` with control characters and unprintable ones escaped."""
    kept = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[^\t\n -~\u00a0-\U0010ffff]", lambda found: repr(found[0])[1:-1], kept)
