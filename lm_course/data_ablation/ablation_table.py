"""The result of `lm data ablate` in figures, as a table and as a picture.

A difference is that of two runs with the same seed, which begin with the same weights: without the
filter minus with it. Its interval is Student's, over the seeds. What this leaves out: the chance
that lies in the choice of the held-out pages, which is the same for all variants.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lm_core.artifact_paths import atomic_file

LEVEL = 0.95
SETS = ("clean", "unfiltered")
OF_A_SET = ("difference", "95 % interval")
COLUMNS = ("left out", "documents", "tokens", "epochs")
COLUMNS += ("clean", *OF_A_SET, "unfiltered", *OF_A_SET)
NOTES = (
    "Bits per byte, mean and standard deviation over the seeds. Clean: held-out pages that all "
    "filters keep; unfiltered: the text of all held-out pages. Difference: without the filter "
    "minus with it, so above 0 the filter helps; the interval is Student's, over pairs of runs "
    "with the same seed. Documents and tokens: for training; epochs: how often a run reads them."
)


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's interval for the mean of the differences; None for fewer than two.

    >>> [round(bound, 3) for bound in interval([0.1, 0.2, 0.3])]
    [-0.048, 0.448]
    """
    if len(differences) < 2:
        return None
    from scipy.stats import t

    quantile = float(t.ppf((1 + LEVEL) / 2, len(differences) - 1))
    half = quantile * stdev(differences) / math.sqrt(len(differences))
    return mean(differences) - half, mean(differences) + half


def figures_of(
    runs: Sequence[dict[str, float]], full: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """Return, for each held-out set, the mean of a variant's runs, their standard deviation (None
    for one run), the difference from the full pipeline, and its interval or None.

    Args:
        runs: of the variant, one for each seed: {"clean": bits per byte, "unfiltered": ...}.
        full: those of the full pipeline, with the same seeds in the same order.
    """
    found = {}
    for name in SETS:
        values = [run[name] for run in runs]
        pairs = zip(values, [run[name] for run in full], strict=True)
        differences = [value - other for value, other in pairs]
        found[name] = {
            "mean": mean(values),
            "standard_deviation": stdev(values) if len(values) > 1 else None,
            "difference": mean(differences),
            "interval": interval(differences),
        }
    return found


def table_rows(variants: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the table, a row for each variant, in the order of COLUMNS.

    Args:
        variants: those of ablation.json; the first is the full pipeline.
    """
    rows = []
    for number, variant in enumerate(variants):
        row = [variant["left_out"], f"{variant['documents']:,}", f"{variant['tokens']:,}"]
        row.append(f"{variant['epochs']:.2f}")
        for name in SETS:
            figures = variant[name]
            spread = figures["standard_deviation"]
            row.append(f"{figures['mean']:.4f}" + ("" if spread is None else f" ± {spread:.4f}"))
            row.append("" if number == 0 else f"{figures['difference']:+.4f}")
            low_high = None if number == 0 else figures["interval"]
            row.append("" if low_high is None else f"{low_high[0]:+.4f} to {low_high[1]:+.4f}")
        rows.append(row)
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return the table as Markdown."""
    lines = [COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw_differences(variants: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw each variant's difference and interval, one panel for each held-out set.

    Args:
        variants: those of ablation.json; the first is the full pipeline.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    rows = variants[1:]
    figure = Figure(figsize=(10, 1.6 + 0.4 * len(rows)), layout="constrained", dpi=150)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, SETS, strict=True):
        axes.axvline(0, color="#8a8f98", linewidth=1)
        for place, variant in enumerate(rows):
            figures = variant[name]
            bounds = figures["interval"]
            if bounds is not None:
                axes.plot(bounds, [place, place], color="#3b82f6", linewidth=2)
            axes.plot(figures["difference"], place, "o", color="#3b82f6")
            for run, full in zip(variant["runs"], variants[0]["runs"], strict=True):
                axes.plot(run[name] - full[name], place, "|", color="#f97316", markersize=9)
        axes.set(title=f"{name} held-out pages", xlabel="bits per byte without it, minus with it")
        axes.grid(color="#8a8f9833")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [variant["left_out"] for variant in rows])
    panels[0].invert_yaxis()
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format="png")
