"""`lm ablate`: train the variants in recipes/ablations/ and draw their loss curves in one plot.

What this leaves out: the training (training/runs/ablation.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lm_core.artifact_paths import atomic_file
from lm_core.formats.metric_log import read_metrics
from lm_course.locations import below_recipes, in_home
from lm_course.report.report_plots import smoothed

ABLATIONS = Path("recipes/ablations")
FIRST = ("default_again", "post_norm", "no_position", "gelu")
PICTURE = "loss_curves.png"
FOLDERS = ("shards", "folder")  # settings


def register(app: typer.Typer) -> None:
    """Add the command to `lm`."""

    @app.command()
    def ablate(
        files: Annotated[
            list[Path] | None,
            typer.Argument(
                help=f"Names of files in {ABLATIONS}, or paths; by default {', '.join(FIRST)}."
            ),
        ] = None,
        overrides: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="SECTION.KEY=VALUE", help="Change one setting in every run."
            ),
        ] = None,
    ) -> None:
        """Train one small model per variant, and compare their loss curves."""
        from lm_course.pipeline.code_hash import code_hashes
        from lm_course.pipeline.run_lock import run_lock
        from training.runs.ablation import load_ablations, run_ablations

        paths = [_file_of(path) for path in files or map(Path, FIRST)]
        ablations = [
            each.model_copy(update={key: str(in_home(getattr(each, key))) for key in FOLDERS})
            for each in load_ablations([below_recipes(path) for path in paths], overrides)
        ]
        with run_lock(Path(ablations[0].folder), "--set folder=FOLDER"):
            results, metrics = run_ablations(ablations, code_hashes("training.runs.ablation"))
        rows = [read_metrics(metrics, result["title"]) for result in results]
        picture = metrics.with_name(PICTURE)
        draw_loss_curves([result["title"] for result in results], rows, picture)
        print_comparison(results, Console())
        print(f"loss curves: {picture}")


def _file_of(given: Path) -> Path:
    """Return the file in recipes/ablations that a name stands for, or a path unchanged."""
    return given if given.suffix or given.parent != Path() else ABLATIONS / f"{given}.toml"


def print_comparison(results: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one row per run; the others are compared with the first."""
    table = Table(box=None, pad_edge=False)
    for column in ("variant", "parameters", "bits per byte", "difference"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    first = results[0].get("bits_per_byte")
    for result in results:
        reached = result.get("bits_per_byte")
        against = ""
        if result is not results[0] and first is not None and reached is not None:
            against = f"{reached - first:+.3f}"
        table.add_row(
            result["title"],
            f"{result['parameters']:,}",
            f"diverged at step {result['diverged_at']}" if reached is None else f"{reached:.3f}",
            against,
        )
    console.print(table)


def draw_loss_curves(
    titles: Sequence[str], rows: Sequence[Sequence[dict[str, Any]]], path: Path
) -> None:
    """Draw the smoothed training loss, and the bits per byte on the validation text.

    Args:
        titles: the runs' titles.
        rows: each run's rows of metrics.jsonl.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    training, validation = figure.subplots(1, 2)
    for title, run in zip(titles, rows, strict=True):
        trained = [row for row in run if "loss" in row]
        losses = smoothed([row["loss"] for row in trained])
        training.plot([row["step"] for row in trained], losses, linewidth=1.3, label=title)
        checked = [row for row in run if row.get("validation_bits_per_byte") is not None]
        points = [row["validation_bits_per_byte"] for row in checked]
        validation.plot([row["step"] for row in checked], points, marker="o", markersize=3)
    training.set(title="training loss, nats per token (smoothed)", xlabel="step")
    validation.set(title="validation, bits per byte", xlabel="step", yscale="log")
    validation.yaxis.set_major_formatter("{x:.1f}")
    validation.yaxis.set_minor_formatter("{x:.1f}")
    training.legend(frameon=False, fontsize=8)
    for axes in (training, validation):
        axes.grid(color="#8a8f9833")
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format="png")
