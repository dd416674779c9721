"""The step `scaling`: small runs, the surface fitted to them, and its prediction for the main run.

Any outcome is a result: if the runs do not determine a surface, or are too few to fit one, fit.json
says why in words. What this leaves out: the sweep and the fit (scaling_laws), and how the report
shows them.
"""

from dataclasses import dataclass
from typing import Any

from lm_core.artifact_paths import write_json
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext
from scaling_laws.loss_surface import NAMES, LossSurface, predict_loss
from scaling_laws.parametric_fit import fit_surface
from scaling_laws.small_runs.runs_csv import FinishedRun
from scaling_laws.small_runs.sweep import SweepSettings, run_sweep
from tokenizer_bpe.characters.either_kind import tokenizer_hash

CURVE_POINTS = 40


@dataclass(frozen=True)
class FitOrWords:
    """A surface, or None if none can be fitted to the runs, and all reasons to doubt it."""

    surface: LossSurface | None
    doubts: list[str]


def scaling(context: StepContext) -> dict[str, Any]:
    """Train the sweep, fit the surface, and write both to fit.json."""
    folder = context.output("scaling")
    hashed = tokenizer_hash(context.input("tokenizer"))
    sweep = run_sweep(context.input("shards"), folder, context.settings, hashed, code=context.code)
    fit = fit_or_words(sweep.runs, sweep.remarks, context.settings.bootstraps)
    main_run = _main_run(context.summary("pretrain"), fit.surface)
    write_json(
        folder / "fit.json",
        {
            "doubts": fit.doubts,
            "surface": fit.surface and {name: getattr(fit.surface, name) for name in NAMES},
            "runs": [vars(run) for run in sweep.runs],
            "curves": _curves(fit.surface, sweep.runs),
            "main_run": main_run,
        },
    )
    return {
        "runs": len(sweep.runs),
        "doubts": fit.doubts,
        "predicted": main_run["predicted"],
        "measured": main_run["loss"],
    }


def describe_scaling(summary: dict[str, Any]) -> str:
    """Return the line for the terminal."""
    runs = f"{summary['runs']} small runs"
    predicted = "nothing" if summary["predicted"] is None else f"{summary['predicted']:.2f}"
    figures = f"predicted {predicted}, measured {summary['measured']:.2f} nats per token"
    if not summary["doubts"]:
        return f"{runs}; {figures}"
    more = len(summary["doubts"]) - 1
    others = f" (and {more} more in the report)" if more else ""
    return f"{runs} do not determine a surface: {summary['doubts'][0]}{others}; {figures}"


def fit_or_words(runs: list[FinishedRun], remarks: list[str], bootstraps: int) -> FitOrWords:
    """Fit the surface; if that is not possible, the reason is one more doubt."""
    try:
        surface = fit_surface(runs, num_bootstraps=bootstraps)
    except UserError as error:
        return FitOrWords(None, [*remarks, f"no surface can be fitted: {error}"])
    return FitOrWords(surface, [*remarks, *surface.doubts])


def _main_run(summary: dict[str, Any], surface: LossSurface | None) -> dict[str, Any]:
    """Return the main run's loss, the surface's prediction of it, and the bootstraps' interval."""
    # Runs from before November 2026 had tied embeddings, so all their parameters were multiplied.
    parameters = summary.get("multiplied_parameters", summary["parameters"])
    size = parameters, summary["tokens"]
    return {
        "parameters": parameters,
        "tokens": summary["tokens"],
        "loss": summary["validation_loss_after"],
        "optimizer": summary.get("optimizer", "adamw"),  # older records have none
        "predicted": None if surface is None else predict_loss(surface, *size),
        "interval": None if surface is None else surface.prediction_interval(*size),
    }


def _curves(surface: LossSurface | None, runs: list[FinishedRun]) -> list[dict[str, Any]]:
    """Return the fitted loss along each model size, for the plot."""
    if surface is None:
        return []
    first, last = min(run.tokens for run in runs), max(run.tokens for run in runs)
    ratio = (1.5 * last / first) ** (1 / (CURVE_POINTS - 1))
    tokens = [first * ratio**i for i in range(CURVE_POINTS)]
    return [
        {
            "parameters": size,
            "tokens": tokens,
            "loss": [predict_loss(surface, size, count) for count in tokens],
        }
        for size in sorted({run.parameters for run in runs})
    ]


STEP = Step(
    name="scaling",
    command="lm scaling sweep",
    help="Train small models and fit the loss surface.",
    run=scaling,
    describe=describe_scaling,
    settings={"scaling": SweepSettings},
    reads=("tokenizer", "shards", "checkpoints/pretrain"),
    writes=("scaling",),
)
