"""Figures of a classifier on texts that it was not trained on, with intervals and the figures of
chance.

Precision, recall: Wilson's score interval (Wilson 1927), which stays within [0, 1] and does not
shrink to a point at 100 %. ROC-AUC: the probability that a good text scores higher than a poor one,
with ties as one half (Hanley and McNeil 1982); its interval comes from resampling (Efron 1979).

What this leaves out: texts that are alike without being equal. Where pages share a template, the
figures are too high for pages of other sites.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_core.user_error import UserError

Z_95 = 1.959964  # 97.5 % of a normal distribution lie below it
RESAMPLES = 500


@dataclass(frozen=True)
class Figure:
    """A figure, the ends of its 95 % interval, and what a classifier that guesses would reach."""

    value: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class HeldOutReport:
    """Counts of held-out texts, and the figures at a threshold (ROC-AUC: at all thresholds)."""

    num_texts: int
    num_good: int
    num_kept: int
    threshold: float
    precision: Figure
    recall: Figure
    f1: Figure
    roc_auc: Figure


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share; (0, 1) if there are no trials.

    >>> [round(end, 4) for end in wilson_interval(9, 10)]
    [0.5958, 0.9821]
    """
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, Z_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    half = Z_95 * spread / (1 + square / trials)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def roc_auc(probabilities: Sequence[float], is_good: Sequence[bool]) -> float:
    """Return the share of (good, poor) pairs in which the good text scores higher; ties count half.

    >>> roc_auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    0.875

    Raises:
        UserError: the texts are all good or all poor.
    """
    scores, good = np.asarray(probabilities, dtype=float), np.asarray(is_good, dtype=bool)
    if good.all() or not good.any():
        raise UserError("expected good and poor texts among those held out, found one kind only")
    poor_scores = np.sort(scores[~good])
    below = np.searchsorted(poor_scores, scores[good], side="left")
    not_above = np.searchsorted(poor_scores, scores[good], side="right")
    return float((below + not_above).mean() / (2 * len(poor_scores)))


def _resampled(
    probabilities: Sequence[float], is_good: Sequence[bool], threshold: float, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the 95 % intervals of ROC-AUC and F1, resampling good and poor texts separately."""
    scores, good = np.asarray(probabilities, dtype=float), np.asarray(is_good, dtype=bool)
    draw = np.random.default_rng(seed)
    positives, negatives = np.flatnonzero(good), np.flatnonzero(~good)
    areas, f1_values = [], []
    for _ in range(RESAMPLES):
        sample = np.concatenate(
            [draw.choice(positives, len(positives)), draw.choice(negatives, len(negatives))]
        )
        areas.append(roc_auc(scores[sample], good[sample]))
        kept = scores[sample] >= threshold
        f1_values.append(2 * (kept & good[sample]).sum() / (kept.sum() + len(positives)))
    ends = [np.percentile(values, [2.5, 97.5]) for values in (areas, f1_values)]
    return (float(ends[0][0]), float(ends[0][1])), (float(ends[1][0]), float(ends[1][1]))


def held_out_report(
    probabilities: Sequence[float], is_good: Sequence[bool], threshold: float, seed: int = 0
) -> HeldOutReport:
    """Return precision, recall, F1 and ROC-AUC on held-out texts.

    Chance is a classifier that ignores the text and keeps as large a share: its precision is the
    share of good texts, its recall the share that is kept, its ROC-AUC 0.5. If nothing is kept,
    precision is 0.

    Args:
        probabilities: of being good, one for each text, 0..1.
        is_good: the truth.
        threshold: texts with at least this probability are kept.
        seed: of the resampling.

    Raises:
        UserError: lists of different lengths, or texts of one kind only.
    """
    if len(probabilities) != len(is_good):
        raise UserError(f"{len(probabilities)} probabilities for {len(is_good)} texts")
    area = roc_auc(probabilities, is_good)
    area_ends, f1_ends = _resampled(probabilities, is_good, threshold, seed)
    kept = [good for p, good in zip(probabilities, is_good, strict=True) if p >= threshold]
    num_texts, num_good, found = len(is_good), sum(is_good), sum(kept)
    share_good, share_kept = num_good / num_texts, len(kept) / num_texts
    precision = found / len(kept) if kept else 0.0
    recall = found / num_good
    chance = 2 * share_good * share_kept / (share_good + share_kept)
    return HeldOutReport(
        num_texts,
        num_good,
        len(kept),
        threshold,
        Figure(precision, *wilson_interval(found, len(kept)), share_good),
        Figure(recall, *wilson_interval(found, num_good), share_kept),
        Figure(2 * found / (len(kept) + num_good), *f1_ends, chance),
        Figure(area, *area_ends, 0.5),
    )
