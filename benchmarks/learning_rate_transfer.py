"""Does the best learning rate stay where it is when the model grows? A sweep of rates at several
widths, and one along the dial.

    python benchmarks/learning_rate_transfer.py --shards runs/demo/shards [--folder runs/transfer]

Each rule is swept over the same models. A model is DEPTHxWIDTH; all else is what `[pretrain] depth`
derives, except the steps, the batch and the weight decay, which are equal for all.

- standard: AdamW, one rate for all parameters;
- dial: AdamW, the rate of the summing matrices divided by width / 256 (training/runs/one_dial.py);
- muon: Muon for the matrices of the blocks at 2.5 times the rate, the head's rate as in dial;
- depth: the rule of dial, for models along the dial, which grow in depth and width.

A finished run is kept in `--folder`, so that a stopped sweep continues. The figures are the
validation loss after the last step, one seed; the best rate is also interpolated, by a parabola
through the three rates around the best one in log space. They are written to
learning_rate_transfer_results.json next to this file, and the picture to docs/pictures.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lm_core.formats.token_shards import TokenShards
from training.runs.finished_runs import RunSeries
from training.runs.pretraining import PretrainSettings

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "learning_rate_transfer_results.json"
PICTURE = HERE.parent / "docs" / "pictures" / "learning_rate_transfer.png"
MUON_RATIO = 2.5  # muon_learning_rate / learning_rate, as the dial's own

TITLES = {
    "standard": "AdamW, one rate for all",
    "dial": "AdamW, the dial's rule",
    "muon": "Muon, the dial's rule",
    "depth": "AdamW, depth and width together",
}


def settings_of(
    rule: str, depth: int, width: int, rate: float, steps: int, batch_size: int, context: int
) -> PretrainSettings:
    """Return the settings of one run."""
    training: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": rate,
        "muon_learning_rate": MUON_RATIO * rate,
        "warmup_steps": steps // 10,
        "weight_decay": 0.1,
        "checkpoint_every": steps,
        "validate_every": steps,
        "precision": "float32",
        "stop_at_deviations": 0.0,
    }
    rules: dict[str, dict[str, Any]] = {
        "standard": {"width_ratio": 1.0},
        "dial": {},
        "muon": {"optimizer": "muon"},
        "depth": {},
    }
    model = {"d_model": width, "context_length": context}
    return PretrainSettings(
        depth=depth,
        model=model,
        training=training | rules[rule],
        validation_tokens=40_000,
        device="cpu",
    )


def interpolated_best(rates: list[float], losses: list[float | None]) -> float | None:
    """Return the rate with the lowest loss, by a parabola through the best one and its neighbours.

    Args:
        rates: increasing by equal factors.
        losses: None for a run that diverged.

    Returns:
        None if the best rate is the first or the last, or a neighbour diverged.
    """
    known = [math.inf if loss is None else loss for loss in losses]
    best = known.index(min(known))
    if best in (0, len(rates) - 1):
        return None
    left, middle, right = known[best - 1 : best + 2]
    curvature = left - 2 * middle + right
    if not math.isfinite(curvature) or curvature <= 0:
        return None
    offset = (left - right) / (2 * curvature)
    return rates[best] * (rates[best + 1] / rates[best]) ** offset


def sweep(series: RunSeries, rule: str, given: argparse.Namespace) -> list[Any]:
    """Train the rule's models with every rate, and return one row for each model."""
    models, rates = given.models, given.rates
    if rule == "depth":
        models, rates = given.along_dial, given.along_rates
    rows = []
    for model in models:
        depth, width = map(int, model.split("x"))
        losses = []
        for rate in rates:
            settings = settings_of(
                rule, depth, width, rate, given.steps, given.batch_size, given.context
            )
            name = f"{rule}_{model}_{rate:g}"
            done = series.train_unless_finished(settings, name, name, keeps_diverged=True)
            losses.append(done.get("loss"))
            print(f"{name}: {done.get('loss', 'diverged')}", flush=True)
        rows.append(
            {
                "model": model,
                "parameters": done["parameters"],
                "rates": rates,
                "losses": losses,
                "best": interpolated_best(rates, losses),
            }
        )
    return rows


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the loss against the learning rate, one plot for each rule."""
    from matplotlib.figure import Figure

    rules = results["rules"]
    figure = Figure(figsize=(4.2 * len(rules), 4.0), layout="constrained", dpi=130)
    plots = figure.subplots(1, len(rules), sharex=True, sharey=True, squeeze=False)[0]
    colours = ("#9ecae1", "#4292c6", "#084594", "#041f4a")
    for axes, (rule, rows) in zip(plots, rules.items(), strict=True):
        for row, colour in zip(rows, colours, strict=False):
            points = [
                (rate, loss)
                for rate, loss in zip(row["rates"], row["losses"], strict=True)
                if loss is not None
            ]
            label = f"{row['model'].split('x')[0]} layers, width {row['model'].split('x')[1]}"
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", ms=4, label=label)
            if row["best"] is not None:
                axes.axvline(row["best"], color=colour, linestyle=":", linewidth=1)
        axes.set(title=TITLES[rule], xlabel="learning rate (of embeddings)", xscale="log")
        axes.legend(frameon=False, fontsize=8)
        axes.grid(color="#8a8f9833")
        axes.spines[["top", "right"]].set_visible(False)
    lowest = min(x for rows in rules.values() for r in rows for x in r["losses"] if x is not None)
    plots[0].set(ylabel="validation loss, nats per token", ylim=(lowest - 0.1, lowest + 1.6))
    figure.savefig(path, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning_rate_transfer"))
    parser.add_argument("--rules", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--models", nargs="+", default=["2x64", "2x128", "2x256"])
    parser.add_argument("--along-dial", nargs="+", default=["1x64", "2x128", "4x256"])
    parser.add_argument("--rates", nargs="+", type=float, default=[2.0**k * 1e-3 for k in range(6)])
    parser.add_argument(
        "--along-rates", nargs="+", type=float, default=[2.0**k * 1e-3 for k in range(1, 4)]
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    shards = TokenShards.open(given.shards, "train", None)
    results: dict[str, Any] = {
        "steps": given.steps,
        "batch": f"{given.batch_size} x {given.context}",
        "vocabulary": shards.vocab_size,
        "rules": {},
    }
    for rule in given.rules:
        series = RunSeries(
            shards, given.folder / rule, "python benchmarks/learning_rate_transfer.py"
        )
        results["rules"][rule] = sweep(series, rule, given)
    given.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, given.picture)
    for rule, rows in results["rules"].items():
        for row in rows:
            best = "at an end" if row["best"] is None else f"{row['best']:.2e}"
            lowest = min(loss for loss in row["losses"] if loss is not None)
            print(f"{rule:9} {row['model']:>6}  best rate {best}  loss {lowest:.3f}")


if __name__ == "__main__":
    main()
