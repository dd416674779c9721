"""The picture of a load test: how long clients wait, and what the server gets done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lm_core.artifact_paths import atomic_file
from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.load_report import (
    LevelReport,
    Percentiles,
    first_token_seconds,
    gaps_between_pieces,
)
from lm_course.load_test.load_run import LevelRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Callable[[Sequence[RequestRecord]], list[float]]


def _shares(axes: "Axes", runs: Sequence[LevelRun], values: Values, title: str) -> None:
    """Draw which share of the values is at most x, with a line for each level."""
    for run in runs:
        found = np.sort(values(run.records)) * 1000
        if len(found):
            share = np.arange(1, len(found) + 1) / len(found)
            axes.step(found, share, where="post", label=run.level.name)
    axes.set(title=title, xlabel="milliseconds", ylabel="share that is faster", xscale="log")
    axes.set_ylim(0, 1)
    if axes.lines:
        axes.legend(fontsize="small")


def _percentiles(
    axes: "Axes", levels: Sequence[LevelReport], found: Sequence[Percentiles | None]
) -> None:
    """Draw the median, the 95th and the 99th percentile of each level."""
    for name in ("p50", "p95", "p99"):
        values = [np.nan if each is None else getattr(each, name) * 1000 for each in found]
        axes.plot([level.load for level in levels], values, marker="o", label=name)
    axes.set(title="Whole answers", ylabel="milliseconds")
    _from_zero(axes)
    axes.legend(fontsize="small")


def _from_zero(axes: "Axes") -> None:
    """Let the scale begin at 0, with room above the largest value."""
    axes.margins(y=0.1)
    axes.autoscale_view()
    axes.set_ylim(bottom=0)


def draw_picture(path: Path, runs: Sequence[LevelRun], levels: Sequence[LevelReport]) -> None:
    """Write a PNG with four plots."""
    from matplotlib.figure import Figure

    load = "clients" if levels and levels[0].clients is not None else "requests per second"
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (first, gaps), (whole, speed) = figure.subplots(2, 2)
    _shares(first, runs, first_token_seconds, f"Time to first token, by {load}")
    _shares(gaps, runs, gaps_between_pieces, f"Between pieces, by {load}")
    _percentiles(whole, levels, [level.whole_answer for level in levels])
    names = [level.load for level in levels]
    speed.plot(names, [level.output_tokens_per_second for level in levels], marker="o")
    speed.set(title="Tokens of answers", ylabel="tokens per second")
    _from_zero(speed)
    whole.set_xlabel(load)
    speed.set_xlabel(load)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format="png")
