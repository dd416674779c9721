"""Validation loss with and without each technique of recent recipes, over several seeds.

    python benchmarks/techniques.py SHARDS [--seeds 3] [--steps 400] [--only muon qk_norm]

SHARDS is a folder of token shards, such as runs/demo/shards. All runs have the settings of
recipes/ablations/default.toml and change one thing; a seed changes the initial weights and the
order of the windows. Two of the techniques changed nothing beyond the noise, so a recipe has no
setting for them: they are applied to the new model. The results are written to
techniques_results.json next to this file, and as a table to the terminal: the mean of the
validation loss and its standard deviation over the seeds, in bits per byte, and tokens per second,
the median over the seeds.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lm_core.formats.metric_log import MetricLog
from lm_core.settings import load_settings
from training.runs import pretraining
from training.runs.ablation import AblationSettings
from transformer_lm.language_model import TransformerLM

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parent / "recipes/ablations/default.toml"
SOFT_CAP = 30.0  # Gemma 2's (Riviere et al., 2024)


def zero_outputs(model: TransformerLM) -> None:
    """Let every branch start as 0, as in GPT-2's successors (Zhang et al., 2019, "Fixup")."""
    for name, weight in model.named_parameters():
        if name.endswith(("output.weight", "down.weight")):
            nn.init.zeros_(weight)


def soft_cap(model: TransformerLM) -> None:
    """Bound the logits: cap tanh(logits / cap)."""
    model.register_forward_hook(lambda _, inputs, logits: capped(logits))


def capped(logits: Tensor) -> Tensor:
    return SOFT_CAP * torch.tanh(logits / SOFT_CAP)


# name: (what changes in the recipe, what is done to the new model)
TECHNIQUES: dict[str, tuple[list[str], Callable[[TransformerLM], None] | None]] = {
    "default": ([], None),
    "muon": (["training.optimizer='muon'", "training.muon_learning_rate=0.01"], None),
    "qk_norm": (["model.qk_norm=true"], None),
    "zero_outputs": ([], zero_outputs),
    "untied_head": (["model.tie_embeddings=false"], None),
    "soft_cap": ([], soft_cap),
    "squared_relu": (["model.mlp='squared_relu'", "model.d_ff=528"], None),  # as many parameters
    "documents": (["batches='documents'"], None),
    "linear_to_zero": (["training.schedule='linear'", "training.min_learning_rate=0"], None),
    "wsd": (["training.schedule='wsd'", "training.min_learning_rate=0"], None),
}


def train(name: str, seed: int, shards: Path, extra: list[str]) -> dict[str, Any]:
    """Train once; return the validation loss and the speed."""
    changes, change_model = TECHNIQUES[name]
    overrides = [f"pretrain.{change}" for change in [*changes, f"training.seed={seed}", *extra]]
    settings = load_settings(AblationSettings, DEFAULT, overrides).pretrain
    plain = pretraining.new_model

    def changed(*arguments: Any) -> TransformerLM:
        model = plain(*arguments)
        if change_model is not None:
            change_model(model)
        return model

    pretraining.new_model = changed
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = MetricLog(Path(folder) / "metrics.jsonl", f"{name}, seed {seed}")
            done = pretraining.pretrain(settings, shards, Path(folder) / "checkpoints", log)
    finally:
        pretraining.new_model = plain
    return {
        "bits_per_byte": done.validation_after["validation_bits_per_byte"],
        "tokens_per_second": done.tokens / done.update_seconds,
        "precision": done.precision,
    }


def row_of(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [run["bits_per_byte"] for run in runs]
    return {
        "technique": name,
        "bits_per_byte": [round(loss, 4) for loss in losses],
        "mean": round(statistics.mean(losses), 4),
        "deviation": round(statistics.stdev(losses), 4) if len(losses) > 1 else None,
        "tokens_per_second": round(statistics.median(run["tokens_per_second"] for run in runs)),
        "precision": runs[0]["precision"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", nargs="+", choices=list(TECHNIQUES), default=list(TECHNIQUES))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all runs")
    parser.add_argument("--out", type=Path, default=HERE / "techniques_results.json")
    options = parser.parse_args()
    steps = (f"training.{name}={options.steps}" for name in ("steps", "validate_every"))
    extra = [*steps, *options.set]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):  # a slower hour of the machine slows down all techniques
        for name in options.only:
            runs[name].append(train(name, seed, options.shards, extra))
            print(json.dumps({"technique": name, "seed": seed, **runs[name][-1]}), flush=True)
    rows = [row_of(name, each) for name, each in runs.items()]
    for row in rows:
        deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
        print(f"{row['technique']:<16}{row['mean']:.4f}{deviation}{row['tokens_per_second']:>8,}/s")
    results = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "steps": options.steps,
        "set": options.set,
        "rows": rows,
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
