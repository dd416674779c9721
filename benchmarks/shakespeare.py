"""recipes/shakespeare_char.toml against nanoGPT's recipe for a CPU, on the same text.

    python benchmarks/shakespeare.py TEXT [--picture docs/pictures/shakespeare_char.png]

Both train on the first 90 % of the characters, one after the other, as commands of their own:

    python benchmarks/nanogpt_recipe.py TEXT
    lm pretrain recipes/shakespeare_char.toml

The seconds are those of the whole command, with imports, measurements, validation and checkpoints.
The text is turned into ids before, in both cases. The loss is the mean over 200 batches of the last
10 %, 12 windows each, drawn with a fixed seed: once with nanoGPT's 64 characters of context, and
once with the context that the recipe trains with. A window is longer then, so that a character has
more text before it on average, and a model that can use it has the lower loss.

The results are written to shakespeare_results.json beside this file, with the curves, a verse, and
the command that makes it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nanogpt_recipe import character_ids, mean_loss, validation_batches

from inference.engine.engine import Engine
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import read_metrics

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipes" / "shakespeare_char.toml"


def timed(command: list[str], folder: Path) -> float:
    """Run a command in a folder, and return its seconds."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return time.perf_counter() - started


def nanogpt(text: Path, folder: Path) -> dict[str, Any]:
    script = str(HERE / "nanogpt_recipe.py")
    output = folder / "nanogpt.json"
    seconds = timed([sys.executable, script, str(text), "--output", str(output)], folder)
    result = json.loads(output.read_text())
    curve = [[row["seconds"], row["train"], row["validation"]] for row in result["curve"]]
    return result | {"seconds": round(seconds, 1), "curve": curve}


def ours(text: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "lm_course"]
    options = [str(RECIPE), "--set", f"text.path={text}"]
    for step in ("text", "tokenizer", "shards"):
        timed([*command, "run", *options, "--only", step], folder)
    seconds = timed([*command, "pretrain", *options], folder)
    timed([*command, "samples", *options], folder)
    run = folder / "runs" / "shakespeare_char"
    checkpoint = latest_checkpoint(run / "checkpoints" / "pretrain")
    engine = Engine.from_checkpoint(checkpoint)
    characters, ids = character_ids(text.read_text(encoding="utf-8"))
    own = torch.tensor([engine.tokenizer.encode(character)[0] for character in characters])
    held_out = own[ids[int(0.9 * len(ids)) :]]
    context = engine.model.config.context_length

    def loss(seq: int) -> float:
        return round(mean_loss(engine.model, validation_batches(held_out, seq)), 4)

    return {
        "parameters": sum(p.numel() for p in engine.model.parameters()),
        "seconds": round(seconds, 1),
        "loss": loss(64),
        "context_length": context,
        "loss_with_own_context": loss(context),
        "curve": curve_of(run),
        "samples": json.loads((run / "samples.json").read_text()),
    }


def curve_of(run: Path) -> list[list[float | None]]:
    """Return [seconds, training loss, validation loss] of the steps with a validation."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "validation_loss" in row]
    return [[row["seconds"], row.get("loss"), row["validation_loss"]] for row in rows]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        seconds, _, losses = zip(*row["curve"], strict=True)
        axes.plot(seconds, losses, marker="o", markersize=3, label=row["who"])
    axes.set_xlabel("seconds of training, on the same two cores")
    axes.set_ylabel("validation loss, nats per character")
    axes.set_yscale("log")
    axes.set_yticks(ticks := [1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0], [f"{tick:.1f}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path, help="tinyshakespeare, or another text")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--output", type=Path, default=HERE / "shakespeare_results.json")
    options = parser.parse_args()
    text = options.text.resolve()
    contestants = {"nanoGPT's recipe": nanogpt, "recipes/shakespeare_char.toml": ours}
    rows = []
    for _ in range(options.repeats):
        for who, run in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"who": who} | run(text, Path(folder)))
            print({key: rows[-1][key] for key in ("who", "seconds", "loss")}, flush=True)
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "rows": rows,
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        draw(rows[-2:], options.picture)


if __name__ == "__main__":
    main()
