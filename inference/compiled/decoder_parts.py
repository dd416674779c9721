"""The small parts of a decoder layer between its products, compiled with numba: the norm, the
rotation of queries and keys, the gate of the feed-forward layer.

Each takes PyTorch several calls, and with one token in a step the calls take longer than the work.
What this leaves out: the products (weight_products.py) and attention (paged_attention.py).
"""

import math

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def rms_norm(x, weight, eps, out):
    """out = x / sqrt(mean(x^2) + eps) * weight, for each row; x [tokens, size]."""
    for token in range(len(x)):
        total = 0.0
        for i in range(x.shape[1]):
            total += np.float64(x[token, i]) * x[token, i]
        scale = np.float32(1.0 / math.sqrt(total / x.shape[1] + eps))
        for i in range(x.shape[1]):
            out[token, i] = x[token, i] * scale * weight[i]


@numba.njit(nogil=True, cache=True)
def norm_heads(x, first_head, num_heads, head_dim, weight, eps):
    """As `rms_norm`, in place, for each of some heads of x [tokens, heads * head_dim]."""
    for token in range(len(x)):
        for head in range(first_head, first_head + num_heads):
            start = head * head_dim
            total = 0.0
            for i in range(head_dim):
                total += np.float64(x[token, start + i]) * x[token, start + i]
            scale = np.float32(1.0 / math.sqrt(total / head_dim + eps))
            for i in range(head_dim):
                x[token, start + i] *= scale * weight[i]


@numba.njit(nogil=True, cache=True)
def rotate(x, num_heads, head_dim, positions, cosines, sines):
    """Rotate the first heads of x [tokens, heads * head_dim] in place: pair i is (2i, 2i + 1)."""
    for token in range(len(x)):
        position = positions[token]
        for head in range(num_heads):
            start = head * head_dim
            for pair in range(head_dim // 2):
                cosine, sine = cosines[position, pair], sines[position, pair]
                a, b = x[token, start + 2 * pair], x[token, start + 2 * pair + 1]
                x[token, start + 2 * pair] = a * cosine - b * sine
                x[token, start + 2 * pair + 1] = a * sine + b * cosine


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def swiglu(gate_and_up, out):
    """out = silu(gate) * up; the first half of the columns is the gate."""
    width = out.shape[1]
    for token in range(len(out)):
        for i in range(width):
            gate = gate_and_up[token, i]
            out[token, i] = gate / (np.float32(1) + math.exp(-gate)) * gate_and_up[token, width + i]
