"""One thread for tiny models: with two, each of thousands of small operations waits for the second,
and the tests took 196 s instead of 8 next to another busy process.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
