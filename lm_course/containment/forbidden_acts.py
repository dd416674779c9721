"""Acts that no solution needs, seen by an audit hook of Python, which cannot be removed.

Python tells the hook before it opens a file, starts a program, looks at a frame, and so on. The
hook finds out whose code asked for it, from the frames of the stack. An act of the code under test
is recorded, and refused by an exception. Processes that are forked inherit the hook.

What this leaves out, because Python tells no hook of it: reading `sys.modules`, whatever a compiled
library does by itself, and spawned processes, which are new programs. So a learner who wants to
cheat still can; a check of the kind that people write first is told in one sentence.
"""

import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lm_course.containment.protected_files import ProtectedFiles
from lm_course.containment.recorded_acts import FAILING, FORBIDDEN, Act, RecordedActs
from lm_course.grading.check_outcome import LearnerCode

OWN_CODE = "a task is graded on your own code alone"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
IMPORT = "<frozen importlib"
# Files of the standard library that start programs or read sources for reasons of their own.
OWN_REASONS = tuple(os.sep + name for name in ("platform.py", "uuid.py", f"ctypes{os.sep}util.py"))
TRACEBACKS = ("traceback.py", "warnings.py")
FILES_OF_OTHERS = ("numpy", f"torch{os.sep}serialization.py")  # they write for a caller
STACK = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}
current_tracer = sys.gettrace  # kept here: the code under test may replace that of `sys`


class ForbiddenAct(PermissionError):
    """The exception that refuses an act; the grader knows of the act without it."""


def is_stopped_by_a_check() -> bool:
    """Return whether a check that counts steps has just stopped the code: then Python itself ends
    the tracing, in the frame of that code. The counter says so by its attribute `stopped`.

    The code under test cannot pass for one: it would have to call sys.settrace first.
    """
    return getattr(getattr(current_tracer(), "__self__", None), "stopped", False) is True


class ActsWatch:
    """Watches the code in one folder, from `begin` to the end of the process.

    Args:
        files: what the code may open, and where it may write.
        code: names the learner's files in messages.
        acts: takes what was seen.
        reference_address: of the socket at which the reference answers; "" if it does not run.
    """

    def __init__(
        self,
        files: ProtectedFiles,
        code: LearnerCode,
        acts: RecordedActs,
        reference_address: str,
    ) -> None:
        self.files = files
        self.code = code
        self.acts = acts
        self.reference_address = reference_address
        self.grader = os.getpid()
        self._main = threading.get_ident()
        self._judging: set[int] = set()  # threads within the hook, whose own acts are not judged
        paths = sysconfig.get_paths()
        self._library = paths["stdlib"] + os.sep
        self._installed = tuple(paths[name] + os.sep for name in ("purelib", "platlib"))
        self._learner = files.learner

    def begin(self) -> None:
        """Install the hook in this process; it stays."""
        judges: dict[str, Callable[..., None]] = {
            "open": self._open,
            "os.rename": self._rename,
            "os.link": self._change,
            "os.symlink": self._change,
            "os.mkdir": self._change,
            "os.remove": self._change,
            "os.rmdir": self._change,
            "socket.connect": self._connect,
            "os.kill": self._kill,
            "os.killpg": self._kill,
            "os.putenv": self._environment,
            "os.unsetenv": self._environment,
            "object.__getattr__": self._attribute,
            "object.__setattr__": self._replace_code,
            "sys._getframe": self._frame,
        }
        for event, words in {
            "subprocess.Popen": "started another program",
            "os.system": "started another program",
            "os.posix_spawn": "started another program",
            "os.exec": "replaced its process by another program",
            "pty.spawn": "started another program",
            "gc.get_objects": "searched the objects of the grader (gc)",
            "gc.get_referrers": "searched the objects of the grader (gc)",
            "gc.get_referents": "searched the objects of the grader (gc)",
            "sys._current_frames": "looked at the frames of the grader",
            "sys._current_exceptions": "looked at the frames of the grader",
            "sys.settrace": "called sys.settrace, as a debugger does (breakpoint)",
            "sys.setprofile": "called sys.setprofile, as a profiler does",
            "ctypes.dlopen": "loaded a compiled library (ctypes)",
            "ctypes.dlsym": "loaded a compiled library (ctypes)",
        }.items():
            judges[event] = self._simple(words)
        get, judging, thread_id = judges.get, self._judging, threading.get_ident

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            judge = get(event)
            if judge is None:
                return
            thread = thread_id()
            if thread in judging:
                return
            judging.add(thread)
            try:
                judge(sys._getframe(1), arguments)
            finally:
                judging.discard(thread)

        sys.addaudithook(hook)

    # Whose act it is.

    def is_learner(self, file: str) -> bool:
        """Return whether this is a file of the code under test, as frames name it."""
        return file.startswith(self._learner) and not file.startswith(self._installed)

    def _asks(self, frame: FrameType | None, through: tuple[str, ...] = ()) -> FrameType | None:
        """Return the learner's frame that asked for an act by way of the standard library; None if
        a library or the grader asked for its own reasons.

        Args:
            frame: the innermost.
            through: libraries that act for their caller, too.
        """
        while frame is not None:
            file = frame.f_code.co_filename
            if self.is_learner(file):
                return frame
            if file.startswith(IMPORT) or file.endswith(OWN_REASONS):
                return None
            if file.startswith(self._installed):
                if not any(file[len(self._installed[0]) :].startswith(each) for each in through):
                    return None
            elif not file.startswith(("<", self._library)):
                return None
            frame = frame.f_back
        return None

    def _is_behind(self, frame: FrameType | None) -> tuple[bool, FrameType | None]:
        """Return whether the learner's code is the reason for reading a protected file, through
        whatever library; and its frame, if it is on the stack.
        """
        inner = ""
        while frame is not None:
            file = frame.f_code.co_filename
            if self.is_learner(file):
                return True, frame
            if file.startswith(self.files.grader):
                return False, None
            if inner.endswith("linecache.py") and file.endswith(TRACEBACKS):
                return False, None  # the source lines of a traceback
            inner, frame = file, frame.f_back
        return threading.get_ident() != self._main, None

    def forbid_call(self, name: str) -> None:
        """Refuse a call of PyTorch that the learner's code makes itself, not by a given file."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(self.files.grader[0]):
            frame = frame.f_back  # the code that listens
        asking = self._asks(frame, ("torch",))
        if asking is not None:
            why = "this task asks you to write it yourself"
            self._refuse(f"called PyTorch's {name}", asking, FORBIDDEN, why)

    # What was done.

    def _refuse(
        self, words: str, frame: FrameType | None, kind: int = FORBIDDEN, why: str = OWN_CODE
    ) -> None:
        place = ""
        if frame is not None:
            code = frame.f_code
            place = self.code.line(code.co_filename, frame.f_lineno or 0, code.co_name)
        act = Act(f"your code {words}: {why}", place)
        self.acts.record(kind, act)
        raise ForbiddenAct(act.sentence)

    def _simple(self, words: str) -> Callable[..., None]:
        def judge(frame: FrameType, arguments: tuple[Any, ...]) -> None:
            asking = self._asks(frame)
            if asking is not None and not is_stopped_by_a_check():
                self._refuse(words, asking)

        return judge

    def _open(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        path, mode, flags = arguments
        if isinstance(path, int) or path is None:
            return
        path = os.fsdecode(path)
        writes = bool((flags or 0) & WRITING) or bool((mode or "").strip("rbtU"))
        words = self.files.secret(path)
        if words:
            is_behind, asking = self._is_behind(frame)
            if is_behind:
                self._refuse(words, asking)
        elif writes:
            self._write(frame, path)

    def _change(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        paths = [os.fsdecode(each) for each in arguments if isinstance(each, str | bytes)]
        if isinstance(arguments[-1], int) and arguments[-1] != -1:
            paths = [
                path for path in paths if path.startswith(os.sep)
            ]  # relative to an open folder
        for path in paths:
            words = self.files.secret(path)
            if words and self._asks(frame):
                self._refuse(words, self._asks(frame))
        if paths:
            self._write(frame, paths[-1])

    def _rename(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        self._change(frame, (arguments[0], arguments[2]))
        self._change(frame, (arguments[0], arguments[1], arguments[3]))

    def _write(self, frame: FrameType, path: str) -> None:
        elsewhere = self.files.elsewhere(path)
        asking = elsewhere and self._asks(frame, FILES_OF_OTHERS)
        if asking:
            why = "write only where an argument says, or into a folder of the module tempfile"
            self._refuse(f"wrote to {self.code.name(elsewhere)}", asking, FAILING, why)

    def _connect(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        address = arguments[1]
        if isinstance(address, str | bytes) and os.fsdecode(address) == self.reference_address:
            is_behind, asking = self._is_behind(frame)
            if is_behind:
                self._refuse("connected to the process that answers for the reference", asking)

    def _kill(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        process = arguments[0]
        group = os.getpgid(self.grader)
        if os.getpid() != self.grader and process in (self.grader, -1, group, -group):
            asking = self._asks(frame)
            if asking is not None:
                self._refuse("sent a signal to the grader", asking)

    def _environment(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        if os.fsdecode(arguments[0]) == "LM_STAND_INS":
            asking = self._asks(frame)
            if asking is not None:
                self._refuse("changed LM_STAND_INS", asking)

    def _attribute(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        if arguments[1] in STACK and self.is_learner(frame.f_code.co_filename):
            self._refuse(f"looked at the frames of the grader ({arguments[1]})", frame)

    def _replace_code(self, frame: FrameType, arguments: tuple[Any, ...]) -> None:
        function = arguments[0]
        code = getattr(function, "__code__", None)
        if code is None or self.is_learner(code.co_filename):
            return
        if self.is_learner(frame.f_code.co_filename):
            self._refuse(f"changed {function.__qualname__}, which is not its own", frame)

    def _frame(self, frame: FrameType | None, arguments: tuple[Any, ...]) -> None:
        while frame is not None and frame.f_code.co_filename.endswith(os.sep + "inspect.py"):
            frame = frame.f_back
        if frame is not None and self.is_learner(frame.f_code.co_filename):
            self._refuse("looked at the frames of the grader (sys._getframe)", frame)
