"""Blocks of GGUF files, one value at a time, in Python's floats and with `struct`: an independent
oracle for a6.20.

What this leaves out: values whose scale is below the smallest normal float32.
"""

import math
import struct
from collections.abc import Sequence


def float32(x: float) -> float:
    """Round to float32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def q8_0_block(values: Sequence[float]) -> bytes:
    """Return the 34 bytes of 32 values that are float32 numbers."""
    d = float32(max(map(abs, values)) / 127)
    inverse = float32(1 / d) if d else 0.0
    codes = []
    for value in values:
        y = abs(float32(value * inverse))
        whole = math.floor(y)
        code = whole + (y - whole >= 0.5)
        codes.append(code if value > 0 else -code)
    return struct.pack("<e32b", d, *codes)


def q4_0_block(values: Sequence[float]) -> bytes:
    """Return the 18 bytes of 32 values that are float32 numbers."""
    largest = max(values, key=abs)  # the first of several
    d = float32(largest / -8)
    inverse = float32(1 / d) if d else 0.0
    codes = [min(15, int(float32(float32(value * inverse) + 8.5))) for value in values]
    packed = [low + 16 * high for low, high in zip(codes[:16], codes[16:], strict=True)]
    return struct.pack("<e16B", d, *packed)
