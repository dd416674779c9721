"""Items that hang, kill their worker or fill the memory cost themselves, and nothing else."""

import multiprocessing
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers import the module below by its name

from poisoned_items import lost, start_dead, start_poisoned

from data_pipeline.executors.executor import Limits
from data_pipeline.executors.local_executor import LocalExecutor
from data_pipeline.executors.worker_memory import limit_memory
from lm_core.user_error import UserError

LIMITS = Limits(seconds=1.0, memory=400_000_000)
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory")


def run(batches, num_processes=2, start=start_poisoned):
    return list(LocalExecutor(num_processes, LIMITS).map(start, batches, lost))


def plain(batches):
    return [[item.upper() for item in batch] for batch in batches]


BATCHES = [[f"{batch}.{item}" for item in range(batch % 4 + 1)] for batch in range(40)]


@pytest.mark.parametrize("num_processes", [0, 1, 2])
def test_results_come_in_the_order_of_the_batches(num_processes):
    batches = [["naps", "first"], *BATCHES]
    assert run(batches, num_processes) == plain(batches)
    assert multiprocessing.active_children() == []


def test_only_a_few_batches_are_read_ahead():
    read = []
    executor = LocalExecutor(1, LIMITS)
    results = executor.map(start_poisoned, (read.append(b) or b for b in BATCHES), lost)
    assert next(results) == plain(BATCHES[:1])[0]
    assert len(read) <= 10
    results.close()
    assert multiprocessing.active_children() == []


@only_linux
def test_each_poisoned_item_is_lost_and_named_and_nothing_else_is():
    """Hanging inside C with the GIL held, SIGKILL, a segmentation fault, endless allocation."""
    batches = [["a", "dies", "b", "hangs", "c"], ["d"], ["grows", "crashes"], *BATCHES]
    reasons = {
        "dies": "killed its worker",
        "hangs": "too slow",
        "grows": "too much memory",
        "crashes": "killed its worker",
    }
    expected = [
        [(item, reasons[item]) if item in reasons else item.upper() for item in batch]
        for batch in batches
    ]
    assert run(batches) == expected
    assert multiprocessing.active_children() == []


def test_an_item_whose_worker_is_killed_once_is_run_again(tmp_path):
    """As when somebody else kills a worker in the middle."""
    batches = [["a", f"once {tmp_path / 'marker'}", "b"], ["c"]]
    assert run(batches, 1) == plain(batches)
    assert (tmp_path / "marker").exists()


def test_an_error_of_the_function_is_raised_here_and_the_workers_end():
    with pytest.raises(LookupError, match="the function's own error"):
        run([["a"], ["fails"], *BATCHES])
    assert multiprocessing.active_children() == []


def test_workers_that_end_at_their_start_are_one_line():
    expected = r"3 worker processes ended before their first page \(exit status 3\); use fewer"
    with pytest.raises(UserError, match=expected):
        run(BATCHES, 1, start_dead)


@only_linux
def test_a_limit_below_what_a_worker_already_has_is_refused():
    with pytest.raises(UserError, match="max_worker_memory is 1,000,000 bytes, but a worker has"):
        limit_memory(1_000_000)
