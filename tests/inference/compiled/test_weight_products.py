"""Products of weights in few bits are those of the weights that they stand for."""

import numpy as np
import pytest
import torch

from inference.compiled.weight_products import FEW_TOKENS, MATRICES, product
from inference.weight_quantization import (
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# One row more than tiles of 8, fewer rows than a tile, fewer than the four of the inner loop.
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 13, 33])
@pytest.mark.parametrize("tokens", [1, 2, 4, 5, 9, FEW_TOKENS + 1])
@pytest.mark.parametrize("kind", list(MATRICES))
def test_the_product_of_the_restored_weights(kind: str, tokens: int, rows: int) -> None:
    matrix = MATRICES[kind].of(random(rows, 96))
    x = random(tokens, 96, seed=1).numpy()
    got = product(matrix, x)
    expected = x.astype(np.float64) @ matrix.restored().double().numpy().T
    assert got.shape == (tokens, rows)
    # 96 products of numbers of size 1 in float32.
    np.testing.assert_allclose(got, expected, atol=3e-5, rtol=0)


def test_the_forms_are_those_of_the_lesson() -> None:
    weight = random(7, 64)
    weight[2, :32] = weight[2, :32].abs() + 1  # a block of one sign
    weight[3] = 0
    int8 = dequantize_int8(*quantize_int8(weight))
    int4 = dequantize_int4(quantize_int4(weight, 32, symmetric=False))
    restored = {kind: MATRICES[kind].of(weight).restored() for kind in MATRICES}
    torch.testing.assert_close(restored["float32"], weight, atol=0, rtol=0)
    torch.testing.assert_close(restored["bfloat16"], weight.bfloat16().float(), atol=0, rtol=0)
    torch.testing.assert_close(restored["int8"], int8, atol=0, rtol=0)
    torch.testing.assert_close(restored["int4"], int4, atol=1e-6, rtol=0)


def test_the_bytes_of_each_form() -> None:
    def num_bytes(kind: str) -> int:
        return sum(part.nbytes for part in MATRICES[kind].of(random(64, 512)))

    assert num_bytes("bfloat16") == 64 * 512 * 2
    assert num_bytes("int8") == 64 * 512 + 64 * 4
    assert num_bytes("int4") == 64 * 512 // 2 + 2 * 64 * 16 * 4
