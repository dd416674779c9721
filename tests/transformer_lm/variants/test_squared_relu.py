"""The squared ReLU layer against an example by hand and the formula in NumPy, in float64."""

import numpy
import pytest
import torch

from transformer_lm.variants.squared_relu import SquaredReLU


def test_by_hand() -> None:
    layer = SquaredReLU(1, 3)
    layer.up.weight.data = torch.tensor([[3.0], [-2.0], [1.0]])
    layer.down.weight.data = torch.tensor([[1.0, 100.0, 10.0]])
    assert layer(torch.ones(1)).tolist() == [1 * 9 + 100 * 0 + 10 * 1]


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_formula_and_so_is_its_gradient(bias: bool) -> None:
    torch.manual_seed(0)
    layer = SquaredReLU(6, 10, bias).double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    weights = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    inner = x.detach().numpy() @ weights["up.weight"].T + weights.get("up.bias", 0)
    kept = numpy.maximum(inner, 0)
    expected = kept**2 @ weights["down.weight"].T + weights.get("down.bias", 0)
    found = layer(x)
    numpy.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    slope = 2 * kept * weights["down.weight"].sum(0)  # of the sum, in the inner values
    numpy.testing.assert_allclose(gradient.numpy(), slope @ weights["up.weight"], rtol=1e-10)
