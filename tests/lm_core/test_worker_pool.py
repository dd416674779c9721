"""Workers that fail, are killed, or are still busy when the block is left."""

import multiprocessing
import os
import signal
import time

import pytest

from lm_core.user_error import UserError
from lm_core.worker_pool import worker_pool


def kill_itself(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_results_come_in_order() -> None:
    with worker_pool(2) as pool:
        assert list(pool.map(abs, range(-20, 0), chunksize=3)) == list(range(20, 0, -1))


def test_a_worker_that_the_system_ends_is_told_and_not_waited_for() -> None:
    with (
        pytest.raises(UserError, match="a worker process ended before its work was done"),
        worker_pool(2) as pool,
    ):
        list(pool.map(kill_itself, range(4)))


def test_a_mistake_in_a_worker_keeps_its_type_and_brings_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught, worker_pool(1) as pool:
        list(pool.map(divmod, [1], [0]))
    assert "Traceback" in caught.value.__cause__.tb


def test_leaving_the_block_by_an_error_ends_workers_that_are_busy() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        pool.submit(sleep, 600)
        while len(multiprocessing.active_children()) == len(before):
            time.sleep(0.01)
        raise KeyboardInterrupt
    workers = [child for child in multiprocessing.active_children() if child not in before]
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
