"""The small compiled parts compute what the layers of `transformer_lm` compute."""

import numpy as np
import torch

from inference.compiled.decoder_parts import norm_heads, rms_norm, rotate, swiglu
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


def test_rms_norm() -> None:
    x, weight = random(5, 24) * 3, random(24, seed=1)
    got = np.empty((5, 24), np.float32)
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


def test_gate() -> None:
    x = random(3, 20) * 30  # silu of large numbers on both sides
    got = np.empty((3, 10), np.float32)
    swiglu(x.numpy(), got)
    torch.testing.assert_close(torch.from_numpy(got), silu(x[:, :10]) * x[:, 10:])
