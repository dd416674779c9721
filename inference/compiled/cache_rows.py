"""The rows of the key-value cache in the three types that it may have, for compiled loops.

    float32     as they are
    bfloat16    as uint16, because NumPy has no bfloat16: the upper half of a float32
    int8        `head_dim` codes and the bytes of a float32 scale (inference/quantized_cache.py)

numba compiles a loop for the type of the pages that it gets, so each operation has one Python
function for each type, chosen by `overload` when a loop is compiled. What this leaves out: reading
whole vectors of float32 and bfloat16 (attention_vectors.py), which needs no copy.
"""

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from inference.compiled.attention_vectors import float_of_bytes
from inference.compiled.row_vectors import bits_of_float

# As in inference/quantized_cache.py; here, because only changes in this folder renew the compiled
# code.
LARGEST_CODE = 127
SCALE_BYTES = 4


def pages_as_numpy(blocks: Tensor) -> np.ndarray:
    """Return the same memory as an array; bfloat16 as uint16."""
    assert blocks.is_contiguous(), "the blocks of a layer are contiguous"
    blocks = blocks.detach()
    if blocks.dtype == torch.bfloat16:
        return blocks.view(torch.int16).numpy().view(np.uint16)
    return blocks.numpy()


def write_numbers(numbers: np.ndarray, row: np.ndarray) -> None:
    """row = numbers, rounded to the type of the row, half to even."""
    {"uint16": _write_bfloat16, "int8": _write_int8, "float32": _write_float32}[row.dtype.name](
        numbers, row
    )


def _write_bfloat16(numbers, row):
    for i in range(len(row)):
        bits = np.uint32(bits_of_float(numbers[i]))
        half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
        row[i] = (bits + half) >> np.uint32(16)


def _write_float32(numbers, row):
    for i in range(len(row)):
        row[i] = numbers[i]


def _write_int8(numbers, row):
    largest, is_finite = np.float32(0), True
    for i in range(len(numbers)):
        largest = max(largest, abs(numbers[i]))
        is_finite = is_finite and abs(numbers[i]) < np.inf
    scale = largest / np.float32(LARGEST_CODE) if is_finite else np.float32(np.nan)
    for i in range(len(numbers)):
        code = np.rint(numbers[i] / scale) if scale > 0 else np.float32(0)
        row[i] = np.int8(min(max(code, -LARGEST_CODE), LARGEST_CODE))
    bits = bits_of_float(scale)
    for i in range(SCALE_BYTES):  # the lowest byte first
        row[len(numbers) + i] = np.int8((bits >> (8 * i)) & 255)


@overload(write_numbers)
def _choose_write(numbers, row):
    return {numba.uint16: _write_bfloat16, numba.int8: _write_int8}.get(row.dtype, _write_float32)


def numbers_in_row(rows):
    """Return how many numbers a row of the last dimension has."""
    return _codes_in_row(rows) if rows.dtype == np.int8 else _all_in_row(rows)


def _all_in_row(rows):
    return rows.shape[-1]


def _codes_in_row(rows):
    return rows.shape[-1] - SCALE_BYTES


@overload(numbers_in_row)
def _choose_length(rows):
    return _codes_in_row if rows.dtype == numba.int8 else _all_in_row


def whole_vectors(rows):
    """Return the rows if vectors can be loaded from them, else none, of the type that `read_rows`
    brings them into.
    """
    return np.empty((0, 0), np.float32) if rows.dtype == np.int8 else rows


@overload(whole_vectors)
def _choose_vectors(rows):
    if rows.dtype == numba.int8:
        return lambda rows: np.empty((0, 0), np.float32)
    return lambda rows: rows


def read_rows(rows, first, step, count, out):
    """out[i, : numbers of a row] = rows[first + i * step], for `count` rows; out has the type of
    the rows, but float32 for int8.
    """


def _copy_rows(rows, first, step, count, out):
    for i in range(count):
        for column in range(rows.shape[1]):
            out[i, column] = rows[first + i * step, column]


def _restore_rows(rows, first, step, count, out):
    size = rows.shape[1] - SCALE_BYTES
    for i in range(count):
        row = first + i * step
        scale = float_of_bytes(rows, row, size)
        for column in range(size):
            out[i, column] = np.float32(rows[row, column]) * scale


@overload(read_rows)
def _choose_read(rows, first, step, count, out):
    return _restore_rows if rows.dtype == numba.int8 else _copy_rows
