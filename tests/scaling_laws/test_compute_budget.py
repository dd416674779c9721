"""The closed form of the best split, against a search over every split."""

import numpy as np
import pytest

from scaling_laws.compute_budget import best_split, multiplied_parameters, training_flops
from scaling_laws.loss_surface import LossSurface, predict_loss
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

SURFACE = LossSurface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


@pytest.mark.parametrize("flops", [1e15, 1e19, 5.76e23])
def test_no_other_split_is_better(flops: float) -> None:
    split = best_split(SURFACE, flops)
    assert training_flops(split.parameters, split.tokens) == pytest.approx(flops, rel=1e-9)
    sizes = np.geomspace(split.parameters / 100, split.parameters * 100, 20_001)
    losses = [predict_loss(SURFACE, n, flops / 6 / n) for n in sizes]
    assert split.loss <= min(losses) + 1e-12
    assert sizes[int(np.argmin(losses))] == pytest.approx(split.parameters, rel=1e-3)


def test_chinchillas_own_budget_gives_its_known_answer() -> None:
    # Besiroglu et al. 2024, figure 5: about 20 tokens per parameter at Chinchilla's budget.
    split = best_split(SURFACE, 5.76e23)
    assert 15 < split.tokens / split.parameters < 30


@pytest.mark.parametrize("flops", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_budgets_that_are_none(flops: float) -> None:
    with pytest.raises(ValueError, match="the budget must be a positive number of FLOPs"):
        best_split(SURFACE, flops)


def test_a_split_by_hand() -> None:
    # A = B and equal exponents: N = D = sqrt(C / 6) = 1000, and L = 1 + 2 * 10 / 1000^0.5.
    split = best_split(LossSurface(E=1.0, A=10.0, B=10.0, alpha=0.5, beta=0.5), 6e6)
    assert (split.parameters, split.tokens) == pytest.approx((1000, 1000))
    assert split.loss == pytest.approx(1.632456)
    # The exponent of the other term decides the growth: N with C^(beta / (alpha + beta)) = C^0.75.
    surface = LossSurface(E=1.0, A=10.0, B=10.0, alpha=0.1, beta=0.3)
    small, large = best_split(surface, 1e18), best_split(surface, 1e20)
    assert large.parameters / small.parameters == pytest.approx(100**0.75)


@pytest.mark.parametrize(
    ("surface", "flops"),
    [
        (SURFACE, 1.0),
        (LossSurface(E=1.0, A=9.0, B=1.0, alpha=1e-4, beta=1e-4), 1e20),  # exp(10,000) overflows
        (LossSurface(E=1.0, A=1.0, B=9.0, alpha=1e-4, beta=1e-4), 1e20),
        (LossSurface(E=1.0, A=1e200, B=1e-200, alpha=2.0, beta=1e-3), 1e20),  # A / B overflows
        (SURFACE, 5e-324),  # a sixth of it is 0
    ],
)
def test_less_than_one_parameter_or_token_is_no_split(surface: LossSurface, flops: float) -> None:
    with pytest.raises(ValueError, match="less than one parameter or one token"):
        best_split(surface, flops)


def test_a_surface_that_does_not_fall_has_no_best_split() -> None:
    flat = LossSurface(E=1.0, A=1.0, B=1.0, alpha=-0.1, beta=0.3)
    with pytest.raises(ValueError, match="no best split"):
        best_split(flat, 1e20)


@pytest.mark.parametrize("position", ["rotary", "learned"])
@pytest.mark.parametrize("tied", [True, False])
def test_n_counts_what_is_multiplied(tied: bool, position: str) -> None:
    config = ModelConfig(
        vocab_size=50, context_length=12, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1,
        d_ff=24, tie_embeddings=tied, position=position,
    )  # fmt: skip
    model = TransformerLM(config)
    looked_up = [] if tied else ["token_embedding.weight"]
    looked_up += ["position_embedding.weight"] if position == "learned" else []
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert multiplied_parameters(config) == sum(sizes.values()) - sum(sizes[n] for n in looked_up)
