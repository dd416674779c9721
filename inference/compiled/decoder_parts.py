"""The small parts of a decoder layer between its products, compiled with numba: the norm, the
rotation of queries and keys, the gate of the feed-forward layer.

A few rows are computed by one thread, which takes less time than to wake another. What this leaves
out: the products (weight_products.py) and attention (paged_attention.py).
"""

import math

import numba
import numpy as np

from inference.compiled.kernel_cache import fast_kernel, kernel, parallel_kernel
from inference.compiled.product_kernels import FEW_TOKENS
from inference.compiled.row_vectors import (
    gated,
    load_row,
    store_row,
)
from inference.compiled.vectors import (
    LANES,
)


@fast_kernel
def _rms_norm_row(x, weight, eps, out):
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) * x[i]
    scale = np.float32(1.0 / math.sqrt(total / len(x) + eps))
    for i in range(len(x)):
        out[i] = x[i] * scale * weight[i]


@parallel_kernel
def _rms_norm_many(x, weight, eps, out):
    for token in numba.prange(len(x)):
        _rms_norm_row(x[token], weight, eps, out[token])


@kernel
def rms_norm(x, weight, eps, out):
    """out = x / sqrt(mean(x^2) + eps) * weight, for each row; x [tokens, size]."""
    if len(x) > FEW_TOKENS:
        _rms_norm_many(x, weight, eps, out)
    else:
        for token in range(len(x)):
            _rms_norm_row(x[token], weight, eps, out[token])


@kernel
def norm_heads(x, first_head, num_heads, head_dim, weight, eps):
    """As `rms_norm`, in place, for each of some heads of x [tokens, heads * head_dim]."""
    for token in range(len(x)):
        for head in range(first_head, first_head + num_heads):
            part = x[token, head * head_dim : (head + 1) * head_dim]
            _rms_norm_row(part, weight, eps, part)


@kernel
def rotate(x, num_heads, head_dim, positions, cosines, sines):
    """Rotate the first heads of x [tokens, heads * head_dim] in place: pair i is (2i, 2i + 1)."""
    for token in range(len(x)):
        position = positions[token]
        for head in range(num_heads):
            # Slices, because numba asks at each sum of indices whether it is negative.
            part = x[token, head * head_dim : (head + 1) * head_dim].reshape(-1, 2)
            for pair in range(len(part)):
                cosine, sine = cosines[position, pair], sines[position, pair]
                a, b = part[pair, 0], part[pair, 1]
                part[pair, 0] = a * cosine - b * sine
                part[pair, 1] = a * sine + b * cosine


@kernel
def _gate_row(both, token, out):
    width = out.shape[1]
    whole = width - width % LANES
    for column in range(0, whole, LANES):
        up = load_row(both, token, width + column)
        store_row(gated(load_row(both, token, column), up), out, token, column)
    if whole < width:  # vectors are loaded whole
        last = np.zeros((3, LANES), np.float32)
        last[0, : width - whole] = both[token, whole:width]
        last[1, : width - whole] = both[token, width + whole : 2 * width]
        store_row(gated(load_row(last, 0, 0), load_row(last, 1, 0)), last, 2, 0)
        out[token, whole:] = last[2, : width - whole]


@parallel_kernel
def _gate_many(both, out):
    for token in numba.prange(len(out)):
        _gate_row(both, token, out)


@kernel
def gate(both, out):
    """out = silu(gates) * up, [tokens, width]: the first `width` columns of `both` are the gates,
    the next ones `up`.
    """
    if len(out) > FEW_TOKENS:
        _gate_many(both, out)
    else:
        for token in range(len(out)):
            _gate_row(both, token, out)
