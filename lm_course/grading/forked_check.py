"""Run one check in a forked child, so that an accident in the learner's code costs only that check.

The child has a limit on memory (address space beyond what the process already has) and one on time,
which is extended while other programs keep it from computing. It sends its outcome through a pipe.
A child may end in another way: os._exit, a crash, or an infinite loop, which is killed. Its outcome
is then described from the exit status and from the stack that `faulthandler` writes into the same
pipe when the process dies.

What this leaves out: acts that no solution needs, such as reading the reference
(lm_course/containment); here, a mistake must not take the whole run down. Without os.fork
(Windows), a check runs in this process, without limits.
"""

import faulthandler
import json
import os
import re
import select
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from lm_course.grading.check_outcome import FAILING, PASSED, LearnerCode, Outcome

if sys.platform != "win32":
    import resource

OUTPUTS = {1: "standard output", 2: "standard error"}
END = b"\0"  # after a whole outcome; a faulthandler stack has none
LARGEST_FILE = 64 << 20  # bytes that a check may write to one file, or print
LARGEST_OUTPUT = 1 << 20  # bytes of what a check printed that are kept
SHORTER = 20  # divides the time limit, once a check of the same task has reached it
SHORTEST = 0.3  # seconds
BUSY_MACHINE = 6  # times its limit, for a check that other programs keep from computing
LOOKS_IN_VAIN = 4  # in a row, until a late child whose threads all sleep is no longer waited for
SECONDS_BETWEEN_LOOKS = 0.1  # for a child that died and left the pipe open in its own children
SECONDS_TO_SAY_WHERE = 1.0  # for faulthandler to write the stack of a child that took too long
STACK_LINE = re.compile(r'File "(.+)", line (\d+) in (.+)')


@dataclass(frozen=True)
class Limits:
    """The limits of one check; memory counts from the size of the process at its start."""

    seconds: float = 10.0
    memory_mb: int = 2000

    def shorter(self) -> "Limits":
        """Return the limits for later checks of a task with an endless loop, to save minutes."""
        return replace(self, seconds=max(SHORTEST, self.seconds / SHORTER))


def can_isolate() -> bool:
    return hasattr(os, "fork")


def can_limit_memory() -> bool:
    """Return True on Linux, the only system that tells a process its size and enforces a limit."""
    return can_isolate() and Path("/proc/self/statm").exists()


def run_check(
    check: Callable[[], object],
    outcome_of: Callable[[BaseException], Outcome],
    limits: Limits,
    code: LearnerCode,
) -> Outcome:
    """Run `check` in a child, or in this process if there is no os.fork.

    Args:
        check: raises an exception if something is wrong.
        outcome_of: describes that exception; called in the child.
        limits: time and memory.
        code: finds the learner's lines in the stack of a child that died.
    """
    if not can_isolate():
        return _run_here(check, outcome_of)
    sys.stdout.flush()
    sys.stderr.flush()
    printed = [_size_of_output(number) for number in OUTPUTS]
    reading, writing = os.pipe()
    seal = os.urandom(16).hex().encode()  # an outcome without it is not ours
    child = fork()
    if child == 0:
        os.close(reading)
        _run_in_child(check, outcome_of, limits, writing, seal)
    try:
        os.close(writing)
        outcome = _watch(child, reading, limits, code, seal)
    finally:  # also on Ctrl-C
        _end(child)
        os.close(reading)
    for number, size in zip(OUTPUTS, printed, strict=True):
        too_much = _cut_output(number, size)
        if too_much:
            outcome = replace(outcome, status=FAILING, message=too_much)
    return outcome


def _size_of_output(number: int) -> int | None:
    """Return the size of the file that collects what is printed; None if it is not a file."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _cut_output(number: int, before: int | None) -> str:
    """Drop what a check printed beyond the limit, and say so; "" if it is within the limit."""
    after = _size_of_output(number)
    if before is None or after is None or after - before <= LARGEST_OUTPUT:
        return ""
    os.ftruncate(number, before + LARGEST_OUTPUT)
    os.lseek(number, 0, os.SEEK_END)
    return (
        f"your code wrote {(after - before) >> 20:,} MB or more to {OUTPUTS[number]}: remove the "
        "print, or print less"
    )


def _run_here(
    check: Callable[[], object], outcome_of: Callable[[BaseException], Outcome]
) -> Outcome:
    try:
        check()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return outcome_of(error)
    return Outcome(PASSED)


def fork() -> int:
    """os.fork, for a child that ends with os._exit."""
    with warnings.catch_warnings():
        # Python 3.12 warns about locks that other threads may hold. The child runs one check and
        # ends with os._exit, and the parent's imports are complete by then.
        warnings.filterwarnings(
            "ignore",
            message=r"This process .* is multi-threaded, use of fork\(\)",
            category=DeprecationWarning,
        )
        return os.fork()


def _run_in_child(
    check: Callable[[], object],
    outcome_of: Callable[[BaseException], Outcome],
    limits: Limits,
    pipe: int,
    seal: bytes,
) -> NoReturn:
    """Run the check, send its outcome, and exit without any of the parent's clean-up."""
    try:
        os.setsid()  # its own children die with it, and Ctrl-C reaches only the parent
        faulthandler.enable(file=pipe, all_threads=False)
        unlimited = _set_limits(limits)
        warnings.simplefilter("ignore")  # a warning is not a mistake in the learner's code
        try:
            check()
            outcome = Outcome(PASSED)
        except BaseException as error:
            if unlimited is not None:
                resource.setrlimit(resource.RLIMIT_AS, unlimited)  # memory for the message
            outcome = outcome_of(error)
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        message = seal + json.dumps(outcome.as_json()).encode() + END
        while message:
            message = message[os.write(pipe, message) :]
    finally:
        os._exit(0)


def _set_limits(limits: Limits) -> tuple[int, int] | None:
    """Set the soft limits; return the earlier limits on memory, or None if none is set."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard == resource.RLIM_INFINITY or hard > LARGEST_FILE:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))
    if not can_limit_memory():
        return None
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * resource.getpagesize() + (limits.memory_mb << 20)
    if before[1] != resource.RLIM_INFINITY:
        allowed = min(allowed, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, before[1]))
    return before


def _watch(child: int, pipe: int, limits: Limits, code: LearnerCode, seal: bytes) -> Outcome:
    """Wait for the child's outcome, its death or the time limit, whichever comes first."""
    started = time.monotonic()
    received, status = _receive(child, pipe, started + limits.seconds)
    last_deadline = started + BUSY_MACHINE * limits.seconds
    in_vain = 0  # a thread that hands work to another sleeps for a moment: one look is not enough
    while status is None and not received.endswith(END) and time.monotonic() < last_deadline:
        in_vain = 0 if _is_kept_waiting(child, limits.seconds) else in_vain + 1
        if in_vain == LOOKS_IN_VAIN:
            break
        more, status = _receive(child, pipe, time.monotonic() + SECONDS_BETWEEN_LOOKS)
        received += more
    if received.endswith(END):
        if received.startswith(seal):
            return Outcome.from_json(json.loads(received[len(seal) : -1]))
        return Outcome(FAILING, "your code wrote to the grader's pipe", forbidden=True)
    if status is None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGABRT)  # faulthandler writes the stack, even from C code
        stack, _ = _receive(child, pipe, time.monotonic() + SECONDS_TO_SAY_WHERE)
        message = f"stopped after {limits.seconds:g} seconds: an endless loop, or far too much work"
        return Outcome(FAILING, message, _where(stack, code), _text(stack), timed_out=True)
    return Outcome(FAILING, _death(status), _where(received, code), _text(received))


def _is_kept_waiting(child: int, seconds: float) -> bool:
    """Return whether a thread of the child could compute, but the child has had less than `seconds`
    of processor time, because other programs had the rest. Only Linux says so.
    """
    try:
        used = _stat_fields(Path(f"/proc/{child}/stat"))
        threads = list(Path(f"/proc/{child}/task").iterdir())
    except OSError:
        return False
    ticks = int(used[11]) + int(used[12])  # in its own code and in the kernel
    if ticks / os.sysconf("SC_CLK_TCK") >= 0.9 * seconds:
        return False
    for thread in threads:
        with suppress(OSError):  # a thread that has ended since
            if _stat_fields(thread / "stat")[0] == "R":
                return True
    return False


def _stat_fields(path: Path) -> list[str]:
    """Return the fields after the name, which may contain spaces; the first is the state."""
    return path.read_text().rpartition(")")[2].split()


def _receive(child: int, pipe: int, deadline: float) -> tuple[bytes, int | None]:
    """Return what came through the pipe, and the child's wait status; None while it runs."""
    received = b""
    poller = select.poll()
    poller.register(pipe, select.POLLIN | select.POLLHUP)
    open_pipe = True
    while (left := deadline - time.monotonic()) > 0:
        wait = min(left, SECONDS_BETWEEN_LOOKS if open_pipe else 0.005)
        ready = poller.poll(1000 * wait)
        if ready:
            block = os.read(pipe, 1 << 16)
            received += block
            if received.endswith(END):
                return received, None
            if block:
                continue
            poller.unregister(pipe)
            open_pipe = False
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return received, status
    return received, None


def _end(child: int) -> None:
    """Kill the child and all its processes; do nothing if it has already been waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def _death(status: int) -> str:
    if not os.WIFSIGNALED(status):
        number = os.waitstatus_to_exitcode(status)
        return f"your code ended the whole process with os._exit({number}): return or raise instead"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name
    reason = {
        "SIGSEGV": "compiled code accessed invalid memory, or a recursion overflowed the stack",
        "SIGKILL": "the system killed it, most likely for lack of memory",
        "SIGABRT": "compiled code aborted",
    }.get(name, "compiled code failed, or your code sent the signal")
    return f"the process crashed ({name}): {reason}"


def _where(stack: bytes, code: LearnerCode) -> tuple[str, ...]:
    """Return the learner's innermost line in a stack, which faulthandler writes innermost first."""
    for file, line, function in STACK_LINE.findall(_text(stack)):
        if code.holds(file):
            return (code.line(file, int(line), function),)
    return ()


def _text(stack: bytes) -> str:
    return stack.decode("utf-8", "backslashreplace")
