"""The loops of weight_products.py: a tile of rows is brought into float32 and multiplied.

With one token, the conversion and the product are one loop. What this leaves out: the forms of the
matrices, which weight_products.py describes.
"""

import threading

import numba
import numpy as np

# Sums in any order, so that they use vector instructions; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract", "nsz"}
TILE = 8  # rows that a thread brings into float32 at a time
BLOCK = 32  # columns of an int4 block
HALF = BLOCK // 2
# numba's default threads may not be entered by two threads of Python at once.
ONE_CALLER = threading.Lock()


@numba.njit(nogil=True, cache=True)
def _bfloat16_row(bits, row, out):
    for i in range(bits.shape[1]):
        out[i] = np.uint32(bits[row, i]) << np.uint32(16)


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _int8_row(codes, row, out):
    for i in range(codes.shape[1]):
        out[i] = np.float32(codes[row, i])


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _int4_row(packed, scales, smallest, row, out):
    for block in range(scales.shape[1]):
        scale, least = scales[row, block], smallest[row, block]
        for i in range(HALF):
            byte = packed[row, block * HALF + i]
            out[block * BLOCK + i] = np.float32(byte & np.uint8(15)) * scale + least
            out[block * BLOCK + HALF + i] = np.float32(byte >> np.uint8(4)) * scale + least


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _tile_product(weights, num_rows, x, first_row, out):
    """out[:, first_row:first_row + num_rows] = x @ weights[:num_rows].T, four by four."""
    tokens, columns = x.shape
    for row in range(0, num_rows, 4):
        if row + 4 > num_rows:
            for single in range(row, num_rows):
                for token in range(tokens):
                    total = np.float32(0)
                    for i in range(columns):
                        total += weights[single, i] * x[token, i]
                    out[token, first_row + single] = total
            return
        token = 0
        while token + 4 <= tokens:
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
            c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
            for i in range(columns):
                w0, w1 = weights[row, i], weights[row + 1, i]
                w2, w3 = weights[row + 2, i], weights[row + 3, i]
                a, b, c, d = x[token, i], x[token + 1, i], x[token + 2, i], x[token + 3, i]
                a0 += w0 * a
                a1 += w1 * a
                a2 += w2 * a
                a3 += w3 * a
                b0 += w0 * b
                b1 += w1 * b
                b2 += w2 * b
                b3 += w3 * b
                c0 += w0 * c
                c1 += w1 * c
                c2 += w2 * c
                c3 += w3 * c
                d0 += w0 * d
                d1 += w1 * d
                d2 += w2 * d
                d3 += w3 * d
            place = first_row + row
            out[token, place], out[token, place + 1] = a0, a1
            out[token, place + 2], out[token, place + 3] = a2, a3
            out[token + 1, place], out[token + 1, place + 1] = b0, b1
            out[token + 1, place + 2], out[token + 1, place + 3] = b2, b3
            out[token + 2, place], out[token + 2, place + 1] = c0, c1
            out[token + 2, place + 2], out[token + 2, place + 3] = c2, c3
            out[token + 3, place], out[token + 3, place + 1] = d0, d1
            out[token + 3, place + 2], out[token + 3, place + 3] = d2, d3
            token += 4
        while token < tokens:
            a0 = a1 = a2 = a3 = np.float32(0)
            for i in range(columns):
                a = x[token, i]
                a0 += weights[row, i] * a
                a1 += weights[row + 1, i] * a
                a2 += weights[row + 2, i] * a
                a3 += weights[row + 3, i] * a
            place = first_row + row
            out[token, place], out[token, place + 1] = a0, a1
            out[token, place + 2], out[token, place + 3] = a2, a3
            token += 1


@numba.njit(parallel=True, nogil=True, cache=True, fastmath=FAST)
def bfloat16_product(bits, x, out):
    rows, columns = bits.shape
    if x.shape[0] == 1:
        for row in numba.prange(rows):
            total = np.float32(0)
            for i in range(columns):
                weight = np.uint32(np.uint32(bits[row, i]) << np.uint32(16)).view(np.float32)
                total += weight * x[0, i]
            out[0, row] = total
        return
    for tile in numba.prange((rows + TILE - 1) // TILE):
        first = tile * TILE
        count = min(TILE, rows - first)
        memory = np.empty((TILE, columns), np.uint32)
        for row in range(count):
            _bfloat16_row(bits, first + row, memory[row])
        _tile_product(memory.view(np.float32), count, x, first, out)


@numba.njit(parallel=True, nogil=True, cache=True, fastmath=FAST)
def int8_product(codes, scales, x, out):
    rows, columns = codes.shape
    if x.shape[0] == 1:
        for row in numba.prange(rows):
            total = np.float32(0)
            for i in range(columns):
                total += np.float32(codes[row, i]) * x[0, i]
            out[0, row] = total * scales[row]
        return
    for tile in numba.prange((rows + TILE - 1) // TILE):
        first = tile * TILE
        count = min(TILE, rows - first)
        weights = np.empty((TILE, columns), np.float32)
        for row in range(count):
            _int8_row(codes, first + row, weights[row])
        _tile_product(weights, count, x, first, out)
        for token in range(x.shape[0]):
            for row in range(first, first + count):
                out[token, row] *= scales[row]


@numba.njit(parallel=True, nogil=True, cache=True, fastmath=FAST)
def int4_product(packed, scales, smallest, x, out):
    rows, blocks = scales.shape
    if x.shape[0] == 1:
        sums = np.empty(blocks, np.float32)  # of the activations of each block
        for block in range(blocks):
            total = np.float32(0)
            for i in range(BLOCK):
                total += x[0, block * BLOCK + i]
            sums[block] = total
        for row in numba.prange(rows):
            result = np.float32(0)
            for block in range(blocks):
                total = np.float32(0)
                for i in range(HALF):
                    byte = packed[row, block * HALF + i]
                    total += np.float32(byte & np.uint8(15)) * x[0, block * BLOCK + i]
                    total += np.float32(byte >> np.uint8(4)) * x[0, block * BLOCK + HALF + i]
                result += total * scales[row, block] + sums[block] * smallest[row, block]
            out[0, row] = result
        return
    for tile in numba.prange((rows + TILE - 1) // TILE):
        first = tile * TILE
        count = min(TILE, rows - first)
        weights = np.empty((TILE, x.shape[1]), np.float32)
        for row in range(count):
            _int4_row(packed, scales, smallest, first + row, weights[row])
        _tile_product(weights, count, x, first, out)


@numba.njit(parallel=True, nogil=True, cache=True)
def restore_int4(packed, scales, smallest, out):
    for row in numba.prange(len(out)):
        _int4_row(packed, scales, smallest, row, out[row])
