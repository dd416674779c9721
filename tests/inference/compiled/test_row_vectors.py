"""The exponential of a vector is as exact as its description says."""

import numba
import numpy as np

from inference.compiled.row_vectors import load_row, powers_of_e, store_row


def powers(numbers: np.ndarray, largest: float) -> np.ndarray:
    """Return exp(number - largest), with numbers in rows of 16."""

    @numba.njit
    def computed(numbers, largest, out):
        for row in range(len(numbers)):
            store_row(powers_of_e(load_row(numbers, row, 0), largest), out, row, 0)

    out = np.empty_like(numbers)
    computed(numbers, np.float32(largest), out)
    return out


def test_powers_of_e() -> None:
    numbers = np.linspace(-86, 0, 16 * 4000, dtype=np.float32).reshape(-1, 16)
    exact = np.exp(numbers.astype(np.float64))
    assert np.abs(powers(numbers, 0.0) / exact - 1).max() < 5e-6
    shifted = powers(numbers + np.float32(3), 3.0)
    rounded = np.exp((numbers + np.float32(3) - np.float32(3)).astype(np.float64))
    assert np.abs(shifted / rounded - 1).max() < 5e-6


def test_powers_that_are_no_longer_numbers_of_float32() -> None:
    numbers = np.zeros((1, 16), np.float32)
    numbers[0, :4] = -90, -1e30, -np.inf, np.nan
    got = powers(numbers, 0.0)[0]
    assert (got[:3] >= 0).all() and (got[:3] < 1e-37).all()
    assert np.isnan(got[3]) and (got[4:] == 1).all()
