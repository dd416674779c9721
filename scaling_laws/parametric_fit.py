"""Fit the loss surface L(N, D) = E + A / N^alpha + B / D^beta to finished training runs.

N is parameters, D training tokens, L the validation loss in nats per token. E is the loss that no
model can go below, A / N^alpha what a finite model adds, B / D^beta what finite data adds.

The fit is approach 3 of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models",
arXiv 2203.15556, section 3.3 and equation 10; start grid in its appendix D.3):

    minimise  sum over runs of Huber_delta( logsumexp(a - alpha log N, b - beta log D, e) - log L )

with A = exp(a), B = exp(b), E = exp(e), which keeps all three positive, and delta = 1e-3. The
logarithm makes an error of 1 % weigh the same at loss 3 as at loss 8; the Huber loss lets a run
that went wrong pull with constant force instead of one that grows with its error.
Besiroglu et al. 2024 (arXiv 2404.10102) show that the sum, not the mean, must be minimised: with
the mean the optimiser's tolerance stops it early.

Left out: other laws (repeated data, learning-rate terms), and the choice of runs.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lm_core.user_error import UserError
from scaling_laws.runs_csv import FEWEST_RUNS, FinishedRun

HUBER_DELTA = 1e-3
SMALLEST_E = 0.01  # nats per token; text that is learned whole would be near it
# The grid of the paper: 6 * 6 * 5 * 5 * 5 = 4,500 starts (a, b, e, alpha, beta).
START_GRID = (
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    (-1.0, -0.5, 0.0, 0.5, 1.0),
    (0.0, 0.5, 1.0, 1.5, 2.0),
    (0.0, 0.5, 1.0, 1.5, 2.0),
)


@dataclass(frozen=True)
class LossSurface:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token, and how it was found.

    `objective` is the sum of Huber losses at the optimum (smaller fits better, for the same runs).
    `intervals` maps each of the five names to its 95 % bootstrap interval; empty when not asked.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    objective: float = 0.0
    num_runs: int = 0
    intervals: dict[str, tuple[float, float]] | None = None

    def doubts(self) -> list[str]:
        """Why the runs do not settle this surface; empty where nothing speaks against it."""
        found = []
        if self.E < SMALLEST_E:
            found.append(
                f"E fell to {self.E:.2g}, as if there were no loss that cannot be learned away: "
                "the runs are too small or too short to see it, and predictions far from them fail"
            )
        for name, (low, high) in (self.intervals or {}).items():
            if name in ("alpha", "beta") and not 0.05 < low <= high < 1.5:
                found.append(
                    f"{name} may be anything from {low:.2g} to {high:.2g}: vary "
                    f"{'the size' if name == 'alpha' else 'the tokens'} more widely"
                )
        return found


def predict_loss(surface: LossSurface, parameters: float, tokens: float) -> float:
    """The loss, in nats per token, of a model of N `parameters` trained on D `tokens`."""
    return surface.E + surface.A / parameters**surface.alpha + surface.B / tokens**surface.beta


def log_surface(
    unknowns: Float[Tensor, "*starts 5"], log_sizes: Float[Tensor, "runs 2"]
) -> Float[Tensor, "*starts runs"]:
    """log L of every run under each set of unknowns (a, b, e, alpha, beta).

    `log_sizes` holds (log N, log D) of each run. The sum of the three terms is taken in log space,
    so that no power of N is ever formed: exp(25) / N^2 would be fine, exp(25 * 40) would not.
    """
    a, b, e, alpha, beta = (column.unsqueeze(-1) for column in unknowns.unbind(-1))
    log_parameters, log_tokens = log_sizes.unbind(-1)
    terms = torch.broadcast_tensors(a - alpha * log_parameters, b - beta * log_tokens, e)
    return torch.logsumexp(torch.stack(terms), dim=0)


def huber_objective(
    unknowns: Float[Tensor, "*starts 5"],
    log_sizes: Float[Tensor, "runs 2"],
    log_losses: Float[Tensor, " runs"],
) -> Float[Tensor, "*starts"]:
    """Sum over runs of Huber_delta(predicted - measured log loss), divided by delta squared.

    The division changes no optimum. It brings values of 1e-4 to about 100, where the stopping
    tolerances of an optimiser mean something.
    """
    errors = (log_surface(unknowns, log_sizes) - log_losses).abs() / HUBER_DELTA
    return torch.where(errors <= 1, 0.5 * errors**2, errors - 0.5).sum(dim=-1)


def fit_surface(
    runs: list[FinishedRun], num_refined: int = 32, num_bootstraps: int = 0, seed: int = 0
) -> LossSurface:
    """Fit the surface: score all 4,500 starts, refine the best `num_refined`, keep the best end.

    With `num_bootstraps` > 0 the runs are drawn again with replacement that many times, fitted from
    the optimum, and the 2.5 and 97.5 percentiles of each unknown become `intervals`.
    Raises ValueError for fewer than six runs, or runs that all have one size or one token count
    (then A / N^alpha cannot be told from E).
    """
    _check_that_runs_vary(runs)
    log_sizes = torch.tensor([[r.parameters, r.tokens] for r in runs], dtype=torch.float64).log()
    log_losses = torch.tensor([r.loss for r in runs], dtype=torch.float64).log()
    starts = torch.tensor(list(itertools.product(*START_GRID)), dtype=torch.float64)
    best_first = huber_objective(starts, log_sizes, log_losses).argsort()
    ends = [refine(starts[i], log_sizes, log_losses) for i in best_first[:num_refined]]
    best, objective = min(ends, key=lambda end: end[1])
    return LossSurface(
        **_named(best),
        objective=objective * HUBER_DELTA**2,
        num_runs=len(runs),
        intervals=_bootstrap(best, log_sizes, log_losses, num_bootstraps, seed),
    )


def refine(
    start: Float[Tensor, " 5"],
    log_sizes: Float[Tensor, "runs 2"],
    log_losses: Float[Tensor, " runs"],
) -> tuple[Float[Tensor, " 5"], float]:
    """Go down from one start with L-BFGS; returns the unknowns reached and the objective there.

    The sizes are centred first: log N is near 20, so that without it a change of alpha by 0.1
    must be met by a change of a by 2, and the valley is too narrow to follow in few steps.
    """
    centre = log_sizes.mean(dim=0)
    unknowns = start.clone()
    unknowns[:2] -= start[3:] * centre  # a - alpha log N = (a - alpha c) - alpha (log N - c)
    unknowns.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [unknowns],
        max_iter=400,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = huber_objective(unknowns, log_sizes - centre, log_losses)
        objective.backward()
        return objective

    optimizer.step(closure)
    end = unknowns.detach().clone()
    end[:2] += end[3:] * centre
    return end, huber_objective(end, log_sizes, log_losses).item()


def _bootstrap(
    best: Float[Tensor, " 5"],
    log_sizes: Float[Tensor, "runs 2"],
    log_losses: Float[Tensor, " runs"],
    num_bootstraps: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    generator = torch.Generator().manual_seed(seed)
    fits: list[dict[str, float]] = []
    for _ in range(num_bootstraps):
        drawn = torch.randint(len(log_losses), (len(log_losses),), generator=generator)
        fits.append(_named(refine(best, log_sizes[drawn], log_losses[drawn])[0]))
    if not fits:
        return {}
    intervals = {}
    for name in fits[0]:
        low, high = np.percentile([fit[name] for fit in fits], [2.5, 97.5])
        intervals[name] = (float(low), float(high))
    return intervals


def _named(unknowns: Float[Tensor, " 5"]) -> dict[str, float]:
    a, b, e, alpha, beta = unknowns
    return {
        "E": e.exp().item(),
        "A": a.exp().item(),
        "B": b.exp().item(),
        "alpha": alpha.item(),
        "beta": beta.item(),
    }


def _check_that_runs_vary(runs: list[FinishedRun]) -> None:
    if len(runs) < FEWEST_RUNS:
        raise UserError(f"got {len(runs)} runs, the fit needs at least {FEWEST_RUNS}")
    for quantity in ("parameters", "tokens"):
        if len({getattr(run, quantity) for run in runs}) < 2:
            raise UserError(
                f"all {len(runs)} runs have the same number of {quantity}: "
                "vary it, or its exponent cannot be found"
            )
