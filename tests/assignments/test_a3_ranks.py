"""The two processes of a3's checks: results, errors with their lines, and ranks that wait for each
other, which are told in time. And what a task forbids is seen in a rank, too.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import preloaded_python
import pytest
import torch
import torch.distributed as dist

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.grading.check_outcome import GradedFailure

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def suite_on_the_path():
    """The suite's folder, as its conftest.py puts it there."""
    folder = str(PROJECT / "assignments" / "a3")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def on_two(function, *arguments):
    from ranks import on_ranks

    return on_ranks(2, function, *arguments)


def sum_over_both(value):
    x = torch.tensor([value])
    dist.all_reduce(x)
    return x


def test_results_come_in_the_order_of_the_ranks():
    found = on_two(lambda rank, size, more: (rank, size, sum_over_both(rank + more)), 10.0)
    assert [(rank, size, x.item()) for rank, size, x in found] == [(0, 2, 21.0), (1, 2, 21.0)]


def test_kept_ranks_remember_until_the_end():
    from ranks import kept_ranks, on_kept_ranks

    seen = []

    def count(rank, size):
        seen.append(rank)
        return len(seen), os.getpid()

    with kept_ranks():
        first, second = on_kept_ranks(2, count), on_kept_ranks(2, count)
        assert [number for number, _ in second] == [2, 2]
        assert [process for _, process in first] == [process for _, process in second]
    with kept_ranks():
        assert [number for number, _ in on_kept_ranks(2, count)] == [1, 1]
    assert seen == [], "what the ranks do stays with them"


def test_an_error_keeps_its_type_and_its_lines():
    def fail(rank, size):
        raise KeyError("the reason")

    with pytest.raises(KeyError, match="the reason") as caught:
        on_two(fail)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "fail")
    assert last.line == 'raise KeyError("the reason")'


class Unpicklable(ValueError):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_be_sent_is_told_by_its_name():
    def fail(rank, size):
        raise Unpicklable(1, 2)

    with pytest.raises(Exception, match="1 and 2") as caught:
        on_two(fail)
    assert type(caught.value).__name__ == "Unpicklable"


def test_the_other_rank_does_not_wait_for_one_that_failed():
    def fail(rank, size):
        if rank == 1:
            raise ValueError("of its own")
        return sum_over_both(1.0)

    with pytest.raises(ValueError, match=r"of its own \(on rank 1 alone\)"):
        on_two(fail)


def one_too_few(rank, size):
    sum_over_both(1.0)
    if rank == 1:
        sum_over_both(2.0)


def other_order(rank, size):
    if rank == 0:
        sum_over_both(1.0)
        dist.barrier()
    else:
        dist.barrier()
        sum_over_both(1.0)


def not_waited_for(rank, size):
    if rank == 0:
        return dist.all_reduce(torch.ones(3), async_op=True) is None
    return None


def endless(rank, size):
    while rank == 1:
        pass


def exits(rank, size):
    if rank == 0:
        os._exit(3)


WAITS = "rank 1 waits for a collective that rank 0 never starts: its number 2, all_reduce of 1"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (one_too_few, WAITS),
        (other_order, "number 1 is all_reduce of 1 float32 values on rank 0 and barrier on rank 1"),
        (not_waited_for, "rank 0 has started 1 collectives and rank 1 0"),
        (endless, "rank 1 does not end, though all ranks have started the same collectives"),
        (exits, r"the process of rank 0 ended with os._exit\(3\)"),
    ],
)
def test_ranks_that_do_not_agree(monkeypatch, function, told):
    import ranks

    monkeypatch.setattr(ranks, "SECONDS", 1.0)
    with pytest.raises(GradedFailure, match=told) as caught:
        on_two(function)
    if function is one_too_few:  # the line at which rank 1 waits
        lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert "sum_over_both(2.0)" in lines


FORBIDDEN = {
    "DistributedDataParallel": "        from torch.nn.parallel import DistributedDataParallel\n"
    "        DistributedDataParallel(module)\n",
    "fully_shard": "        from torch.distributed.fsdp import fully_shard\n"
    "        fully_shard(module)\n",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_wrapper_of_pytorch_is_named(tmp_path, name):
    """Also one that is imported only in the rank."""
    folder = tmp_path / "training"
    folder.mkdir()
    text = (PROJECT / "training" / "data_parallel.py").read_text("utf-8")
    place = "        self._group = group\n"
    assert text.count(place) == 1
    (folder / "data_parallel.py").write_text(text.replace(place, FORBIDDEN[name] + place), "utf-8")
    grade_file = tmp_path / "grades.json"
    command = ["-m", "pytest", "assignments/a3/test_7_data_parallel.py", f"--impl={tmp_path}"]
    command += ["--task=a3.13", f"--grade-json={grade_file}", "-p", "no:cacheprovider"]
    command += ["-k", "rank_0_gives"]
    environment = {key: value for key, value in os.environ.items() if key != STAND_INS_VARIABLE}
    done = preloaded_python.run(command, PROJECT, environment)
    assert grade_file.exists(), done.stdout + done.stderr
    (graded,) = json.loads(grade_file.read_text("utf-8"))["assignments"]
    (task,) = graded["tasks"]
    assert task["status"] == "not allowed"
    assert f"called PyTorch's {name}" in task["forbidden"]
    assert f"{name}(module)" in done.stdout
