"""The table of `lm scaling fit` shows the fitted surface, and fits a narrow terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from lm_course.commands import scaling_table
from lm_course.commands.scaling_table import print_fit
from scaling_laws.small_runs.runs_csv import FinishedRun, write_runs_csv


@pytest.fixture(autouse=True)
def few_bootstraps(monkeypatch) -> None:
    """Use few bootstraps: a hundred take seconds, and the fit's own tests check the intervals."""
    monkeypatch.setattr(scaling_table, "BOOTSTRAPS", 5)


@pytest.mark.parametrize("width", [60, 100])
def test_the_surface_is_printed(tmp_path, width: int) -> None:
    runs = [
        FinishedRun(n, d, 1.7 + 400 / n**0.35 + 1000 / d**0.35)
        for n in (1e7, 1e8, 1e9)
        for d in (1e8, 1e9, 1e10, 1e11)
    ]
    write_runs_csv(tmp_path / "runs.csv", runs)
    output = io.StringIO()
    print_fit(tmp_path / "runs.csv", 1e21, Console(file=output, width=width))
    text = output.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    for expected in ("12 runs", " 1.7 ", "0.35", "1e+21"):
        assert expected in text
    # 6 N D = 1e21 at its best on this surface, by a search over sizes: N = 2.4e9, D = 6.9e10.
    sizes = np.geomspace(1e8, 1e11, 3001)
    losses = 1.7 + 400 / sizes**0.35 + 1000 / (1e21 / 6 / sizes) ** 0.35
    size = f"{sizes[losses.argmin()]:.1g}"
    row = next(line for line in text.splitlines() if "1e+21" in line)
    assert size[0] == row.split()[3][0], row
    assert f"{losses.min():.3f}" in row


def printed(runs: list[FinishedRun], path, budget: float = 1e21) -> str:
    write_runs_csv(path / "runs.csv", runs)
    output = io.StringIO()
    print_fit(path / "runs.csv", budget, Console(file=output, width=60))
    return " ".join(output.getvalue().split())


def test_runs_on_which_more_data_does_not_help_are_an_ordinary_result(tmp_path) -> None:
    runs = [FinishedRun(n, d, n**0.1 + d**0.05) for n in (1e5, 3e5, 1e6) for d in (1e6, 4e6)]
    text = printed(runs, tmp_path)
    assert "fitted to 6 runs" in text
    assert "These runs do not determine a surface, so no budget is split:" in text
    assert "- the loss does not always fall with size: at 1,000,000 tokens it rises" in text
    assert "best split" not in text


def test_a_budget_near_the_smallest_leaves_out_the_smaller_ones(tmp_path) -> None:
    runs = [
        FinishedRun(n, d, 1.7 + 400 / n**0.35 + 400 / d**0.35)
        for n in (1e7, 1e8, 1e9)
        for d in (1e8, 1e9, 1e10, 1e11)
    ]
    text = printed(runs, tmp_path, budget=6.6)
    assert "6.6 " in text
    assert "0.66 " not in text, "less than one parameter and token"
    with pytest.raises(ValueError, match="less than one parameter or one token"):
        printed(runs, tmp_path, budget=0.1)


def test_a_budget_that_is_none_is_refused_before_the_fit(tmp_path) -> None:
    write_runs_csv(tmp_path / "runs.csv", [FinishedRun(n, 9 * n, 3) for n in range(1, 9)])
    output = io.StringIO()
    with pytest.raises(ValueError, match=r"a positive number of FLOPs, .* got -1"):
        print_fit(tmp_path / "runs.csv", -1.0, Console(file=output))
    assert not output.getvalue()
