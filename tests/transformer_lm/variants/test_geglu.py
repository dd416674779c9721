"""GEGLU against an example by hand and the formula in NumPy, in float64."""

import math

import numpy
import pytest
import torch

from transformer_lm.variants.geglu import GEGLU


def test_by_hand() -> None:
    """A gate of 20 is its own GELU, and one of -20 or 0 is closed."""
    layer = GEGLU(1, 3)
    layer.gate.weight.data = torch.tensor([[20.0], [-20.0], [0.0]])
    layer.up.weight.data = torch.tensor([[-3.0], [5.0], [7.0]])
    layer.down.weight.data = torch.tensor([[2.0, 1.0, 1.0]])
    assert layer(torch.ones(1)).tolist() == [2 * 20 * -3]


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    layer = GEGLU(6, 10, bias).double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    weights = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}

    def linear(name: str, values: numpy.ndarray) -> numpy.ndarray:
        return values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    gate, up = linear("gate", x.numpy()), linear("up", x.numpy())
    opened = gate / 2 * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    expected = linear("down", opened * up)
    numpy.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    exact = linear("down", gate / 2 * (1 + numpy.vectorize(math.erf)(gate / 2**0.5)) * up)
    assert 1e-5 < abs(expected - exact).max() < 0.05, "tanh is GPT-2's approximation of erf"
