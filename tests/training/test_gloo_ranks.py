"""The pool of ranks itself: results, failures that are told in time, and a pool that recovers."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import Ranks


def sum_of_ranks(rank: int, size: int) -> tuple[float, int]:
    number = torch.tensor(float(rank))
    dist.all_reduce(number)
    return number.item(), os.getpid()


def rank_1_fails(rank: int, size: int) -> None:
    if rank == 1:
        raise ValueError("the reason of rank 1")
    dist.barrier()


def rank_0_hangs(rank: int, size: int) -> None:
    if rank == 0:
        time.sleep(600)


def rank_1_ends(rank: int, size: int) -> None:
    if rank == 1:
        os._exit(3)
    dist.barrier()


def test_every_rank_returns_and_the_processes_stay(ranks: Ranks) -> None:
    first, second = ranks.call(4, sum_of_ranks), ranks.call(2, sum_of_ranks)
    assert [value for value, _ in first] == [6.0] * 4
    assert [value for value, _ in second] == [1.0] * 2
    assert {process for _, process in second} <= {process for _, process in first}


def test_a_failure_names_the_rank_and_its_reason_and_the_pool_recovers() -> None:
    own = Ranks(seconds=5)
    try:
        with pytest.raises(AssertionError, match=r"rank 1 of 2(.|\n)*the reason of rank 1"):
            own.call(2, rank_1_fails)
        with pytest.raises(AssertionError, match="rank 0 of 2 did not return"):
            own.call(2, rank_0_hangs)
        with pytest.raises(AssertionError, match="rank 1 of 2"):
            own.call(2, rank_1_ends)
        assert [value for value, _ in own.call(2, sum_of_ranks)] == [1.0, 1.0]
    finally:
        own.stop()
