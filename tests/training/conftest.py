"""One thread for tiny models: with two, each of thousands of small operations waits for the second,
and the tests took 196 s instead of 8 next to another busy process.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for gloo_ranks and what the ranks' functions share
from gloo_ranks import Ranks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that form gloo groups; `ranks.call(2, function)` runs a function on two ranks."""
    pool = Ranks()
    yield pool
    pool.stop()
