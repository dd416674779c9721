"""Means, differences and intervals of the runs, and how they are shown."""

import math
from pathlib import Path

import matplotlib.image
import pytest
from scipy.stats import ttest_rel

from lm_course.data_ablation.ablation_table import (
    COLUMNS,
    draw_differences,
    figures_of,
    interval,
    markdown_table,
    table_rows,
)

FULL = [{"seed": n, "clean": 2.0 + n, "unfiltered": 3.0} for n in range(3)]
RUNS = [{"seed": n, "clean": 2.1 + n + n / 10, "unfiltered": 2.9} for n in range(3)]


def variant(left_out: str, runs: list[dict[str, float]]) -> dict[str, object]:
    sizes = {"documents": 1234, "tokens": 56_789, "epochs": 1.5}
    return {"left_out": left_out, **sizes, "runs": runs, **figures_of(runs, FULL)}


def test_pairs_have_the_same_seed() -> None:
    clean = figures_of(RUNS, FULL)["clean"]
    assert clean["mean"] == pytest.approx(3.2)
    assert clean["standard_deviation"] == pytest.approx(1.1)
    assert clean["difference"] == pytest.approx(0.2)
    pairs = [[run["clean"] for run in runs] for runs in (RUNS, FULL)]
    expected = ttest_rel(*pairs).confidence_interval(0.95)
    assert clean["interval"] == pytest.approx([expected.low, expected.high])
    assert clean["interval"][0] < 0.2 < clean["interval"][1]


def test_one_run_has_no_interval() -> None:
    found = figures_of(RUNS[:1], FULL[:1])["unfiltered"]
    assert found["interval"] is None and found["standard_deviation"] is None
    assert interval([0.5]) is None
    assert interval([0.5, 0.5]) == (0.5, 0.5)


def test_the_full_pipeline_is_compared_with_nothing() -> None:
    rows = table_rows([variant("nothing", FULL), variant("near duplicates", RUNS)])
    assert rows[0][:7] == ["nothing", "1,234", "56,789", "1.50", "3.0000 ± 1.0000", "", ""]
    assert rows[1][4:8] == [
        "3.2000 ± 1.1000", "+0.2000", "-0.0484 to +0.4484", "2.9000 ± 0.0000"
    ]  # fmt: skip
    lines = markdown_table(rows).splitlines()
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 1] * 4


def test_a_difference_moves_its_point_in_the_picture(tmp_path: Path) -> None:
    pictures = []
    for shift in (0.0, 0.3):
        runs = [{**run, "clean": run["clean"] + shift * run["seed"]} for run in RUNS]
        draw_differences([variant("nothing", FULL), variant("a", runs)], tmp_path / "a.png")
        pictures.append(matplotlib.image.imread(tmp_path / "a.png"))
    assert not math.isclose(pictures[0].sum(), pictures[1].sum())
