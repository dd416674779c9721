"""Reasons, in words, why a table of runs does not determine the surface that was fitted to it.

A fit always returns some surface. These checks ask whether the runs determine it: do they span
sizes and tokens, does the loss fall with both, does the surface pass through the runs, and are the
five numbers in a plausible range, also in the bootstraps?

What this leaves out: probabilities; badly trained runs may still look like a law and raise no
doubt.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import numpy as np

from scaling_laws.loss_surface import LossSurface, predict_loss
from scaling_laws.small_runs.runs_csv import FinishedRun

ENOUGH_RUNS = 8  # that differ in size or tokens
SMALLEST_SPAN = 2.0  # largest size divided by the smallest; the same for tokens
SMALLEST_E = 0.01  # as a share of the lowest loss
EXPONENTS = (0.05, 1.5)
LARGEST_MISS = 0.03  # as a share of the loss, for nine runs in ten
FARTHER_APART = 1.5  # closer sizes are merged: noise alone could make the loss rise between them
SMALLEST_RISE = 1e-3  # as a share of the loss; less is noise
RISING_PAIRS = 0.1  # share of all pairs of neighbours that may rise by chance
# quantity -> (the other quantity, its name in a sentence, exponent)
AXES = {"parameters": ("tokens", "size", "alpha"), "tokens": ("parameters", "tokens", "beta")}


def doubts_about(surface: LossSurface, runs: list[FinishedRun]) -> list[str]:
    """Return all doubts about the surface, the most obvious first; empty if there are none."""
    miss = largest_miss(surface, runs)
    places = len({(run.parameters, run.tokens) for run in runs})
    found = []
    if places < ENOUGH_RUNS:
        found.append(
            f"{places} runs are barely more than the five unknowns: a surface fits them whatever "
            "their losses are"
        )
    found += [doubt for quantity in AXES for doubt in _about_axis(surface, runs, quantity, miss)]
    found += rising_losses(runs) + _one_line_of_runs(runs)
    if miss > LARGEST_MISS and not any(_miss(miss) in doubt for doubt in found):
        found.append(_miss(miss))
    for name in ("alpha", "beta"):
        found += _about_exponent(surface, name)
    return found + _about_E(surface, min(run.loss for run in runs))


def _miss(miss: float) -> str:
    return f"one run in ten is {miss:.1%} or more off the surface"


def largest_miss(surface: LossSurface, runs: list[FinishedRun]) -> float:
    """Return the distance of the runs from the surface as a share of their loss.

    It is the 90th percentile, which one bad run among many does not change.
    """
    predicted = np.array([predict_loss(surface, run.parameters, run.tokens) for run in runs])
    measured = np.array([run.loss for run in runs])
    return float(np.percentile(np.abs(np.log(predicted) - np.log(measured)), 90))


def _one_line_of_runs(runs: list[FinishedRun]) -> list[str]:
    """Return a doubt if tokens grow with size by one rule, such as 20 per parameter.

    The two terms then fall together, and the table cannot show which of them a loss comes from,
    although a surface fits it.
    """
    sizes, tokens = np.log([[run.parameters, run.tokens] for run in runs]).T
    centred = sizes - sizes.mean()
    slope = (centred * tokens).sum() / max((centred**2).sum(), 1e-30)
    beside = np.exp(np.ptp(tokens - slope * centred))
    if slope <= 0 or beside >= SMALLEST_SPAN:
        return []
    return [
        f"tokens grow with size by one rule (within a factor of {beside:.3g}), so that the two "
        "cannot be told apart: train the same sizes on other numbers of tokens, too"
    ]


def rising_losses(runs: list[FinishedRun]) -> list[str]:
    """Return a sentence for each axis along which the loss rises between neighbours.

    Neighbours are runs with the same value of the other quantity. Tables without such runs raise no
    doubt here.
    """
    found = []
    for quantity, (other, name, _) in AXES.items():
        pairs = list(_neighbours(runs, quantity, other))
        rising = [pair for pair in pairs if pair[2][1] > (1 + SMALLEST_RISE) * pair[1][1]]
        if len(rising) > RISING_PAIRS * len(pairs):
            at, before, after = max(rising, key=lambda pair: pair[2][1] / pair[1][1])
            found.append(
                f"the loss does not always fall with {name}: at {_count(at)} {other} it rises from "
                f"{before[1]:.4g} to {after[1]:.4g} between {_count(before[0])} and "
                f"{_count(after[0])} {quantity} ({len(rising)} of {len(pairs)} such pairs rise)"
            )
    return found


def _neighbours(
    runs: list[FinishedRun], quantity: str, other: str
) -> Iterator[tuple[float, tuple[float, float], tuple[float, float]]]:
    """Return (the common value, (quantity, loss) of the smaller, the same of the next larger)."""
    losses: dict[float, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        losses[getattr(run, other)][getattr(run, quantity)].append(run.loss)
    for at, row in losses.items():
        points = sorted((value, median(repeated)) for value, repeated in row.items())
        yield from ((at, before, after) for before, after in pairwise(_taken_together(points)))


def _taken_together(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the medians of (quantity, loss) over points less than a factor of FARTHER_APART
    apart.
    """
    groups: list[list[tuple[float, float]]] = []
    for point in points:
        if groups and point[0] < FARTHER_APART * groups[-1][0][0]:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [(median(v for v, _ in group), median(loss for _, loss in group)) for group in groups]


def _count(value: float) -> str:
    """Format parameters or tokens, which a table may give in billions."""
    return f"{value:,.0f}" if 100 <= value < 1e12 else f"{value:.3g}"


def _about_axis(
    surface: LossSurface, runs: list[FinishedRun], quantity: str, miss: float
) -> list[str]:
    """Return a doubt if the table does not span this axis, or the surface does not fall along
    it.
    """
    other, name, _ = AXES[quantity]
    values = [getattr(run, quantity) for run in runs]
    span = max(values) / min(values)
    if span < SMALLEST_SPAN:
        return [f"the largest number of {quantity} is only {span:.3g} times the smallest"]
    middle = float(np.exp(np.mean(np.log([getattr(run, other) for run in runs]))))
    first, last = (
        predict_loss(surface, **{quantity: value, other: middle})
        for value in (min(values), max(values))
    )
    fall = 1 - last / first
    if fall > max(2 * miss, 1e-3):
        return []
    return [
        f"the loss hardly falls with {name}: by {fall:.1%} from the smallest to the largest, while "
        + _miss(miss)
    ]


def _about_exponent(surface: LossSurface, name: str) -> list[str]:
    value = getattr(surface, name)
    low, high = surface.intervals.get(name, (value, value))
    what = "sizes" if name == "alpha" else "token counts"
    if not EXPONENTS[0] <= value <= EXPONENTS[1]:
        return [f"{name} came to {value:.2g}, outside the range of published laws: use more {what}"]
    if EXPONENTS[0] < low <= high < EXPONENTS[1]:
        return []
    return [f"{name} may be anything from {low:.2g} to {high:.2g}: vary the {what} more widely"]


def _about_E(surface: LossSurface, lowest_loss: float) -> list[str]:
    smallest = SMALLEST_E * lowest_loss
    if smallest > surface.E:
        return [
            f"E fell to {surface.E:.2g}, as if there were no irreducible loss: the runs are too "
            "small or too short to show it, and predictions far from them fail"
        ]
    low, high = surface.intervals.get("E", (surface.E, surface.E))
    if low < smallest:
        return [f"E may be anything from {low:.2g} to {high:.2g}: use larger and longer runs"]
    return []
