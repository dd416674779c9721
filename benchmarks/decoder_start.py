"""The demo's pretraining before and after the width-dependent initialization, with several seeds.

    python benchmarks/decoder_start.py                    # 740 steps, seeds 0 to 2, both arms
    python benchmarks/decoder_start.py --steps 120        # a shorter schedule, for a quick look

The shards must exist: run `lm run RECIPE --only STEP` for collect, documents, tokenizer and shards.
"before" is this project's initialization until November 2026, implemented below, and "after" is the
current one, both with the demo's settings of that time. Both see the same windows in the same
order. A run that is already in the results file is not repeated.

The figure is bits per byte of the whole validation split. Seconds are processor time of the
training alone, so that other programs on the machine have little effect.
"""

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import derived_seed, seed_everything
from lm_core.settings import load_settings
from lm_course.pipeline.recipe import Recipe
from training.batching import WindowBatches
from training.optimizers import AdamW, clip_gradients
from training.runs.pretraining import PretrainSettings, language_model_loss
from training.runs.validation import evaluate_bits_per_byte
from training.schedules import learning_rate_at
from transformer_lm.initialization import draw_normal, linear_std
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

HERE = Path(__file__).parent
ARMS = ("before", "after")
SETTINGS = [  # of the demo when this was measured, before it trained by Muon
    *("pretrain.model.num_layers=4", "pretrain.training.optimizer='adamw'"),
    *("pretrain.training.schedule='cosine'", "pretrain.training.steps=740"),
    *("pretrain.training.learning_rate=3e-3", "pretrain.training.min_learning_rate=3e-4"),
]
BEFORE = [
    "pretrain.model.tie_embeddings=true",
    "pretrain.model.qk_norm=false",
]


@torch.no_grad()
def start_as_before(model: TransformerLM) -> None:
    """Initialize as before: embeddings 0.02, Glorot for all matrices, residual branches / sqrt(2
    layers).
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        if name.endswith("embedding.weight"):
            draw_normal(parameter, 0.02)
            continue
        d_out, d_in = parameter.shape
        draw_normal(parameter, linear_std(d_in, d_out))
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            parameter.mul_(1 / math.sqrt(2 * model.config.num_layers))


def new_model(arm: str, settings: PretrainSettings, vocab_size: int, seed: int) -> TransformerLM:
    seed_everything(derived_seed(seed, "initial weights"))
    model = TransformerLM(ModelConfig(vocab_size=vocab_size, **settings.model.model_dump()))
    if arm == "before":
        start_as_before(model)
    return model


def trained(
    arm: str, settings: PretrainSettings, shards: TokenShards, seed: int, steps: int
) -> tuple[TransformerLM, dict[str, Any]]:
    """Return the model after the last step, and the cost of training it; float32."""
    training = settings.training
    model = new_model(arm, settings, shards.vocab_size, seed)
    batches = WindowBatches(shards, settings.model.context_length, training.batch_size, seed)
    betas = (training.beta1, training.beta2)
    optimizer = AdamW(model.named_parameters(), betas, weight_decay=training.weight_decay)
    schedule = {
        "steps": steps,
        "warmup_steps": max(1, round(training.warmup_steps * steps / training.steps)),
        "learning_rate": training.learning_rate,
        "min_learning_rate": training.min_learning_rate,
    }
    started, losses = time.process_time(), []
    for step in range(1, steps + 1):
        loss = language_model_loss(model, batches.batch_at(step - 1))
        loss.backward()
        clip_gradients(model.parameters(), training.max_grad_norm)
        optimizer.step(learning_rate_at(step, **schedule))
        optimizer.zero_gradients()
        losses.append(float(loss.detach()))
    return model.eval(), {
        "steps": steps,
        "processor_seconds": round(time.process_time() - started, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "first_loss": round(losses[0], 3),
        "mean_loss_of_last_tenth": round(statistics.mean(losses[-max(1, steps // 10) :]), 4),
    }


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once and measure."""
    overrides = [*SETTINGS, *(BEFORE if arm == "before" else options.set)]
    settings = load_settings(Recipe, options.recipe, overrides).pretrain
    shards = TokenShards.open(options.shards, "train")
    # A shorter schedule applies to both arms.
    steps = round(options.steps * settings.training.steps / 740)
    model, figures = trained(arm, settings, shards, seed, steps)
    validation = TokenShards.open(options.shards, "validation")
    context_length, batch_size = settings.model.context_length, settings.training.batch_size
    result = evaluate_bits_per_byte(model, validation, context_length, batch_size)
    figures |= {"learning_rate": settings.training.learning_rate}
    figures |= {"tie_embeddings": settings.model.tie_embeddings, "qk_norm": settings.model.qk_norm}
    return {"arm": arm, "seed": seed, "bits_per_byte": round(result.bits_per_byte, 4)} | figures


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds, and the reduction of bits per byte in percent."""
    means = {
        arm: {
            figure: round(statistics.mean(row[figure] for row in runs if row["arm"] == arm), 4)
            for figure in ("bits_per_byte", "processor_seconds", "first_loss")
        }
        for arm in ARMS
        if any(row["arm"] == arm for row in runs)
    }
    if len(means) < len(ARMS):
        return means
    before, after = (means[arm]["bits_per_byte"] for arm in ARMS)
    return means | {"per_cent_fewer": round(100 * (1 - after / before), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", type=Path, default=HERE.parent / "recipes" / "demo_cpu.toml")
    parser.add_argument("--shards", type=Path, default=Path("runs/demo/shards"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=740)
    parser.add_argument("--set", nargs="*", default=[], help="other settings for the arm of today")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "decoder_start_results.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs: list[dict[str, Any]] = []
    if options.out.exists():
        runs = json.loads(options.out.read_text(encoding="utf-8"))["runs"]
    done = {(row["arm"], row["seed"]) for row in runs}
    for seed in options.seeds:
        for arm in options.arms:
            if (arm, seed) in done:
                continue
            runs.append(run(arm, seed, options))
            print(json.dumps(runs[-1]), flush=True)
            results = {
                "machine": f"{platform.machine()}, Python {platform.python_version()}",
                "threads": options.threads,
                "precision": "float32",
                "steps": options.steps,
                "summary": summary(runs),
                "runs": runs,
            }
            options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
