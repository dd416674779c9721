"""The layers against hand-worked numbers, torch's own functions and float64."""

import math

import pytest
import torch
from torch import nn

from transformer_lm.layers import Embedding, Linear, RMSNorm, SwiGLU, silu, softmax


def test_softmax_by_hand():
    # exp(0), exp(ln 2), exp(ln 5) = 1, 2, 5; their sum is 8.
    x = torch.tensor([0.0, math.log(2), math.log(5)])
    torch.testing.assert_close(softmax(x, dim=0), torch.tensor([0.125, 0.25, 0.625]))


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_softmax_sums_to_one_along_its_own_axis(dim):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    # float32 with sums of at most 5 terms: a few units in the last place
    torch.testing.assert_close(softmax(x, dim), torch.softmax(x, dim), atol=1e-6, rtol=1e-6)


def test_softmax_of_huge_logits_is_finite_and_does_not_see_a_common_shift():
    x = torch.tensor([1.0, 2.0, -torch.inf])
    for shift in (1000.0, -1000.0):
        torch.testing.assert_close(softmax(x + shift, 0), softmax(x, 0))


def test_silu_by_hand():
    # silu(ln 3) = ln 3 * 3/4; silu(0) = 0
    x = torch.tensor([math.log(3), 0.0])
    torch.testing.assert_close(silu(x), torch.tensor([0.75 * math.log(3), 0.0]))


def test_linear_has_rows_as_outputs_and_no_bias():
    layer = Linear(2, 3)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    assert layer(torch.tensor([5.0, 3.0])).tolist() == [5.0, 3.0, 2.0]
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_linear_keeps_the_variance_between_its_two_sides():
    torch.manual_seed(0)
    layer = Linear(512, 512)
    # 2 / (512 + 512); truncation at 3 standard deviations removes 2.7 % of the variance, and the
    # sample variance of 262,144 values has an error of 0.3 %
    assert layer.weight.var().item() == pytest.approx(0.973 * 2 / 1024, rel=0.02)
    assert layer.weight.abs().max().item() <= 3 * math.sqrt(2 / 1024)


def test_embedding_gradients_repeat_to_the_last_bit():
    # 2,048 ids over 50 rows: many threads add to one row, and a race shows in most backward passes.
    layer = Embedding(4096, 256)
    token_ids, upstream = torch.randint(0, 50, (8, 256)), torch.randn(8, 256, 256)
    gradients = []
    for _ in range(10):
        layer.weight.grad = None
        layer(token_ids).backward(upstream)
        gradients.append(layer.weight.grad.clone())
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


def test_embedding_takes_rows_and_sums_gradients_of_repeated_ids():
    layer = Embedding(4, 2)
    ids = torch.tensor([[1, 3, 1]])
    assert torch.equal(layer(ids)[0, 1], layer.weight[3])
    layer(ids).sum().backward()
    assert layer.weight.grad.tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


def test_rms_norm_by_hand():
    norm = RMSNorm(2, eps=1e-12)
    norm.weight.data = torch.tensor([1.0, 10.0])
    # mean square of (1, 7) is 25
    torch.testing.assert_close(norm(torch.tensor([1.0, 7.0])), torch.tensor([0.2, 14.0]))


def test_rms_norm_eps_is_inside_the_root():
    # mean square 4, eps 5: 2 / sqrt(9)
    norm = RMSNorm(3, eps=5.0)
    torch.testing.assert_close(norm(torch.full((3,), 2.0)), torch.full((3,), 2 / 3))


def test_rms_norm_of_bfloat16_is_the_float64_result_rounded_once():
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(64, 333, generator=generator) * 30).bfloat16()
    norm = RMSNorm(333)
    norm.weight.data = torch.randn(333, generator=generator)
    wide = x.double()
    exact = wide / (wide.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
    result = norm(x)
    assert result.dtype == torch.bfloat16
    # Half a unit in the last of bfloat16's 8 bits is at most 2^-8 of the value (0.00391), and
    # float32 adds less than 1e-6; computed in bfloat16 the largest error here is 0.012.
    torch.testing.assert_close(result.double(), exact, rtol=0.00391, atol=0)


def test_rms_norm_and_its_gradient_equal_torch():
    x = torch.randn(5, 16, dtype=torch.float32, requires_grad=True)
    ours, theirs = RMSNorm(16, 1e-5), nn.RMSNorm(16, 1e-5)
    weight = torch.rand(16)
    ours.weight.data, theirs.weight.data = weight.clone(), weight.clone()
    gradients = [torch.autograd.grad(norm(x).sin().sum(), x)[0] for norm in (ours, theirs)]
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_swiglu_gates_the_up_branch():
    layer = SwiGLU(1, 2)
    layer.gate.weight.data = torch.tensor([[math.log(3)], [0.0]])
    layer.up.weight.data = torch.tensor([[8.0], [100.0]])
    layer.down.weight.data = torch.tensor([[1.0, 1.0]])
    # silu(ln 3) * 8 = 6 ln 3; the second gate is silu(0) = 0
    torch.testing.assert_close(layer(torch.ones(1)), torch.tensor([6 * math.log(3)]))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_swiglu_is_the_formula_and_so_is_its_gradient(scale):
    """It calls PyTorch's silu; this module's silu is the definition."""
    generator = torch.Generator().manual_seed(0)
    layer = SwiGLU(6, 10).double()
    x = (scale * torch.randn(5, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    expected = layer.down(silu(layer.gate(x)) * layer.up(x))
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
