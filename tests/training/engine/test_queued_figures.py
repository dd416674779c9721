"""Figures have the values of the time when they were queued, and nothing waits before `read`."""

import math

import pytest
import torch

from training.engine.queued_figures import QueuedFigures


def test_the_numbers_are_those_of_the_time():
    loss, norm = torch.tensor(1.5, requires_grad=True), torch.tensor(float("nan"))
    queued = QueuedFigures(loss, norm)
    with torch.no_grad():
        loss.fill_(7.0)
    first, second = queued.read()
    assert first == 1.5 and math.isnan(second)
    assert queued.read()[0] == 1.5


def test_types_are_widened_and_not_narrowed():
    third = torch.tensor(1, dtype=torch.float64) / 3
    assert QueuedFigures(third, torch.tensor(0.5, dtype=torch.bfloat16)).read() == [1 / 3, 0.5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_queueing_does_not_wait_for_the_device():
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    queued = QueuedFigures(torch.ones((), device="cuda"))
    assert not torch.cuda.current_stream().query(), "the copy waited for the queue"
    assert queued.read() == [1.0]
