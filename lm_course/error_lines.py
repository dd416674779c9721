"""One line for every exception: a user error, an internal error, or one in the learner's file.

Only a `UserError`, and the few library errors that amount to one (pydantic rejects a setting, the
system refuses a file), are printed without a prefix. Everything else is a mistake in code: the line
says whose, and the traceback goes to a file. `--debug`, or the environment variable LM_TRACEBACK,
also shows the traceback. What this leaves out: usage errors and Ctrl-C (cli.py).
"""

import errno
import os
import platform
import re
import sys
import tempfile
import traceback
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import pydantic

from lm_core.artifact_paths import atomic_file, out_of_space
from lm_core.settings import first_problem
from lm_core.stand_ins import stand_ins_folder
from lm_core.user_error import UserError
from lm_course.locations import PROJECT

TRACEBACK_VARIABLE = "LM_TRACEBACK"
DISTRIBUTION = "language-models-from-scratch"
PACKAGES = (
    "lm_core", "tokenizer_bpe", "transformer_lm", "data_pipeline", "training", "inference",
    "scaling_laws", "alignment", "evaluation", "lm_course",
)  # fmt: skip
REFUSED_BY_THE_SYSTEM = (
    errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.ENOMEM, errno.EAGAIN,
)  # fmt: skip
LONGEST_MESSAGE = 300  # characters of a library's error; the traceback's file has all of it
DISK_FULL = (
    "no space left on the device; finished work is complete: free some space and run the same "
    "command again"
)
WORKER_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in (.+)\n(?: +(.+)\n)?', re.MULTILINE)


@dataclass(frozen=True)
class Explanation:
    """The meaning of an exception for the user.

    Attributes:
        whose: "user" for bad input, "learner" for a mistake in the learner's own file, "internal"
            for one in this project or in a library.
        text: one line, without the names of the step and of the traceback's file.
    """

    whose: Literal["user", "learner", "internal"]
    text: str

    @property
    def status(self) -> int:
        """The exit status of a command that ends with this."""
        return 2 if self.whose == "user" else 1

    def line(self, step: str | None = None, kept_in: Path | None = None) -> str:
        """Return the whole line: where it happened, what happened, where the traceback is."""
        where = f" in step {step}" if step else ""
        before = f"internal error{where}: " if self.whose == "internal" else ""
        keeps = kept_in is not None and self.whose != "user"
        return f"{before}{self.text}" + (f"; the traceback is in {shown(kept_in)}" if keeps else "")


def explain(error: BaseException) -> Explanation:
    """Classify an exception; see the module's docstring."""
    if out_of_space(error):
        return Explanation("user", DISK_FULL)
    if isinstance(error, UserError):
        return Explanation("user", one_line(str(error)))
    if isinstance(error, NotImplementedError) and re.match(r"a\d\w*\.\d+: write ", str(error)):
        task = str(error).partition(":")[0]
        text = f"{error}: this function in your file is still the stub; `lm check {task}` says more"
        return Explanation("user", text)
    frames = [frame for frame in _frames(error) if frame.owner is not None]
    theirs = [frame for frame in frames if frame.owner == "learner"]
    if theirs and frames[-1] is theirs[-1]:
        return Explanation(
            "learner", f"{theirs[-1].place}: {_name_and_message(error)}{_code(theirs[-1])}"
        )
    if isinstance(error, pydantic.ValidationError):
        return Explanation("user", one_line(first_problem(error)))
    if isinstance(error, OSError) and not theirs and _is_of_the_machine(error):
        text = f"{error.filename or 'input/output'}: {error.strerror or error}"
        return Explanation("user", one_line(text))
    caller = f"; called from {theirs[-1].place}{_code(theirs[-1])}" if theirs else ""
    return Explanation("internal", _name_and_message(error) + caller)


def _is_of_the_machine(error: OSError) -> bool:
    """Return True if the system refuses a named file, or refuses more files or more bytes. An error
    without a file name, such as one about a closed descriptor, is a mistake in code.
    """
    return error.filename is not None or error.errno in REFUSED_BY_THE_SYSTEM


def debug_wanted() -> bool:
    """Return True if `--debug` or LM_TRACEBACK asks for tracebacks on the terminal."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")


def show_traceback(error: BaseException) -> None:
    """Print the traceback to standard error, if the user has asked for it."""
    if debug_wanted():
        traceback.print_exception(error, file=sys.stderr)


def keep_traceback(error: BaseException, path: Path, line: str) -> None:
    """Write the line, the versions and the traceback to `path`."""
    facts = f"lm {version()}, Python {platform.python_version()}, {platform.platform()}"
    with atomic_file(path, "w") as file:
        file.write(f"{line}\n{facts}\n\n{''.join(traceback.format_exception(error))}")


def keep_in_temporary_folder(error: BaseException) -> Path | None:
    """Keep the traceback of an error outside any step, and return the file: lm-error-*.txt in the
    system's temporary folder, or None if it cannot be written.

    Every error gets a new file: a fixed name in a shared folder could be somebody else's.
    """
    try:
        handle, name = tempfile.mkstemp(prefix="lm-error-", suffix=".txt")
        os.close(handle)
        keep_traceback(error, Path(name), explain(error).line())
    except OSError:
        return None
    return Path(name)


def version() -> str:
    """Return the version of the installed distribution, or "unknown" if it is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def one_line(text: str) -> str:
    return " ".join(text.split())


def shown(path: Path) -> Path:
    """Return the path as a user would type it: relative to the current folder if it is below it."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@dataclass(frozen=True)
class _Frame:
    """One entry of a traceback. `function` is None if only a file and a line are known."""

    file: str
    line: int | None
    function: str | None
    code: str

    @property
    def owner(self) -> Literal["learner", "project", None]:
        path = Path(self.file).resolve()
        folder = stand_ins_folder()
        if folder is not None and path.is_relative_to(folder.resolve()):
            return "learner"
        inside = path.is_relative_to(PROJECT)
        ours = inside and path.relative_to(PROJECT).parts[0] in PACKAGES
        return "project" if ours else None

    @property
    def place(self) -> str:
        line = f", line {self.line}" if self.line else ""
        function = f", in {self.function}" if self.function else ""
        return f"your {shown(Path(self.file))}{line}{function}"


def _frames(error: BaseException) -> list[_Frame]:
    """Return the frames, outermost first. An exception from a worker process carries its frames as
    text; one about a file that Python could not load names that file.
    """
    found = [
        _Frame(frame.filename, frame.lineno, frame.name, frame.line or "")
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    remote = getattr(error.__cause__, "tb", None)
    if isinstance(remote, str):
        for file, line, function, code in WORKER_FRAME.findall(remote):
            found.append(_Frame(file, int(line), function, code))
    if isinstance(error, SyntaxError) and error.filename:
        found.append(_Frame(error.filename, error.lineno, None, (error.text or "").strip()))
    if isinstance(error, ImportError) and error.path:
        found.append(_Frame(error.path, None, None, ""))
    return found


def _code(frame: _Frame) -> str:
    return f" (the line: {frame.code})" if frame.code else ""


def _name_and_message(error: BaseException) -> str:
    """Return the exception as Python prints it, in one line and cut to a few terminal lines."""
    kind = type(error)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    # A SyntaxError's own text repeats the file and the line.
    message = one_line(error.msg if isinstance(error, SyntaxError) else str(error))
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    return f"{module}{kind.__qualname__}" + (f": {message}" if message else "")
