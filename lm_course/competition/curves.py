"""The plots of a competition's page, and the step at which validation turned.

What this leaves out: the page (competition_page.py).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_course.report.report_plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    smoothed,
    svg_figure,
    unique_ids,
)

COLOURS = (BLUE, ORANGE, GREEN, "#a855f7", "#eab308", "#ef4444", GREY)
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Turn:
    """Where the validation loss was lowest, among the steps at which it was measured.

    Attributes:
        step: that step.
        lowest: the loss there, in nats per token.
        last_step: the last step.
        end: the loss there.
    """

    step: int
    lowest: float
    last_step: int
    end: float

    @property
    def turned(self) -> bool:
        """Return True if the loss at the end is above the lowest one."""
        return self.end > self.lowest


def validated(rows: Rows) -> Rows:
    """Return the rows with a validation."""
    return [row for row in rows if row.get("validation_loss") is not None]


def turn_of(rows: Rows) -> Turn:
    """Return where the validation loss of a run was lowest; of equal ones, the first."""
    measured = validated(rows)
    lowest = min(measured, key=lambda row: row["validation_loss"])
    last = measured[-1]
    return Turn(lowest["step"], lowest["validation_loss"], last["step"], last["validation_loss"])


def validation_curves(named: Sequence[tuple[str, Rows]]) -> str:
    """Plot the validation loss of all entries against the tokens that they have read."""
    with svg_figure(height=3.4) as (axes, result):
        for (name, rows), colour in zip(named, itertools.cycle(COLOURS), strict=False):
            points = validated(rows)[1:]  # without that of the new model, far above the others
            tokens = [row["tokens"] for row in points]
            losses = [row["validation_loss"] for row in points]
            axes.plot(tokens, losses, color=colour, linewidth=1.6, label=name)
        axes.set(title="validation loss, nats per token", xlabel="tokens read")
        _thousands(axes)
        axes.legend()
    return unique_ids(result[0], "all")


def training_and_validation(name: str, rows: Rows) -> str:
    """Plot an entry's training and validation loss against its steps, with the place where the
    latter was lowest.
    """
    trained = [row for row in rows if "loss" in row]
    points, turn = validated(rows)[1:], turn_of(rows)
    with svg_figure() as (axes, result):
        losses = smoothed([row["loss"] for row in trained])
        axes.plot([row["step"] for row in trained], losses, color=BLUE, label="training")
        axes.plot(
            [row["step"] for row in points],
            [row["validation_loss"] for row in points],
            color=ORANGE,
            label="validation",
        )
        if turn.turned:
            axes.plot([turn.step], [turn.lowest], "o", color=ORANGE, markersize=6)
        axes.set(title=name, xlabel="step")
        _thousands(axes)
        axes.legend()
    return unique_ids(result[0], f"entry-{name}")


def _thousands(axes: Any) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
