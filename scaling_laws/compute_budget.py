"""Split a compute budget between model size and training tokens, given a fitted loss surface.

Training costs about C = 6 N D floating-point operations: 2 per parameter and token forward, 4
backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Minimizing E + A/N^alpha + B/D^beta
subject to 6 N D = C has a closed form, equation 4 of Hoffmann et al. 2022 (arXiv 2203.15556):

    N_best = G (C/6)^(beta/(alpha+beta)),  D_best = (C/6)^(alpha/(alpha+beta)) / G,
    G = (alpha A / (beta B))^(1/(alpha+beta))

What this leaves out: the operations of attention itself, which 6 N D does not count
(transformer_lm/model_cost.py does), and limits on N or D such as a finite corpus.
"""

import math
from dataclasses import dataclass

from lm_core.user_error import UserError
from scaling_laws.loss_surface import LossSurface, predict_loss
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import parameters_by_part

FLOPS_PER_PARAMETER_AND_TOKEN = 6
LARGEST_BUDGET = 1e45  # far beyond any training run


@dataclass(frozen=True)
class BudgetSplit:
    """The best use of `flops`: N parameters trained on D tokens reach `loss` (nats per token)."""

    flops: float
    parameters: float
    tokens: float
    loss: float


def multiplied_parameters(config: ModelConfig) -> int:
    """Return N of the law: the parameters that cost 6 FLOPs per token, so that C = 6 N D holds.

    These are all parameters except tables that are only looked up: position embeddings, and a token
    embedding that is not also the output head. A tied model and the same model untied therefore
    have the same N.
    """
    parts = dict(parameters_by_part(config))
    looked_up = {"positions"} if config.tie_embeddings else {"positions", "token embedding"}
    return sum(number for part, number in parts.items() if part not in looked_up)


def training_flops(parameters: float, tokens: float) -> float:
    """Return C = 6 N D."""
    return FLOPS_PER_PARAMETER_AND_TOKEN * parameters * tokens


def check_budget(flops: float) -> None:
    """Raise UserError if a budget is not a positive number, or is absurdly large."""
    if not 0 < flops <= LARGEST_BUDGET:
        raise UserError(
            f"the budget must be a positive number of FLOPs, at most {LARGEST_BUDGET:g}, "
            f"got {flops:g}"
        )


def best_split(surface: LossSurface, flops: float) -> BudgetSplit:
    """Return the N and D with 6 N D = `flops` whose predicted loss is smallest.

    Raises ValueError if the budget is not positive, or if the best split has less than one
    parameter or one token. The same holds if the surface's exponents or coefficients are not
    positive, because the loss then does not fall with size or data, and no best split exists.
    """
    check_budget(flops)
    shape = (surface.A, surface.B, surface.alpha, surface.beta)
    if min(shape) <= 0:
        raise UserError(
            "this surface has no best split: A, B, alpha and beta must be positive, got "
            + ", ".join(f"{value:.3g}" for value in shape)
            + "; fit it to more runs, over wider ranges of size and tokens"
        )
    exponent_sum = surface.alpha + surface.beta
    log_product = math.log(flops) - math.log(FLOPS_PER_PARAMETER_AND_TOKEN)  # log (N D)
    log_alpha, log_A, log_beta, log_B = (
        math.log(value) for value in (surface.alpha, surface.A, surface.beta, surface.B)
    )
    log_ratio = log_alpha + log_A - log_beta - log_B
    log_parameters = (log_ratio + surface.beta * log_product) / exponent_sum
    if not 0 <= log_parameters <= log_product:
        raise UserError(
            f"on this surface the best split of {flops:.3g} FLOPs has less than one parameter or "
            "one token; give a larger budget, or fit the surface to more runs"
        )
    parameters = math.exp(log_parameters)
    tokens = math.exp(log_product - log_parameters)
    return BudgetSplit(flops, parameters, tokens, predict_loss(surface, parameters, tokens))
