"""Fit the loss surface L(N, D) = E + A / N^alpha + B / D^beta to finished training runs.

The fit is approach 3 of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models",
arXiv 2203.15556, section 3.3 and equation 10; start grid in its appendix D.3):

    minimize  sum over runs of Huber_delta( logsumexp(a - alpha log N, b - beta log D, e) - log L )

with A = exp(a), B = exp(b), E = exp(e), which keeps all three positive, and delta = 1e-3. The
logarithm gives an error of 1 % the same weight at loss 3 as at loss 8. With the Huber loss, the
influence of a bad run is bounded instead of growing with its error. Besiroglu et al. 2024 (arXiv
2404.10102) show that the sum, not the mean, must be minimized: with the mean, the optimizer's
tolerance stops it early.

Some tables have no best fit: if the loss rises with size, or falls in a step, the optimum is at an
infinite alpha. So the unknowns are bounded by a box, wide enough for every published law, and a
surface that ends at the bounds is marked as not determined by the runs (fit_doubts.py).

What this leaves out: other laws (repeated data, learning-rate terms), and the choice of runs.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lm_core.user_error import UserError
from scaling_laws.loss_surface import LossSurface
from scaling_laws.small_runs.fit_doubts import doubts_about
from scaling_laws.small_runs.runs_csv import FEWEST_RUNS, FinishedRun, is_usable, usable_range

HUBER_DELTA = 1e-3
BOOTSTRAPS = 100  # of `lm scaling fit` and of a recipe: the same runs give the same answer
LARGEST_EXPONENT = 2.0  # published ones are between 0.05 and 1
# The grid of the paper: 6 * 6 * 5 * 5 * 5 = 4,500 starts (a, b, e, alpha, beta).
START_GRID = (
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    (-1.0, -0.5, 0.0, 0.5, 1.0),
    (0.0, 0.5, 1.0, 1.5, 2.0),
    (0.0, 0.5, 1.0, 1.5, 2.0),
)
RUNS_TO_CHOOSE_ON = 1000  # in a longer table, this many decide which start is the best
# Starts are compared after this many iterations, and only the best few are refined to their end. On
# five tables (the published one, four of small runs) that gives the optimum of the best of 32
# refined in full. On the small ones it takes a quarter to a third of the evaluations.
FIRST_ITERATIONS = 60
REFINED_IN_FULL = 5
MOST_ITERATIONS = 1000
NUMBERS_AT_ONCE = 2**20  # scores computed at a time, for all starts; more would take gigabytes


def log_surface(
    unknowns: Float[ndarray, "*starts 5"], log_sizes: Float[ndarray, "runs 2"]
) -> tuple[Float[ndarray, "*starts runs"], Float[ndarray, "3 *starts runs"]]:
    """Return log L of every run under each set of unknowns (a, b, e, alpha, beta), and the share of
    the loss that each of the three terms (size, data, E) has.

    `log_sizes` contains (log N, log D) of each run. The three terms are added in log space, so that
    no power of N is ever formed: exp(25) / N^2 would be fine, exp(25 * 40) would not.
    """
    a, b, e, alpha, beta = (unknowns[..., i, None] for i in range(5))  # each [*starts, 1]
    log_parameters, log_tokens = log_sizes.T
    terms = np.empty((3, *unknowns.shape[:-1], len(log_sizes)))
    terms[0] = a - alpha * log_parameters
    terms[1] = b - beta * log_tokens
    terms[2] = e
    largest = terms.max(axis=0)
    shares = np.exp(terms - largest)
    total = shares.sum(axis=0)
    return largest + np.log(total), shares / total


def huber_objective(
    unknowns: Float[ndarray, "*starts 5"],
    log_sizes: Float[ndarray, "runs 2"],
    log_losses: Float[ndarray, " runs"],
) -> Float[ndarray, "*starts"] | float:
    """Return the sum over runs of Huber_delta(predicted - measured log loss), divided by delta
    squared.

    The division does not change the optimum. It scales values of 1e-4 to about 100, which suits the
    stopping tolerances of an optimizer.
    """
    errors = np.abs(log_surface(unknowns, log_sizes)[0] - log_losses) / HUBER_DELTA
    return np.where(errors <= 1, 0.5 * errors**2, errors - 0.5).sum(axis=-1)


def huber_gradient(
    unknowns: Float[ndarray, " 5"],
    log_sizes: Float[ndarray, "runs 2"],
    log_losses: Float[ndarray, " runs"],
) -> tuple[float, Float[ndarray, " 5"]]:
    """Return `huber_objective` at one point, and its derivative by each unknown.

    The derivative of a logsumexp by one of its terms is that term's share of the sum, and that of
    the Huber loss is the error itself, clipped to plus and minus delta.
    """
    predicted, (size, data, rest) = log_surface(unknowns, log_sizes)
    errors = (predicted - log_losses) / HUBER_DELTA
    pull = np.clip(errors, -1, 1)
    objective = (pull * (errors - 0.5 * pull)).sum()
    log_parameters, log_tokens = log_sizes.T
    columns = np.array([size, data, rest, -size * log_parameters, -data * log_tokens])
    return float(objective), columns @ pull / HUBER_DELTA


def fit_surface(
    runs: list[FinishedRun], num_refined: int = 32, num_bootstraps: int = 0, seed: int = 0
) -> LossSurface:
    """Fit the surface: score all 4,500 starts, refine the best `num_refined` for a few iterations
    and the best of these to their end, and keep the best end.

    With `num_bootstraps` > 0, the runs are resampled with replacement that many times and fitted
    again, starting at the optimum; the results are the surface's `resampled`. Its `doubts` are
    reasons not to believe it. Raises UserError for fewer than six runs, for a number that no run
    can have (NaN, 0, 1e300), and for runs that all have the same size or token count (A / N^alpha
    can then not be distinguished from E).
    """
    _check_runs(runs)
    table = np.array([[run.parameters, run.tokens, run.loss] for run in runs], dtype=np.float64)
    log_sizes, log_losses = np.log(table[:, :2]), np.log(table[:, 2])
    generator = np.random.Generator(np.random.PCG64(seed))
    best = _best_end(log_sizes, log_losses, num_refined, generator)
    objective = float(huber_objective(best, log_sizes, log_losses)) * HUBER_DELTA**2
    resampled = []
    for _ in range(num_bootstraps):
        drawn = generator.integers(len(runs), size=len(runs))
        resampled.append(_surface(refine(best, log_sizes[drawn], log_losses[drawn])))
    surface = replace(
        _surface(best), objective=objective, num_runs=len(runs), resampled=tuple(resampled)
    )
    return replace(surface, doubts=tuple(doubts_about(surface, runs)))


def _best_end(
    log_sizes: Float[ndarray, "runs 2"],
    log_losses: Float[ndarray, " runs"],
    num_refined: int,
    generator: np.random.Generator,
) -> Float[ndarray, " 5"]:
    """Return the best optimum reached from the best starts; a long table is thinned out until the
    last step.
    """
    sizes, losses = log_sizes, log_losses
    if len(losses) > RUNS_TO_CHOOSE_ON:
        kept = generator.choice(len(losses), RUNS_TO_CHOOSE_ON, replace=False)
        sizes, losses = sizes[kept], losses[kept]
    starts = np.array(list(itertools.product(*START_GRID)))
    pieces = np.array_split(starts, math.ceil(len(starts) * len(losses) / NUMBERS_AT_ONCE))
    scores = np.concatenate([huber_objective(piece, sizes, losses) for piece in pieces])

    def objective(unknowns: Float[ndarray, " 5"]) -> float:
        return float(huber_objective(unknowns, sizes, losses))

    chosen = starts[scores.argsort(kind="stable")[:num_refined]]
    begun = [refine(start, sizes, losses, FIRST_ITERATIONS) for start in chosen]
    begun = sorted(begun, key=objective)[:REFINED_IN_FULL]
    best = min((refine(start, sizes, losses) for start in begun), key=objective)
    return best if sizes is log_sizes else refine(best, log_sizes, log_losses)


def refine(
    start: Float[ndarray, " 5"],
    log_sizes: Float[ndarray, "runs 2"],
    log_losses: Float[ndarray, " runs"],
    iterations: int = MOST_ITERATIONS,
) -> Float[ndarray, " 5"]:
    """Minimize from one start with L-BFGS within the box, and return the unknowns reached.

    The sizes are centered first. Because log N is near 20, a change of alpha by 0.1 would otherwise
    require a change of a by 2, and the valley would be too narrow to follow in few steps.
    """
    from scipy.optimize import minimize  # slow: a third of a second

    centre = log_sizes.mean(axis=0)
    unknowns = start.copy()
    unknowns[:2] -= start[3:] * centre  # a - alpha log N = (a - alpha c) - alpha (log N - c)
    box = _box(log_losses)
    result = minimize(
        huber_gradient,
        np.clip(unknowns, *box.T),
        args=(log_sizes - centre, log_losses),
        jac=True,  # the function returns the gradient, too
        method="L-BFGS-B",
        bounds=box,
        options={"maxiter": iterations, "ftol": 1e-13, "gtol": 1e-8, "maxcor": 20},
    )
    end = result.x.copy()
    end[:2] += end[3:] * centre
    return end


def _box(log_losses: Float[ndarray, " runs"]) -> Float[ndarray, "5 2"]:
    """Return the lowest and highest value of each unknown for centered sizes.

    At the middle of the sizes, no term exceeds the highest loss, and e^-30 of the lowest is
    negligible. An E below a thousandth of the lowest loss cannot be distinguished from 0.
    """
    lowest, highest = log_losses.min(), log_losses.max()
    term, floor = (lowest - 30, highest), (lowest - math.log(1000), highest)
    exponent = (0.0, LARGEST_EXPONENT)
    return np.array([term, term, floor, exponent, exponent])


def _surface(unknowns: Float[ndarray, " 5"]) -> LossSurface:
    a, b, e, alpha, beta = (float(unknown) for unknown in unknowns)
    return LossSurface(E=math.exp(e), A=math.exp(a), B=math.exp(b), alpha=alpha, beta=beta)


def _check_runs(runs: list[FinishedRun]) -> None:
    if len(runs) < FEWEST_RUNS:
        raise UserError(f"got {len(runs)} runs, the fit needs at least {FEWEST_RUNS}")
    for number, run in enumerate(runs, start=1):
        for quantity, value in vars(run).items():
            if not is_usable(value):
                raise UserError(f"run {number}: {quantity} must be {usable_range()}, got {value}")
    for quantity in ("parameters", "tokens"):
        if len({getattr(run, quantity) for run in runs}) < 2:
            raise UserError(
                f"all {len(runs)} runs have the same number of {quantity}; vary it, because its "
                "exponent cannot be fitted otherwise"
            )
