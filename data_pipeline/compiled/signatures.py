"""Signatures of many documents at once: the numbers of `minhash_dedup.signature`, compiled.

A document's shingles are copied to a multiple of 32 numbers, the rest being copies of the first one
(which changes no minimum), so that the processor's vector instructions need no remainder.

What this leaves out: families of hash functions that cost less than one multiplication for each
shingle and hash, such as one-permutation hashing.
"""

import numba
import numpy as np

ROUND_TO = 32  # shingles
ODD = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(nogil=True, cache=True)
def _fill_signatures(values, starts, multipliers, offsets, signatures):
    longest = 0
    for document in range(len(starts) - 1):
        longest = max(longest, starts[document + 1] - starts[document])
    padded = np.empty(longest + ROUND_TO, dtype=np.uint32)
    for document in range(len(starts) - 1):
        start = starts[document]
        count = starts[document + 1] - start
        rounded = (count + ROUND_TO - 1) // ROUND_TO * ROUND_TO
        for place in range(count):
            padded[place] = np.uint32(values[start + place] >> np.uint64(32))
        for place in range(count, rounded):
            padded[place] = padded[0]
        for number in range(len(multipliers)):
            multiplier = multipliers[number]
            offset = offsets[number]
            smallest = np.uint32(0xFFFFFFFF)
            for place in range(rounded):
                value = np.uint32(np.uint32(padded[place] * multiplier) + offset)
                smallest = min(smallest, value)
            signatures[document, number] = smallest


def signatures(
    values: np.ndarray, starts: np.ndarray, functions: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the signatures of documents whose shingles stand one after the other.

    Args:
        values: the shingles of all documents, uint64.
        starts: where each document's begin, and the end of the last; int64 [documents + 1].
        functions: see `minhash_dedup.hash_functions`.

    Returns uint32 [documents, num_hashes].
    """
    result = np.empty((len(starts) - 1, len(functions[0])), dtype=np.uint32)
    _fill_signatures(values, starts, *functions, result)
    return result


def signature(shingles: np.ndarray, functions: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return what `minhash_dedup.signature` returns, for one document: uint32 [num_hashes]."""
    return signatures(shingles, np.array([0, len(shingles)]), functions)[0]


def band_hashes(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Return a 64-bit hash of each band of each signature: uint64 [bands, documents].

    Equal bands have equal hashes. Two different bands have the same hash with a probability of
    about 2^-64; such a pair is compared, so it could be joined only if its true similarity reaches
    the threshold.
    """
    cut = signatures[:, : bands * rows].reshape(len(signatures), bands, rows)
    hashes = np.zeros((bands, len(signatures)), dtype=np.uint64)
    for row in range(rows):
        hashes = (hashes + cut[:, :, row].T) * ODD  # wraps mod 2^64
        hashes ^= hashes >> np.uint64(32)
    return hashes
