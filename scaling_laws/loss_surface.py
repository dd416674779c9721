"""The loss surface L(N, D) = E + A / N^alpha + B / D^beta, and its value at a point.

N is the number of parameters, D the number of training tokens, L the validation loss in nats per
token. E is the irreducible loss, A / N^alpha the loss added by a finite model, and B / D^beta the
loss added by finite data (Hoffmann et al. 2022, arXiv 2203.15556, equation 10).

The sum is computed from logarithms: with alpha = 2 and N = 1e30, A and N^alpha are both extremely
large while their quotient is an ordinary loss.

What this leaves out: how the five numbers are fitted (parametric_fit.py) and whether to believe
them (fit_doubts.py).
"""

import math
from dataclasses import dataclass

import numpy as np

from lm_core.user_error import UserError

NAMES = ("E", "A", "B", "alpha", "beta")
LARGEST_LOG = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True)
class LossSurface:
    """The five numbers of a surface, for losses in nats per token, and how they were fitted.

    Attributes:
        E, A, B, alpha, beta: see the top of this file.
        objective: the sum of Huber losses at the optimum (smaller fits better, for the same runs).
        num_runs: the number of runs it was fitted to.
        resampled: the fits to bootstrap samples of the runs; empty if none were requested.
        doubts: the reasons why the runs do not determine this surface, a sentence each; empty if
            there are none.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    objective: float = 0.0
    num_runs: int = 0
    resampled: tuple["LossSurface", ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the runs determine the surface, so that it may be used to split a budget."""
        return not self.doubts

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each of the five numbers, by name; empty without
        bootstraps.
        """
        if not self.resampled:
            return {}
        return {name: _middle([getattr(s, name) for s in self.resampled]) for name in NAMES}

    def prediction_interval(self, parameters: float, tokens: float) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval of `predict_loss`; None without bootstraps."""
        if not self.resampled:
            return None
        return _middle([predict_loss(s, parameters, tokens) for s in self.resampled])


def predict_loss(surface: LossSurface, parameters: float, tokens: float) -> float:
    """Return the loss, in nats per token, of a model with N `parameters` trained on D `tokens`.

    Raises UserError if one of the two is not positive.
    """
    log_loss = np.logaddexp.reduce(_log_terms(surface, parameters, tokens))
    return math.exp(log_loss) if log_loss <= LARGEST_LOG else math.inf


def _log_terms(surface: LossSurface, parameters: float, tokens: float) -> list[float]:
    """Return the logarithms of E, A / N^alpha and B / D^beta."""
    if not (parameters > 0 and tokens > 0):
        raise UserError(
            f"cannot predict a loss for {parameters} parameters and {tokens} tokens; both must be "
            "positive"
        )
    return [
        _log(surface.E),
        _log(surface.A) - surface.alpha * math.log(parameters),
        _log(surface.B) - surface.beta * math.log(tokens),
    ]


def _log(term: float) -> float:
    """Return the logarithm of a term, which may be 0 and then adds nothing."""
    return math.log(term) if term > 0 else -math.inf


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
