"""Workers that fail, are killed, are busy when the block is left, or lose their parent."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from lm_core.user_error import UserError
from lm_core.worker_pool import worker_pool

PARENT = """
import os, sys, time
from lm_core.worker_pool import worker_pool
if __name__ == "__main__":
    with worker_pool(2) as pool:
        pool.submit(time.sleep, 600)
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""

MANY = """
import time
from lm_core.worker_pool import worker_pool
if __name__ == "__main__":
    try:
        with worker_pool(2) as pool:
            for number, _ in enumerate(pool.map(time.sleep, [0.001] * 300)):
                if number == 20:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("left")
"""

# Jobs that fill the pipe to the workers: a thread is still writing one when the block is left.
LARGE = """
import os, signal, sys, time
from lm_core.worker_pool import worker_pool
if __name__ == "__main__":
    try:
        with worker_pool(2) as pool:
            worker = pool.submit(os.getpid).result()
            jobs = [pool.submit(time.sleep, 600) for _ in range(2)]
            jobs += [pool.submit(len, bytes(3_000_000)) for _ in range(6)]
            time.sleep(0.5)
            if sys.argv[1] == "kill":
                os.kill(worker, signal.SIGKILL)
                jobs[0].result()
            raise ValueError
    except ValueError as error:
        print(type(error).__name__)
"""


class TwoArguments(Exception):
    """An exception that cannot be unpickled: its `args` hold only one."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first}, {second}")


def kill_itself(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def invert(number: int) -> float:
    return 1 / number


def fail(number: int) -> None:
    raise TwoArguments(number, number)


def test_results_come_in_order() -> None:
    with worker_pool(2) as pool:
        assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_inputs_are_read_a_few_at_a_time() -> None:
    read = []
    with worker_pool(1) as pool:
        results = pool.map(abs, (read.append(n) or n for n in range(1000)))
        assert next(results) == 0
        assert len(read) < 20
        assert sum(results) == sum(range(1000))


def test_an_error_while_much_is_waiting_says_nothing_by_itself(tmp_path: Path) -> None:
    """After Ctrl-C among many jobs, no thread of the pool prints a traceback."""
    script = tmp_path / "many.py"
    script.write_text(MANY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


@pytest.mark.parametrize(("why", "error"), [("leave", "ValueError"), ("kill", "UserError")])
def test_a_job_that_is_still_being_written_keeps_nobody(tmp_path: Path, why, error) -> None:
    """Until Python 3.11.4, the program never ended (CPython issue 94777)."""
    script = tmp_path / "large.py"
    script.write_text(LARGE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script, why]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{error}\n", "")


def test_a_worker_that_the_system_kills_is_reported_and_not_waited_for() -> None:
    with pytest.raises(UserError, match="the system killed a worker"), worker_pool(2) as pool:
        list(pool.map(kill_itself, range(4)))


def test_a_mistake_in_a_worker_keeps_its_type_and_brings_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught, worker_pool(1) as pool:
        list(pool.map(invert, [0]))
    assert "Traceback" in caught.value.__cause__.tb


@pytest.mark.parametrize("job", [fail, os._exit])
def test_a_worker_that_ends_by_a_mistake_is_not_blamed_on_the_machine(job) -> None:
    with pytest.raises(BrokenProcessPool), worker_pool(2) as pool:
        list(pool.map(job, [1, 2]))


def refuse() -> None:
    raise UserError("garbage.ftz: not a model")


def test_what_an_initializer_raises_is_raised_once_and_printed_by_nobody(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=r"garbage\.ftz"), worker_pool(2, refuse) as pool:
        list(pool.map(abs, range(8)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, BlockingIOError])
def test_a_worker_that_was_never_started_hides_no_error(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses a process, or Ctrl-C arrives while it starts."""

    def stop(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("multiprocessing.popen_spawn_posix.Popen._launch", stop)
    with pytest.raises(error), worker_pool(2) as pool:
        list(pool.map(abs, range(8)))


def wait_for_a_worker(others: list[multiprocessing.Process]) -> multiprocessing.Process:
    while not (found := [w for w in multiprocessing.active_children() if w not in others]):
        time.sleep(0.01)
    return found[0]


def test_leaving_the_block_by_an_error_ends_workers_that_are_busy() -> None:
    others = multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        pool.submit(time.sleep, 600)
        worker = wait_for_a_worker(others)
        raise KeyboardInterrupt
    deadline = time.monotonic() + 60
    while worker.exitcode is None and time.monotonic() < deadline:  # the pool joins it as well
        time.sleep(0.01)
    assert worker.exitcode == -signal.SIGKILL


def test_an_error_in_one_pool_leaves_the_workers_of_another() -> None:
    leave, results = threading.Event(), []

    def other_pool() -> None:
        with worker_pool(1) as pool:
            results.append(pool.submit(abs, -1).result())
            leave.wait(60)
            results.append(pool.submit(abs, -2).result())

    thread = threading.Thread(target=other_pool)
    thread.start()
    while not results:
        time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt), worker_pool(1):
        raise KeyboardInterrupt
    leave.set()
    thread.join()
    assert results == [1, 2]


def runs(process: str) -> bool:
    """Return True if the process is there and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    )
    worker = int(parent.stdout.readline())
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert str(worker) in children
    parent.kill()
    parent.wait()  # not for the end of its output, which its children hold as well
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(map(runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, children))


def signals(process: int, kind: str) -> int:
    """The bits of the signals that a process blocks (SigBlk) or ignores (SigIgn)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(rf"^{kind}:\s*(\w+)$", status, re.MULTILINE)[1], 16)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_ctrl_c_cannot_reach_a_worker_that_is_still_starting() -> None:
    """It would print Python's own traceback, from before our first line."""
    interrupt = 1 << (signal.SIGINT - 1)
    with worker_pool(1) as pool:
        pool.submit(abs, 0)
        (worker,) = pool._processes
        assert signals(worker, "SigBlk") & interrupt
        assert pool.submit(abs, -1).result() == 1
        assert signals(worker, "SigIgn") & interrupt
        assert not signals(worker, "SigBlk") & interrupt, "programs that it starts would block it"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
