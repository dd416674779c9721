"""Do activations keep their size when the width grows? The coordinate check of Yang et al., 2022,
"Tensor Programs V", appendix D.1.

    python benchmarks/coordinate_check.py --shards runs/demo/shards

A model is trained for ten steps at each width, and one batch that it was not trained on goes
through it before and after. The figure is the root mean square of the change of an activation: of
the residual stream after the embedding and after each block, and of the logits. If the change grows
or shrinks with the width, the best learning rate moves with it. Three rules, all with the same rate
at width 256:

- standard: AdamW, one rate for all parameters;
- dial: AdamW, as `[pretrain] depth` sets it (training/runs/one_dial.py);
- muon: Muon for the matrices of the blocks, as `depth` sets it.

An exponent is the slope of log(change) against log(width): 0 for a change that stays. The figures
are means over seeds. They are written to coordinate_check_results.json next to this file, and the
picture to docs/pictures.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import seed_everything
from training.batching import WindowBatches
from training.optimizers import clip_gradients
from training.runs.pretraining import PretrainSettings, language_model_loss, new_model
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "coordinate_check_results.json"
PICTURE = HERE.parent / "docs" / "pictures" / "coordinate_check.png"
MUON_RATIO = 2.5  # muon_learning_rate / learning_rate, as the dial's own
RULES: dict[str, dict[str, Any]] = {
    "standard": {"width_ratio": 1.0},
    "dial": {},
    "muon": {"optimizer": "muon"},
}
TITLES = {
    "standard": "AdamW, one rate for all",
    "dial": "AdamW, the dial's rule",
    "muon": "Muon, the dial's rule",
}


def activations(model: TransformerLM, token_ids: Tensor) -> dict[str, Tensor]:
    """Return the residual stream after the embedding and each block, and the logits."""
    found: dict[str, Tensor] = {}
    watched = {"embedding": model.token_embedding}
    watched |= {f"block {number}": block for number, block in enumerate(model.blocks, start=1)}
    hooks = [
        module.register_forward_hook(
            lambda module, given, output, name=name: found.update({name: output.float()})
        )
        for name, module in watched.items()
    ]
    with torch.no_grad():
        found["logits"] = model(token_ids).float()
    for hook in hooks:
        hook.remove()
    return found


def size_of(activation: Tensor) -> float:
    return activation.square().mean().sqrt().item()


def changes(
    rule: str, width: int, seed: int, shards: TokenShards, given: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return the sizes after training, and the sizes of the changes, by activation."""
    settings = PretrainSettings(
        depth=given.layers,
        model={"d_model": width, "context_length": given.context},
        training={
            "steps": given.steps,
            "batch_size": given.batch_size,
            "learning_rate": given.rate,
            "muon_learning_rate": MUON_RATIO * given.rate,
            "weight_decay": 0.0,
            "seed": seed,
            **RULES[rule],
        },
    )
    config = ModelConfig(vocab_size=shards.vocab_size, **settings.model.model_dump())
    model = new_model(settings, config)
    batches = WindowBatches(shards, given.context, given.batch_size, seed)
    probe = batches.batch_at(given.steps)["token_ids"]
    before = activations(model, probe)
    optimizer = settings.training.optimizer_of(model.named_parameters(), "float32")
    for step in range(given.steps):
        language_model_loss(model, batches.batch_at(step)).backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step(settings.training.learning_rate)
        optimizer.zero_gradients()
    after = activations(model, probe)
    return {
        "size": {name: size_of(after[name]) for name in after},
        "change": {name: size_of(after[name] - before[name]) for name in after},
    }


def exponent(widths: list[int], sizes: list[float]) -> float:
    """Return the slope of log(size) against log(width)."""
    return float(np.polyfit(np.log(widths), np.log(sizes), 1)[0])


def measure(shards: TokenShards, given: argparse.Namespace) -> dict[str, Any]:
    """Return for each rule the mean figures at every width, and the exponents."""
    results: dict[str, Any] = {}
    for rule in RULES:
        figures: dict[str, dict[str, list[float]]] = {"size": {}, "change": {}}
        for width in given.widths:
            runs = [changes(rule, width, seed, shards, given) for seed in range(given.seeds)]
            print(f"{rule}, width {width}: {runs[0]['change']}", flush=True)
            for kind, by_name in figures.items():
                for name in runs[0][kind]:
                    mean = sum(run[kind][name] for run in runs) / len(runs)
                    by_name.setdefault(name, []).append(mean)
        exponents = {
            name: exponent(given.widths, sizes) for name, sizes in figures["change"].items()
        }
        results[rule] = {**figures, "exponent_of_change": exponents}
    return results


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the changes against the width, one plot for each rule."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    rules = results["rules"]
    figure = Figure(figsize=(4.0 * len(rules), 3.8), layout="constrained", dpi=130)
    plots = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for axes, (rule, figures) in zip(plots, rules.items(), strict=True):
        for name, sizes in figures["change"].items():
            slope = figures["exponent_of_change"][name]
            label = f"{name}: width^{slope:+.2f}"
            axes.plot(results["widths"], sizes, marker="o", markersize=4, label=label)
        axes.set(title=TITLES[rule], xlabel="width", xscale="log", yscale="log")
        axes.set_xticks(results["widths"], [str(width) for width in results["widths"]])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=8)
        axes.grid(color="#8a8f9833")
        axes.spines[["top", "right"]].set_visible(False)
    plots[0].set(ylabel=f"change after {results['steps']} steps, root mean square")
    figure.savefig(path, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256, 512, 1024])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(0)
    shards = TokenShards.open(given.shards, "train", None)
    results = {
        "widths": given.widths,
        "layers": given.layers,
        "steps": given.steps,
        "batch": f"{given.batch_size} x {given.context}",
        "seeds": given.seeds,
        "learning_rate": given.rate,
        "rules": measure(shards, given),
    }
    given.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, given.picture)


if __name__ == "__main__":
    main()
