"""The report's plots, drawn by matplotlib as SVG text for the page, readable on light and dark.

Each function takes plain rows and returns `<svg>` elements, one per plot. The page (report.css)
sets the colour of a plot's text. It also shows each plot at about the width that it was drawn for,
whatever the width of the window, so that the text keeps its size. What this leaves out:
interaction.
"""

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.4, 2.9  # inches; report.css gives a plot at least 300 of its 317 points
FONT_SIZE = 12  # points, and so about as many pixels in the page
BLUE, ORANGE, GREEN, GREY = "#3b82f6", "#f97316", "#10b981", "#8a8f98"
Rows = Sequence[dict[str, Any]]


@contextmanager
def svg_figure(height: float = HEIGHT) -> Iterator[tuple["Axes", list[str]]]:
    """Yield axes to draw on, and a list that holds the SVG text once the block has ended."""
    import matplotlib

    style = {
        "svg.fonttype": "none",  # text stays text: selectable, and in the page's own font
        "svg.hashsalt": "report",  # the same plot gives the same bytes
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "legend.fontsize": FONT_SIZE,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "axes.titlecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#8a8f9833",
        "legend.frameon": False,
        "legend.labelcolor": GREY,
    }
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        result: list[str] = []
        yield axes, result
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        svg = text.getvalue()[text.getvalue().index("<svg") :]
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
        result.append(re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1))


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Return the exponential moving average, bias-corrected as Adam corrects its moments."""
    result, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append(mean / (1 - weight**count))
    return result


def _plain_log_ticks(axes: "Axes") -> None:
    """Label the axis 30k, 100k, 300k: the exponents of powers of ten would be too small to read."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def unique_ids(svg: str, prefix: str) -> str:
    """Make the ids unique, because several plots share one page."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return re.sub(r"url\(#", f"url(#{prefix}-", svg)


def training_curves(rows: Rows, name: str, validation: str, validation_label: str) -> str:
    """Plot the training loss, the validation figure and the learning rate over steps.

    Args:
        rows: metrics rows of one stage; the row of step 0 has no "loss".
        name: the stage; also makes the ids in the SVG unique.
        validation: the key of the validation figure, such as "validation_bits_per_byte".
        validation_label: its axis label.
    """
    trained = [row for row in rows if "loss" in row]
    validated = [row for row in rows if row.get(validation) is not None]
    steps = [row["step"] for row in trained]
    with svg_figure() as (axes, loss):
        losses = [row["loss"] for row in trained]
        axes.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(losses), color=BLUE, linewidth=1.6)
        axes.set(title="training loss", xlabel="step")
    with svg_figure() as (axes, checked):
        points = [row["step"] for row in validated], [row[validation] for row in validated]
        axes.plot(*points, color=ORANGE, marker="o", markersize=3.5, linewidth=1.4)
        axes.set(title=validation_label, xlabel="step")
    with svg_figure() as (axes, rate):
        axes.plot(steps, [row["learning_rate"] for row in trained], color=GREEN)
        axes.set(title="learning rate", xlabel="step")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    plots = enumerate([*loss, *checked, *rate])
    return "".join(unique_ids(svg, f"{name}-{number}") for number, svg in plots)


def length_histogram(documents: Mapping[int, int]) -> str:
    """Plot how many documents have which length.

    Args:
        documents: exponent -> documents of 2^exponent bytes or more, but fewer than twice that.
    """
    from matplotlib.ticker import EngFormatter, LogLocator

    edges = [2.0**exponent for exponent in range(min(documents), max(documents) + 2)]
    counts = [documents.get(exponent, 0) for exponent in range(min(documents), max(documents) + 1)]
    with svg_figure() as (axes, result):
        axes.stairs(counts, edges, fill=True, color=BLUE)
        axes.set(title="documents by length", xlabel="bytes of text", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    return unique_ids(result[0], "length")


def language_bars(documents: Mapping[str, int]) -> str:
    """Plot the documents of each language, the most frequent first; those after the eighth are
    summed.
    """
    from matplotlib.ticker import EngFormatter

    frequent = sorted(documents.items(), key=lambda item: -item[1])
    bars = dict(frequent[:8])
    if others := sum(number for _, number in frequent[8:]):
        bars[f"{len(frequent) - 8} others"] = others
    with svg_figure() as (axes, result):
        drawn = axes.barh(range(len(bars)), list(bars.values()), color=ORANGE)
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, color=GREY)
        axes.margins(x=0.2)  # for the label of the longest bar
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set(title="documents by language", xlabel="documents")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return unique_ids(result[0], "language")


def compression_curve(points: Sequence[tuple[int, float]]) -> str:
    """Plot bytes per token against the number of merges used."""
    with svg_figure() as (axes, result):
        axes.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=3.5)
        axes.set(title="compression on validation text", xlabel="merges", ylabel="bytes per token")
        axes.set_xscale("symlog", linthresh=16)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return unique_ids(result[0], "compression")


def scaling_curves(runs: Rows, fit_curves: Rows, main_run: dict[str, Any] | None) -> str:
    """Plot the validation loss of the small runs against tokens, one colour per size, with the
    fitted surface as lines and the main run.

    Args:
        runs: rows with "parameters", "tokens", "loss".
        fit_curves: rows with "parameters", "tokens" (list) and "loss" (list): the fit along each
            size; empty if no surface was fitted.
        main_run: "tokens", "loss", "predicted" (or None) of the main run; None if there is none.
    """
    colours = itertools.cycle([BLUE, ORANGE, GREEN, "#a855f7", "#eab308"])
    colour_of = dict(zip(sorted({row["parameters"] for row in runs}), colours, strict=False))
    with svg_figure(height=3.2) as (axes, result):
        for size, colour in colour_of.items():
            mine = [row for row in runs if row["parameters"] == size]
            points = [row["tokens"] for row in mine], [row["loss"] for row in mine]
            axes.plot(*points, "o", color=colour, markersize=4, label=f"{size / 1e6:.2f} M")
        for curve in fit_curves:
            colour = colour_of[curve["parameters"]]
            axes.plot(curve["tokens"], curve["loss"], color=colour, linewidth=1)
        if main_run is not None:
            for key, marker, size, label in (
                ("loss", "*", 11, "main run"),
                ("predicted", "x", 7, "predicted"),
            ):
                if main_run[key] is not None:
                    place = [main_run["tokens"]], [main_run[key]]
                    axes.plot(*place, marker, color="#ef4444", markersize=size, label=label)
        axes.set(xscale="log", xlabel="training tokens", title="validation loss, nats per token")
        _plain_log_ticks(axes)
        axes.legend()
    return unique_ids(result[0], "scaling")
