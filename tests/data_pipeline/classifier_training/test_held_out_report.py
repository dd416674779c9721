"""The figures of a report, against counting by hand, scipy, and published intervals."""

import random

import pytest
from scipy.stats import binomtest, mannwhitneyu

from data_pipeline.classifier_training.held_out_report import (
    held_out_report,
    roc_auc,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (9, 10), (10, 10), (50, 200)])
def test_wilson_s_interval_is_scipy_s(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(tuple(expected), abs=1e-6)


def test_no_trials_tell_nothing():
    assert wilson_interval(0, 0) == (0, 1)


def test_the_area_with_ties():
    assert roc_auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == 0.875
    assert roc_auc([0.5] * 4, [True, True, False, False]) == 0.5
    draw = random.Random(0)
    scores = [round(draw.random(), 1) for _ in range(200)]
    good = [draw.random() < score for score in scores]
    pairs = [[s for s, g in zip(scores, good, strict=True) if g is kind] for kind in (True, False)]
    expected = mannwhitneyu(*pairs).statistic / len(pairs[0]) / len(pairs[1])
    assert roc_auc(scores, good) == pytest.approx(expected)


def test_a_report_by_hand():
    report = held_out_report([0.9, 0.8, 0.7, 0.2, 0.1], [True, True, False, True, False], 0.7)
    assert (report.num_texts, report.num_good, report.num_kept) == (5, 3, 3)
    assert report.precision.value == pytest.approx(2 / 3)
    assert report.recall.value == pytest.approx(2 / 3)
    assert report.f1.value == pytest.approx(2 / 3)
    assert report.precision.chance == report.recall.chance == report.f1.chance == 0.6
    assert report.roc_auc.value == pytest.approx(5 / 6)
    for figure in (report.precision, report.recall, report.f1, report.roc_auc):
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert report == held_out_report(
        [0.9, 0.8, 0.7, 0.2, 0.1], [True, True, False, True, False], 0.7
    )


def test_nothing_kept():
    report = held_out_report([0.1, 0.2], [True, False], 0.5)
    assert (report.precision.value, report.precision.low, report.precision.high) == (0, 0, 1)
    assert report.recall.value == report.f1.value == 0


def test_texts_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="found one kind only"):
        held_out_report([0.1, 0.2], [True, True], 0.5)
    with pytest.raises(ValueError, match="1 probabilities for 2 texts"):
        held_out_report([0.1], [True, False], 0.5)
