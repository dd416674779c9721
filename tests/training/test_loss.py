"""The loss by hand, against torch in float64, and for logits that overflow a naive
implementation.
"""

import math

import pytest
import torch

from training.loss import bits_per_byte, cross_entropy, token_losses


def test_cross_entropy_by_hand():
    # probabilities 1/8, 2/8, 5/8
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]] * 2)
    targets = torch.tensor([1, 2])
    expected = (math.log(4) + math.log(8 / 5)) / 2
    assert cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_equals_torch_in_float64_with_gradients():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 17, generator=generator, requires_grad=True)
    targets = torch.randint(0, 17, (3, 5), generator=generator)
    wide = logits.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide.flatten(0, 1), targets.flatten())
    result = cross_entropy(logits, targets)
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    expected.backward()
    result.backward()
    torch.testing.assert_close(logits.grad.double(), wide.grad, atol=1e-7, rtol=1e-5)


def test_huge_logits_give_the_exact_loss_and_never_infinity():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert token_losses(logits, torch.tensor([1, 0])).tolist() == [1e4, 1e4]
    assert token_losses(logits, torch.tensor([0, 1])).tolist() == [0.0, 0.0]


def test_bfloat16_logits_are_summed_in_float32():
    logits = torch.zeros(1, 4096, dtype=torch.bfloat16)
    loss = token_losses(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(4096), rel=1e-6)


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
