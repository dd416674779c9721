"""The loops of weight_products.py: a group of 32 rows of weights, multiplied with several tokens.

The rows of a group lie beside each other in memory: first the 32 weights of column 0, then those of
column 1. So one load brings weights of 16 rows, one activation is multiplied with all of them, and
each row has a lane of its own for its sum. The weights of a group stay in the processor's cache
while all tokens of the step pass by.

Integer weights are multiplied with integer activations. Each block of 32 activations of a token is
rounded to bytes with a scale of its own (`rounded_rows`), as in llama.cpp's products.

What this leaves out: the forms of the matrices, which weight_products.py describes.
"""

import threading
from typing import NamedTuple

import numba
import numpy as np

from inference.compiled.kernel_cache import kernel, parallel_kernel
from inference.compiled.product_vectors import (
    add_dots,
    add_products,
    add_scaled,
    high_nibbles,
    integers_of,
    load_bytes,
    load_float16,
    load_numbers,
    low_nibbles,
    round_block,
    store,
    zeros,
)

GROUP = 32  # rows
HALF = GROUP // 2
BLOCK = 32  # columns with one scale
WORDS = BLOCK // 4  # of four columns
FEW_TOKENS = 32  # their rows are not worth a second thread
INT8_OFFSET = 128  # codes of int8 weights are stored from 1 to 255
# numba's default threads may not be entered by two threads of Python at once.
ONE_CALLER = threading.Lock()


@kernel
def _float_tile(weights, group, x, token, start, out):
    first = second = start
    columns = len(weights) // out.shape[1]
    for column in range(x.shape[1]):
        place = (group * columns + column) * GROUP
        first = add_products(first, load_numbers(weights, place), x, token, column)
        second = add_products(second, load_numbers(weights, place + HALF), x, token, column)
    store(first, out, token, group * GROUP)
    store(second, out, token, group * GROUP + HALF)


@kernel
def _int8_tile(codes, scales, group, x, token, start, out):
    first = second = start
    blocks = x.scales.shape[1]
    for block in range(blocks):
        a = b = integers_of(start, x.before, token, block)
        for word in range(block * WORDS, (block + 1) * WORDS):
            place = (group * blocks * WORDS + word) * 4 * GROUP
            a = add_dots(a, load_bytes(codes, place), x.words, token, word)
            b = add_dots(b, load_bytes(codes, place + 4 * HALF), x.words, token, word)
        place = (group * blocks + block) * GROUP
        first = add_scaled(first, a, load_float16(scales, place), x.scales, token, block)
        second = add_scaled(second, b, load_float16(scales, place + HALF), x.scales, token, block)
    store(first, out, token, group * GROUP)
    store(second, out, token, group * GROUP + HALF)


@kernel
def _int4_tile(packed, scales, smallest, group, x, token, start, out):
    first = second = start
    blocks = x.scales.shape[1]
    for block in range(blocks):
        a = b = integers_of(start, x.zeros, token, 0)
        for word in range(WORDS // 2):
            place = (group * blocks * WORDS // 2 + block * WORDS // 2 + word) * 4 * GROUP
            low, high = block * WORDS + word, block * WORDS + WORDS // 2 + word
            bytes_a, bytes_b = load_bytes(packed, place), load_bytes(packed, place + 4 * HALF)
            a = add_dots(a, low_nibbles(bytes_a), x.words, token, low)
            b = add_dots(b, low_nibbles(bytes_b), x.words, token, low)
            a = add_dots(a, high_nibbles(bytes_a), x.words, token, high)
            b = add_dots(b, high_nibbles(bytes_b), x.words, token, high)
        place = (group * blocks + block) * GROUP
        first = add_scaled(first, a, load_float16(scales, place), x.scales, token, block)
        second = add_scaled(second, b, load_float16(scales, place + HALF), x.scales, token, block)
        first = add_products(first, load_float16(smallest, place), x.sums, token, block)
        second = add_products(second, load_float16(smallest, place + HALF), x.sums, token, block)
    store(first, out, token, group * GROUP)
    store(second, out, token, group * GROUP + HALF)


@parallel_kernel
def float_product(weights, x, out):
    """out = x @ weights.T; the weights are float32, or bfloat16 in uint16. `out` has a column for
    each row of whole groups.
    """
    for group in numba.prange(out.shape[1] // GROUP):
        token = 0
        while token + 8 <= len(x):
            _float_tile(weights, group, x, token, zeros(8), out)
            token += 8
        while token + 4 <= len(x):
            _float_tile(weights, group, x, token, zeros(4), out)
            token += 4
        while token + 2 <= len(x):
            _float_tile(weights, group, x, token, zeros(2), out)
            token += 2
        if token < len(x):
            _float_tile(weights, group, x, token, zeros(1), out)


@parallel_kernel
def int8_product(codes, scales, x, out):
    """out = x @ weights.T; weight = (code - 128) * scale, and x is a `RoundedRows`."""
    for group in numba.prange(out.shape[1] // GROUP):
        token = 0
        while token + 4 <= len(out):
            _int8_tile(codes, scales, group, x, token, zeros(4), out)
            token += 4
        while token + 2 <= len(out):
            _int8_tile(codes, scales, group, x, token, zeros(2), out)
            token += 2
        if token < len(out):
            _int8_tile(codes, scales, group, x, token, zeros(1), out)


@parallel_kernel
def int4_product(packed, scales, smallest, x, out):
    """out = x @ weights.T; weight = code * scale + smallest, and x is a `RoundedRows`."""
    for group in numba.prange(out.shape[1] // GROUP):
        token = 0
        while token + 4 <= len(out):
            _int4_tile(packed, scales, smallest, group, x, token, zeros(4), out)
            token += 4
        while token + 2 <= len(out):
            _int4_tile(packed, scales, smallest, group, x, token, zeros(2), out)
            token += 2
        if token < len(out):
            _int4_tile(packed, scales, smallest, group, x, token, zeros(1), out)


class RoundedRows(NamedTuple):
    """Activations as bytes, with a scale for each block of 32 of them.

    Attributes:
        words: [tokens, columns / 4] int32, of four bytes each, from -127 to 127.
        scales: [tokens, blocks]; activation = byte * scale.
        before: [tokens, blocks] int32: -128 times the sum of the bytes of the block. int8 weights
            are stored 128 too high, and sums of products that start here come out right.
        sums: [tokens, blocks]: the sum of the bytes times the scale.
        zeros: [tokens, 1] int32, for sums that start at 0.
    """

    words: np.ndarray
    scales: np.ndarray
    before: np.ndarray
    sums: np.ndarray
    zeros: np.ndarray


@kernel
def rounded_rows(x):
    """Return activations [tokens, columns] as bytes, half to even. The last block of a row is
    filled up with zeros.
    """
    tokens, columns = x.shape
    blocks = (columns + BLOCK - 1) // BLOCK
    rounded = RoundedRows(
        np.zeros((tokens, blocks * WORDS), np.int32),
        np.empty((tokens, blocks), np.float32),
        np.empty((tokens, blocks), np.int32),
        np.empty((tokens, blocks), np.float32),
        np.zeros((tokens, 1), np.int32),
    )
    if tokens <= FEW_TOKENS:
        for token in range(tokens):
            _round_row(x, token, rounded)
    else:
        _round_many_rows(x, rounded)
    return rounded


@parallel_kernel
def _round_many_rows(x, rounded):
    for token in numba.prange(len(x)):
        _round_row(x, token, rounded)


@kernel
def _round_row(x, token, rounded):
    codes = rounded.words.view(np.int8)
    whole, rest = divmod(x.shape[1], BLOCK)
    for block in range(whole):
        scale, total = round_block(x, token, block * BLOCK, codes)
        _note_block(rounded, token, block, scale, total)
    if rest:
        last = np.zeros((1, BLOCK), np.float32)
        last_codes = np.empty((1, BLOCK), np.int8)
        last[0, :rest] = x[token, whole * BLOCK :]
        scale, total = round_block(last, 0, 0, last_codes)
        codes[token, whole * BLOCK :] = last_codes[0]
        _note_block(rounded, token, whole, scale, total)


@kernel
def _note_block(rounded, token, block, scale, total):
    rounded.scales[token, block] = scale
    rounded.before[token, block] = -INT8_OFFSET * total
    rounded.sums[token, block] = scale * np.float32(total)
