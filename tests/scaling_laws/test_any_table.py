"""Every table of runs gives either a fit with finite numbers or a one-line error."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_core.user_error import UserError
from scaling_laws.compute_budget import best_split
from scaling_laws.loss_surface import NAMES, LossSurface, predict_loss
from scaling_laws.parametric_fit import LARGEST_EXPONENT, fit_surface
from scaling_laws.small_runs.runs_csv import FinishedRun, read_runs_csv

# A fit calls small functions tens of thousands of times; test_parametric_fit.py checks their types.
pytestmark = pytest.mark.usefixtures("unchecked_types")

USABLE = st.floats(1e-30, 1e30)
NUMBERS = st.one_of(
    st.floats(),  # NaN, infinity, zero, negative, 1e300, the smallest float
    st.integers(-(10**400), 10**400),
    USABLE,
)
LOSSES = st.one_of(
    st.floats(1.0, 9.0), st.sampled_from([1e-9, 3.0, 3.0 + 1e-9, 1e30, 1e-30]), USABLE
)
SIZES = st.one_of(st.sampled_from([1e5, 1e5 + 1, 2e5, 4e5, 1e9]), st.integers(1, 10**12), USABLE)


def tables(sizes, losses, most: int = 12):
    return st.lists(st.builds(FinishedRun, sizes, sizes, losses), min_size=6, max_size=most)


def assert_fit_or_line(runs: list[FinishedRun]) -> LossSurface | None:
    try:
        fit = fit_surface(runs, num_refined=3, num_bootstraps=2)
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600
        return None
    json.dumps([*(getattr(fit, name) for name in NAMES), fit.intervals], allow_nan=False)
    assert 0 <= fit.alpha <= LARGEST_EXPONENT
    assert 0 <= fit.beta <= LARGEST_EXPONENT
    assert min(fit.E, fit.A, fit.B) > 0
    assert all("\n" not in doubt and "nan" not in doubt for doubt in fit.doubts)
    largest = max(run.loss for run in runs), max(run.parameters for run in runs)
    for n, d in ((run.parameters, run.tokens) for run in runs):
        assert math.isfinite(predict_loss(fit, n, d))
        assert all(map(math.isfinite, fit.prediction_interval(n, d)))
    assert math.isfinite(predict_loss(fit, largest[1], 1.0))
    for flops in (1.0, 1e20, 1e45):
        try:
            split = best_split(fit, flops)
        except UserError:
            continue
        assert all(map(math.isfinite, vars(split).values()))
    return fit


# Warnings are errors here as everywhere.
SLOWLY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOWLY
@given(tables(SIZES, LOSSES))
def test_usable_numbers_of_every_kind(runs: list[FinishedRun]) -> None:
    assert_fit_or_line(runs)


@SLOWLY
@given(tables(NUMBERS, NUMBERS))
def test_numbers_that_no_run_has(runs: list[FinishedRun]) -> None:
    assert_fit_or_line(runs)


@SLOWLY
@given(
    st.lists(st.floats(1e4, 1e12), min_size=2, max_size=4, unique=True),
    st.lists(st.floats(1e4, 1e13), min_size=2, max_size=4, unique=True),
    st.sampled_from(["constant", "rising", "outlier", "step", "noise", "duplicates"]),
    st.integers(0, 10**6),
)
def test_grids_that_sweeps_leave(sizes, tokens, kind: str, seed: int) -> None:
    def loss(n: float, d: float, index: int) -> float:
        good = 1.7 + 400 / n**0.34 + 1500 / d**0.37
        return {
            "constant": 4.0,
            "rising": (n * d) ** 0.05,
            "outlier": good * (1e6 if index == seed % (len(sizes) * len(tokens)) else 1),
            "step": 5.0 if n < max(sizes) else 3.0,
            "noise": 3 + (hash((n, d, seed)) % 1000) / 500,
            "duplicates": good,
        }[kind]

    points = [(n, d) for n in sizes for d in tokens]
    runs = [FinishedRun(n, d, loss(n, d, index)) for index, (n, d) in enumerate(points)]
    runs *= 2 if kind == "duplicates" else 1
    fit = assert_fit_or_line(runs)
    if fit is not None and kind in ("constant", "rising", "step"):
        assert not fit.settled


CELLS = st.one_of(
    st.floats(1, 1e9).map(repr),
    st.sampled_from(
        ["1e5", "2e5", "3", "4", "nan", "inf", "-1", "0", "", '"', "1e300", "1e-320", "1,5", "x"]
    ),
    st.text(max_size=4),
)


@SLOWLY
@given(st.lists(st.lists(CELLS, min_size=3, max_size=4), min_size=6, max_size=9))
def test_any_file(tmp_path_factory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    lines = ["N,D,loss", *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    assert_line_or_table(path)


@SLOWLY
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    path.write_bytes(b"N,D,loss\n" + content)
    assert_line_or_table(path)


def assert_line_or_table(path: Path) -> None:
    try:
        runs = read_runs_csv(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert_fit_or_line(runs)


def test_a_cell_longer_than_the_csv_module_reads(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("N,D,loss\n1,2," + "3" * 200_000)
    with pytest.raises(UserError, match=r"line 2: not a line of CSV: field larger than"):
        read_runs_csv(tmp_path / "runs.csv")
