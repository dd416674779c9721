"""Products of weights in few bits are those of the weights that they stand for."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from inference.compiled.product_kernels import FEW_TOKENS, rounded_rows
from inference.compiled.weight_products import FORMS, Matrices

FLOATS, INTEGERS = ("float32", "bfloat16"), ("int8", "int4")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_multiplied(x: np.ndarray, kind: str) -> np.ndarray:
    """Return activations in float64, as the products see them: for integer weights as bytes, each
    block of 32 with its own scale.
    """
    wide = x.astype(np.float64)
    if kind in FLOATS:
        return wide
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % 32)]).reshape(len(x), -1, 32)
    scales = np.abs(padded).max(-1, keepdims=True) / np.float32(127)
    codes = np.rint(padded * np.where(scales > 0, 1 / np.where(scales > 0, scales, 1), 0))
    return (codes.astype(np.float64) * scales).reshape(len(x), -1)[:, : x.shape[1]]


# Fewer rows than a group of 32, one more; blocks that are not whole; each number of tokens that a
# loop computes together, with a rest.
@pytest.mark.parametrize("rows", [1, 32, 33])
@pytest.mark.parametrize("columns", [96, 70])
@pytest.mark.parametrize("tokens", [1, 3, 4, 13, FEW_TOKENS + 1])
@pytest.mark.parametrize("kind", list(FORMS))
def test_the_product_of_the_restored_weights(
    kind: str, tokens: int, rows: int, columns: int
) -> None:
    matrices = Matrices.of(kind, random(2, rows, columns))
    x = random(tokens, columns, seed=1).numpy()
    x[0, :32] = 0  # a block without a scale
    for layer in (0, 1):
        got = matrices.product(x, layer)
        restored = matrices.restored()[layer].double().numpy()
        assert got.shape == (tokens, rows)
        # 96 products of numbers of size 1 in float32.
        expected = as_multiplied(x, kind) @ restored.T
        np.testing.assert_allclose(got, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("kind", INTEGERS)
def test_bytes_for_activations_cost_little(kind: str) -> None:
    matrices, x = Matrices.of(kind, random(1, 64, 512)), random(40, 512, seed=1)
    exact = x.double() @ matrices.restored()[0].double().T
    error = torch.from_numpy(matrices.product(x.numpy())) - exact
    assert 0 < error.norm() / exact.norm() < 0.01


def test_activations_are_rounded_half_to_even() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :6] = [127, 0.5, 1.5, -0.5, -2.5, -127]
    codes = rounded_rows(x).words.view(np.int8)[0]
    assert codes[:7].tolist() == [127, 0, 2, 0, -2, -127, 0]


@pytest.mark.parametrize("kind", list(FORMS))
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_a_number_stays_visible(kind: str, wrong: float) -> None:
    matrices, x = Matrices.of(kind, random(1, 5, 64)), random(3, 64, seed=1).numpy()
    x[1, 40] = wrong
    got = matrices.product(x)
    assert not np.isfinite(got[1]).any()
    assert np.isfinite(got[[0, 2]]).all()


def test_float_forms() -> None:
    weight = random(2, 7, 64)
    restored = {kind: Matrices.of(kind, weight).restored() for kind in FLOATS}
    torch.testing.assert_close(restored["float32"], weight, atol=0, rtol=0)
    torch.testing.assert_close(restored["bfloat16"], weight.bfloat16().float(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("kind", "form"), [("int8", GGMLQuantizationType.Q8_0), ("int4", GGMLQuantizationType.Q4_1)]
)
def test_the_weights_of_a_gguf_file_stay_as_they_are(kind: str, form: GGMLQuantizationType) -> None:
    weight = random(40, 128).numpy()
    weight[2, :32] = np.abs(weight[2, :32]) + 1  # a block of one sign
    weight[3] = 0
    stored = quants.dequantize(quants.quantize(weight, form), form)
    restored = Matrices.of(kind, torch.from_numpy(stored)[None]).restored()[0].numpy()
    np.testing.assert_array_equal(restored, stored)


def test_the_bytes_of_each_form() -> None:
    def num_bytes(kind: str) -> int:
        return Matrices.of(kind, random(1, 64, 512)).num_bytes

    assert num_bytes("float32") == 64 * 512 * 4
    assert num_bytes("bfloat16") == 64 * 512 * 2
    assert num_bytes("int8") == 64 * (512 + 16 * 2)
    assert num_bytes("int4") == 64 * (512 // 2 + 16 * 4)
