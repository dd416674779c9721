"""The small compiled parts compute what the layers of `transformer_lm` compute."""

import numpy as np
import pytest
import torch

from inference.compiled.decoder_parts import gate, norm_heads, rms_norm, rotate
from inference.compiled.product_kernels import FEW_TOKENS
from transformer_lm.layers import RMSNorm, silu
from transformer_lm.rotary_embedding import RotaryEmbedding

EPS = 1e-5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm_of(weight: torch.Tensor) -> RMSNorm:
    norm = RMSNorm(len(weight), EPS)
    with torch.no_grad():
        norm.weight.copy_(weight)
    return norm


@pytest.mark.parametrize("tokens", [5, FEW_TOKENS + 1])
def test_rms_norm(tokens: int) -> None:
    x, weight = random(tokens, 24) * 3, random(24, seed=1)
    got = np.empty((tokens, 24), np.float32)
    rms_norm(x.numpy(), weight.numpy(), EPS, got)
    torch.testing.assert_close(torch.from_numpy(got), norm_of(weight)(x).detach())


def test_norms_of_some_heads() -> None:
    x, weight = random(4, 5 * 6), random(6, seed=1)
    got = x.clone()
    norm_heads(got.numpy(), 1, 2, 6, weight.numpy(), EPS)
    heads = x.clone().unflatten(1, (5, 6))
    heads[:, 1:3] = norm_of(weight)(heads[:, 1:3]).detach()
    torch.testing.assert_close(got, heads.flatten(1))


def test_rotation_of_the_first_heads() -> None:
    rotary = RotaryEmbedding(6, 50)
    x, positions = random(4, 5 * 6), torch.tensor([0, 7, 49, 3])
    got = x.clone()
    angles = rotary.cosines.numpy(), rotary.sines.numpy()
    rotate(got.numpy(), 3, 6, positions.numpy(), *angles)
    heads = x.clone().unflatten(1, (5, 6))
    heads[:, :3] = rotary(heads[:, :3].transpose(0, 1), positions).transpose(0, 1)
    torch.testing.assert_close(got, heads.flatten(1))


@pytest.mark.parametrize("width", [7, 16, 37])  # vectors have 16 numbers
@pytest.mark.parametrize("tokens", [3, FEW_TOKENS + 1])
def test_gate(tokens: int, width: int) -> None:
    both = random(tokens, 2 * width + 5) * 60  # silu of large numbers on both sides
    got = np.empty((tokens, width), np.float32)
    gate(both.numpy(), got)
    expected = silu(both[:, :width]) * both[:, width : 2 * width]
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-30, rtol=1e-5)


def test_a_gate_that_is_not_a_number() -> None:
    both = np.zeros((1, 32), np.float32)
    both[0, 3], both[0, 4] = np.nan, np.inf
    got = np.empty((1, 16), np.float32)
    gate(both + np.float32([0] * 16 + [1] * 16), got)
    assert np.isnan(got[0, 3])
    assert np.isinf(got[0, 4])
    assert np.isfinite(np.delete(got[0], [3, 4])).all()
