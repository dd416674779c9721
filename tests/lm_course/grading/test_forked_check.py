"""Whatever a check does to its process costs only that check, and is reported in one sentence."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from lm_course.grading import forked_check
from lm_course.grading.check_outcome import FAILING, PASSED, LearnerCode, Outcome, outcome_of
from lm_course.grading.forked_check import Limits, run_check

BAD_CODE = '''"""A learner's module with every accident in it."""

import ctypes
import os
import sys
import time


def endless():
    while True:
        pass


def endless_and_catching():
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def ten_gigabytes():
    return bytearray(10 << 30)


def grow():
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def leave():
    sys.exit(0)


def leave_at_once():
    os._exit(0)


def dig(n=0):
    return dig(n + 1)


def crash():
    ctypes.string_at(0)


def fill_the_disk():
    with open("large", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def give_no_sign():
    os.closerange(0, 64)
    raise ValueError("nobody hears this")
'''

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="isolation needs os.fork")
pytestmark = needs_fork


class Bench:
    """A runner of a learner's functions in isolation."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bad.py"
        self.path.write_text(BAD_CODE)
        self.code = LearnerCode((folder,), folder)
        spec = spec_from_file_location("bad", self.path)
        self.module = module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def run(self, check: str | Callable[[], object], **limits: float) -> Outcome:
        function = getattr(self.module, check) if isinstance(check, str) else check
        words = partial(outcome_of, code=self.code, task_id="t1.1")
        return run_check(function, words, Limits(**limits), self.code)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


TORCH_CHECKS = """
from functools import partial
from pathlib import Path
import torch
from lm_course.grading.forked_check import Limits, run_check
from lm_course.grading.check_outcome import LearnerCode, outcome_of

def train_a_little():
    torch.set_num_threads(2)
    x = torch.ones(300, 300, requires_grad=True)
    (x @ x).relu().sum().backward()
    assert float(x.grad[0, 0]) == 600

def too_large():
    torch.zeros(1 << 30)

def much_too_large():
    torch.zeros(1 << 40).sum()

code = LearnerCode((Path.cwd(),), Path.cwd())
words = partial(outcome_of, code=code, task_id="t1.1")
for check in (train_a_little, too_large, much_too_large):
    outcome = run_check(check, words, Limits(), code)
    print(outcome.status, outcome.message, sep="|")
"""


def test_torch_runs_within_the_limits(tmp_path: Path) -> None:
    """Forward, backward (which starts threads) and torch's own threads need address space.

    The test starts a new process: if earlier tests have used torch's threads, a fork waits for them
    forever. The grader's own process uses one thread.
    """
    command = [sys.executable, "-c", TORCH_CHECKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first == f"{PASSED}|"
    if forked_check.can_limit_memory():
        limit = "your code asked for more memory than this check allows"
        assert [line.partition("|")[2] for line in others] == [limit, limit]


def test_a_check_that_passes_and_one_that_fails(bench: Bench) -> None:
    assert bench.run(lambda: None) == Outcome(PASSED)

    def fail() -> None:
        pytest.fail("3 is not 4\n  more", pytrace=False)

    outcome = bench.run(fail)
    assert (outcome.status, outcome.message) == (FAILING, "3 is not 4\n  more")


@pytest.mark.parametrize(
    ("function", "sentence", "place"),
    [
        ("endless", "stopped after 0.5 seconds: an endless loop", "in endless\n"),
        ("endless_and_catching", "stopped after 0.5 seconds: an endless loop", "catching\n"),
        ("ten_gigabytes", "your code asked for more memory", "bytearray(10 << 30)"),
        ("grow", "your code asked for more memory", "in grow\n"),
        ("leave", "your code called sys.exit(0)", "in leave\n"),
        ("leave_at_once", "your code ended the whole process with os._exit(0)", ""),
        ("dig", "your code calls itself without end (RecursionError)", "in dig\n"),
        ("crash", "the process crashed (SIGSEGV)", "in crash\n"),
        ("fill_the_disk", "your code raised OSError: [Errno 27] File too large", "fill_the_disk"),
    ],
)
def test_accidents(bench: Bench, function: str, sentence: str, place: str) -> None:
    if "gigabytes" in function or function == "grow":
        assert forked_check.can_limit_memory() or sys.platform != "linux"
    outcome = bench.run(function, seconds=0.5 if "endless" in function else 10, memory_mb=200)
    assert outcome.status == FAILING
    assert outcome.message.startswith(sentence)
    assert place in "".join(outcome.where)
    assert all(where.startswith("bad.py:") for where in outcome.where)


def slow_by_other_programs() -> None:
    time.sleep(0.8)


def test_a_check_that_other_programs_keep_waiting_gets_its_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.run(slow_by_other_programs, seconds=0.3).timed_out, "sleeping is not waiting"
    monkeypatch.setattr(forked_check, "_is_kept_waiting", lambda child, seconds: True)
    assert bench.run(slow_by_other_programs, seconds=0.3).status == PASSED
    assert bench.run("endless", seconds=0.2).timed_out, "but not without end"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux says so")
def test_who_is_kept_waiting() -> None:
    """This process is running, and has had some time; a process that sleeps is not waiting."""
    deadline = time.process_time() + 0.2
    while time.process_time() < deadline:
        pass
    assert forked_check._is_kept_waiting(os.getpid(), time.process_time() * 2)
    assert not forked_check._is_kept_waiting(os.getpid(), 0.1)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(1)
    try:
        assert not forked_check._is_kept_waiting(sleeper.pid, 1000.0)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not forked_check._is_kept_waiting(sleeper.pid, 1000.0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux says so")
def test_a_library_s_thread_that_computes_is_kept_waiting() -> None:
    """The main thread sleeps until another has computed its part, as with pyarrow."""
    computing = (
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()"
    )
    worker = subprocess.Popen([sys.executable, "-c", computing])
    try:
        looks = []
        for _ in range(50):
            looks.append(forked_check._is_kept_waiting(worker.pid, 1000.0))
            time.sleep(0.05)
        assert any(looks[25:]), "its second thread never sleeps"
    finally:
        worker.kill()
        worker.wait()


def test_a_late_check_is_ended_only_after_several_looks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([False, True] * 1000)
    monkeypatch.setattr(forked_check, "_is_kept_waiting", lambda child, seconds: next(looks))
    assert bench.run(slow_by_other_programs, seconds=0.3).status == PASSED


def test_a_recursion_without_python_s_limit(bench: Bench) -> None:
    def dig_deeper() -> None:
        sys.setrecursionlimit(10**9)
        bench.module.dig()

    outcome = bench.run(dig_deeper, seconds=30, memory_mb=60)
    # Python's message, when its stack or the memory for its frames runs out, differs by version.
    assert outcome.status == FAILING
    assert "in dig\n  return dig(n + 1)" in "".join(outcome.where)


def test_a_child_that_closes_its_pipe(bench: Bench) -> None:
    assert "os._exit" in bench.run("give_no_sign").message


def test_a_process_that_the_check_leaves_behind_is_ended(bench: Bench, tmp_path: Path) -> None:
    def leave_a_process() -> None:
        child = os.fork()
        if child == 0:
            time.sleep(60)
        (tmp_path / "pid").write_text(str(child))

    started = time.monotonic()
    assert bench.run(leave_a_process).status == PASSED
    assert time.monotonic() - started < 30, "waited for the process that was left behind"
    pid = int((tmp_path / "pid").read_text())
    for _ in range(500):
        if not _is_running(pid):
            return
        time.sleep(0.01)
    pytest.fail("the process still runs")


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_a_check_changes_is_gone(bench: Bench) -> None:
    def change() -> None:
        os.environ["LEFT_BEHIND"] = "1"
        bench.module.endless = None

    assert bench.run(change).status == PASSED
    assert "LEFT_BEHIND" not in os.environ
    assert bench.module.endless is not None


def test_warnings_of_the_learner_s_code_are_not_failures(bench: Bench) -> None:
    def warn() -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    with pytest.raises(DeprecationWarning):
        warn()
    assert bench.run(warn).status == PASSED


def test_forking_beside_a_thread_warns_of_nothing(bench: Bench) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert bench.run(lambda: None).status == PASSED
    finally:
        done.set()
        thread.join()


def test_only_the_warning_of_fork_is_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "This process (pid=7) is multi-threaded, use of {} may lead to deadlocks in the child."

    def fork_that_warns(name: str) -> int:
        warnings.warn(text.format(name), DeprecationWarning, stacklevel=1)
        return 7

    monkeypatch.setattr(os, "fork", lambda: fork_that_warns("fork()"))
    assert forked_check.fork() == 7
    monkeypatch.setattr(os, "fork", lambda: fork_that_warns("forkpty()"))
    with pytest.raises(DeprecationWarning):
        forked_check.fork()


def test_ctrl_c_ends_the_child(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, watch = tmp_path / "pid", forked_check._watch

    def tell_and_wait() -> None:
        (tmp_path / "new").write_text(str(os.getpid()))
        (tmp_path / "new").rename(told)
        time.sleep(60)

    def interrupt() -> None:
        while not told.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def watch_and_interrupt(*arguments: Any) -> Outcome:
        # Not earlier: an exception in a function of os.register_at_fork, such as those of logging,
        # is only printed.
        threading.Thread(target=interrupt).start()
        return watch(*arguments)

    monkeypatch.setattr(forked_check, "_watch", watch_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(tell_and_wait, seconds=50)
    assert not _is_running(int(told.read_text()))


def test_without_fork_a_check_runs_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked_check, "can_isolate", lambda: False)
    assert "sys.exit(0)" in bench.run("leave").message
    assert bench.run(lambda: None).status == PASSED

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(interrupt)
