"""The loss by hand, against torch in float64, and for logits that overflow a naive
implementation.
"""

import math

import pytest
import torch

from training.engine.fused_loss import fused_token_losses
from training.loss import bits_per_byte, cross_entropy, token_losses


def test_cross_entropy_by_hand():
    # probabilities 1/8, 2/8, 5/8
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]] * 2)
    targets = torch.tensor([1, 2])
    expected = (math.log(4) + math.log(8 / 5)) / 2
    assert cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def torch_loss(logits, targets, mask=None, z_loss: float = 0.0) -> torch.Tensor:
    """The same mean from torch's functions, over a list of the tokens that count."""
    counted = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
    loss = torch.nn.functional.cross_entropy(logits[counted], targets[counted])
    return loss + z_loss * torch.logsumexp(logits[counted], -1).square().mean()


# The loss in float64 has float64's rounding, about 1e-16; in float32, that of float32.
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("is_masked", [False, True])
def test_equals_torch_in_float64_with_gradients(dtype, rounding, z_loss, is_masked):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 17, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 17, (3, 5), generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.5 if is_masked else None
    wide = logits.detach().double().requires_grad_()
    expected = torch_loss(wide, targets, mask, z_loss)
    result = cross_entropy(logits, targets, mask, z_loss=z_loss)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, atol=rounding, rtol=rounding)
    expected.backward()
    result.backward()
    torch.testing.assert_close(
        logits.grad.double(), wide.grad, atol=rounding / 5, rtol=rounding * 10
    )


def test_z_loss_by_hand():
    # log Z = ln 8, so the loss is ln 8 - ln 2 and the z-loss 0.5 (ln 8)^2. Adding 1 to all logits
    # changes no probability, but log Z.
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]])
    target = torch.tensor([1])
    found = [cross_entropy(logits + shift, target, z_loss=0.5).item() for shift in (0, 1)]
    assert found[0] == pytest.approx(math.log(4) + 0.5 * math.log(8) ** 2, rel=1e-6)
    assert found[1] == pytest.approx(math.log(4) + 0.5 * (math.log(8) + 1) ** 2, rel=1e-6)


def test_huge_logits_give_the_exact_loss_and_never_infinity():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert token_losses(logits, torch.tensor([1, 0])).tolist() == [1e4, 1e4]
    assert token_losses(logits, torch.tensor([0, 1])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_summed_in_float32(dtype):
    logits = torch.zeros(1, 4096, dtype=dtype)
    loss = token_losses(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(4096), rel=1e-6)
    # (log Z)^2 of 1e4 is 1e8, above float16's largest number; exact in float32
    huge = torch.tensor([[9984.0, 0.0]], dtype=dtype)
    assert token_losses(huge, torch.tensor([1]), z_loss=1.0).item() == 9984.0 + 9984.0**2


@pytest.mark.parametrize("target", [-100, -1, 3])
@pytest.mark.parametrize("loss", [token_losses, fused_token_losses])
def test_a_target_outside_the_vocabulary_is_an_error(loss, target):
    """-100 is torch's mark for a token that does not count; here a mask says so."""
    with pytest.raises(RuntimeError, match="out of bounds"):
        loss(torch.zeros(2, 3), torch.tensor([0, target]))


def test_the_mean_is_over_the_masked_tokens_alone():
    logits = torch.zeros(2, 3, 5)
    logits[0, 0, 0] = 100.0  # confident and wrong
    targets = torch.ones(2, 3, dtype=torch.int64)
    mask = torch.tensor([[False, True, True], [True, False, False]])
    assert cross_entropy(logits, targets, mask).item() == pytest.approx(math.log(5))
    assert cross_entropy(logits, targets, torch.zeros(2, 3, dtype=torch.bool)).isnan()


def test_bits_per_byte_by_hand():
    # 10 bytes at 3 bits each
    assert bits_per_byte(30 * math.log(2), 10) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="0 bytes"):
        bits_per_byte(1.0, 0)
