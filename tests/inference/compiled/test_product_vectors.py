"""Products of bytes are the same with the processor's instruction and without."""

import numba
import numpy as np
import pytest

from inference.compiled import product_vectors
from inference.compiled.product_vectors import add_dots, integers_of, load_bytes, zeros
from inference.compiled.row_vectors import float_lanes, store_row


def dots(codes: np.ndarray, words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return start + code * byte, added in fours, for the word of each of two tokens: [2, 16]."""

    @numba.njit
    def computed(codes, words, starts, out):
        sums = integers_of(zeros(2), starts, 0, 0)
        sums = add_dots(sums, load_bytes(codes, 0), words, 0, 0)
        for token in range(2):
            store_row(float_lanes(sums[token]), out, token, 0)

    out = np.empty((2, 16), np.float32)
    computed(codes, words, starts, out)
    return out


@pytest.mark.parametrize("is_there", [True, False])
def test_products_of_bytes(is_there, monkeypatch) -> None:
    if is_there and not product_vectors.has_byte_products():
        pytest.skip("this processor has no VNNI")
    monkeypatch.setattr(product_vectors, "has_byte_products", lambda: is_there)
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, 64).astype(np.uint8)
    codes[:8] = 255  # the largest sums
    numbers = generator.integers(-128, 128, (2, 4)).astype(np.int8)
    numbers[0] = -128
    starts = np.array([[5], [-7]], np.int32)
    got = dots(codes, numbers.view(np.int32), starts)
    expected = codes.reshape(16, 4).astype(np.int64) @ numbers.T.astype(np.int64) + starts.T
    np.testing.assert_array_equal(got, expected.T)
