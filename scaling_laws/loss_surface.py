"""The loss surface L(N, D) = E + A / N^alpha + B / D^beta, and its value at a point.

N is parameters, D training tokens, L the validation loss in nats per token. E is the loss that no
model can go below, A / N^alpha what a finite model adds, B / D^beta what finite data adds (Hoffmann
et al. 2022, arXiv 2203.15556, equation 10).

The sum is taken over logarithms: with alpha = 2 and N = 1e30, A and N^alpha are both too large for
comfort while their quotient is an ordinary loss. What this leaves out: where the five numbers come
from (parametric_fit.py) and whether to believe them (fit_doubts.py).
"""

import math
from dataclasses import dataclass

import numpy as np

from lm_core.user_error import UserError

NAMES = ("E", "A", "B", "alpha", "beta")
LARGEST_LOG = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True)
class LossSurface:
    """The five numbers, in nats per token, and how they were found.

    Attributes:
        E, A, B, alpha, beta: see the top of this file.
        objective: the sum of Huber losses at the optimum (smaller fits better, for the same runs).
        num_runs: how many runs it was fitted to.
        resampled: the fits to bootstraps of the runs; empty when none were asked for.
        doubts: why the runs do not settle this surface, a sentence each; empty where nothing speaks
            against it.
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
        """Whether the runs decide the surface, so that a budget may be split by it."""
        return not self.doubts

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each of the five names; empty without bootstraps."""
        if not self.resampled:
            return {}
        return {name: _middle([getattr(s, name) for s in self.resampled]) for name in NAMES}

    def prediction_interval(self, parameters: float, tokens: float) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of `predict_loss`; None without bootstraps."""
        if not self.resampled:
            return None
        return _middle([predict_loss(s, parameters, tokens) for s in self.resampled])


def predict_loss(surface: LossSurface, parameters: float, tokens: float) -> float:
    """The loss, in nats per token, of a model of N `parameters` trained on D `tokens`.

    Raises UserError where one of the two is not positive.
    """
    log_loss = np.logaddexp.reduce(_log_terms(surface, parameters, tokens))
    return math.exp(log_loss) if log_loss <= LARGEST_LOG else math.inf


def _log_terms(surface: LossSurface, parameters: float, tokens: float) -> list[float]:
    """The logarithms of E, A / N^alpha and B / D^beta."""
    if not (parameters > 0 and tokens > 0):
        raise UserError(
            f"a loss is predicted for positive numbers of parameters and tokens, got {parameters} "
            f"and {tokens}"
        )
    return [
        _log(surface.E),
        _log(surface.A) - surface.alpha * math.log(parameters),
        _log(surface.B) - surface.beta * math.log(tokens),
    ]


def _log(term: float) -> float:
    """A term may be 0: then it adds nothing."""
    return math.log(term) if term > 0 else -math.inf


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
