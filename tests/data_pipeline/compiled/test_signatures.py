"""Compiled signatures are the lesson's, bit for bit."""

import numpy as np
import pytest

from data_pipeline import minhash_dedup
from data_pipeline.compiled.signatures import band_hashes, signature, signatures
from data_pipeline.minhash_dedup import MinHashSettings, hash_functions

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("num_hashes", [1, 8, 37, 128])
def test_signatures_are_those_of_the_lesson(num_hashes):
    functions = hash_functions(MinHashSettings(num_hashes=num_hashes))
    lengths = [0, 1, 63, 64, 65, 0, 1000, 2, 128, 0]
    sets = [np.unique(RNG.integers(0, 2**64, length, dtype=np.uint64)) for length in lengths]
    starts = np.concatenate([[0], np.cumsum([len(shingles) for shingles in sets])])
    expected = np.stack([minhash_dedup.signature(shingles, functions) for shingles in sets])
    found = signatures(np.concatenate(sets), starts, functions)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    for shingles, row in zip(sets, expected, strict=True):
        assert np.array_equal(signature(shingles, functions), row)


def test_no_documents():
    functions = hash_functions(MinHashSettings())
    assert signatures(np.empty(0, np.uint64), np.zeros(1, np.int64), functions).shape == (0, 128)
    assert band_hashes(np.empty((0, 128), np.uint32), 18, 7).shape == (18, 0)


def test_equal_bands_have_equal_hashes_and_others_do_not():
    """Few different numbers, so that many bands are equal; the last columns belong to no band."""
    rows = RNG.integers(0, 3, (400, 8), dtype=np.uint32)
    hashes = band_hashes(rows, 3, 2)
    assert hashes.shape == (3, 400) and hashes.dtype == np.uint64
    for band in range(3):
        hash_of = {}
        for row, value in zip(rows[:, 2 * band : 2 * band + 2], hashes[band], strict=True):
            assert hash_of.setdefault(row.tobytes(), value) == value
        assert len(set(hash_of.values())) == len(hash_of) == 9
