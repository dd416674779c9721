"""Arrays that count accesses, to measure the work of a kernel by running it as Python."""

import numpy as np
import pytest


class CountedArray(np.ndarray):
    """An array that counts the elements read or written."""

    count = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        CountedArray.count += np.size(found)
        return found

    def __setitem__(self, index, value):
        CountedArray.count += np.size(super().__getitem__(index))
        super().__setitem__(index, value)


class Work:
    """`counted` arrays, `counted_calls` of functions, and the number of both together."""

    def __init__(self):
        self._calls = 0
        self._count_before = CountedArray.count

    @property
    def steps(self):
        return CountedArray.count - self._count_before + self._calls

    @staticmethod
    def counted(arrays):
        """Convert a named tuple of arrays to counting arrays."""
        return arrays._replace(
            **{name: array.view(CountedArray) for name, array in arrays._asdict().items()}
        )

    def counted_calls(self, function):
        def counting(*arguments):
            self._calls += 1
            return function(*arguments)

        return counting


@pytest.fixture
def new_work():
    """Return a function that starts counting."""
    return Work


@pytest.fixture
def assert_n_log_n():
    """Return a check that the steps for n and 4 n bytes grow as n log n does: by about 4.8, not by
    16.
    """

    def check(steps, size):
        bound = 4 * np.log(4 * size) / np.log(size)
        assert size < steps[0] < 100 * size * np.log2(size)
        assert steps[1] <= 1.15 * bound * steps[0], steps

    return check
