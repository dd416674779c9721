"""A tiny pretraining run in a folder, trained by one process or by a rank of a group."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.formats.token_shards import ShardWriter
from lm_core.settings import load_settings
from training.engine.__main__ import EngineRecipe
from training.engine.many_ranks import ManyRanks
from training.runs.pretraining import pretrain

PROJECT = Path(__file__).parents[3]
VOCAB = 64
RECIPE = """
[run]
name = "tiny"
steps = ["pretrain"]
[pretrain]
validation_tokens = 300
device = "cpu"
[pretrain.model]
context_length = 32
d_model = 32
num_layers = 2
num_heads = 4
num_kv_heads = 4
d_ff = 64
[pretrain.training]
steps = 20
batch_size = 8
learning_rate = 0.01
warmup_steps = 4
checkpoint_every = 7
validate_every = 10
precision = "float32"
"""
CLOCK = {"seconds", "tokens_per_second"}


def make_run(root: Path) -> Path:
    """Write the recipe, and shards and tokenizer where `lm` puts them."""
    folder = root / "runs" / "tiny"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lengths = np.r_[np.full(VOCAB - 1, 2), 0]
    with ShardWriter(folder / "shards", "a" * 64, VOCAB, lengths) as writer:
        for index in range(400):
            text = np.cumsum(generator.integers(0, 3, 30)) % (VOCAB - 1)
            writer.add("validation" if index % 10 == 0 else "train", np.r_[text, VOCAB - 1])
    vocab = {chr(200 + index): index for index in range(VOCAB - 1)}
    end = {"id": VOCAB - 1, "content": "<|endoftext|>"}
    tokenizer = {"model": {"vocab": vocab}, "added_tokens": [end]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (root / "recipe.toml").write_text(RECIPE)
    return root


def train(root: Path, overrides: tuple[str, ...] = (), ranks: bool = False, **given):
    """Train the run in this process, which may be a rank of a group."""
    recipe = load_settings(EngineRecipe, root / "recipe.toml", list(overrides))
    folder = root / "runs" / "tiny"
    spread = ManyRanks(recipe.parallel, torch.device("cpu")) if ranks else None
    log = MetricLog(folder / "metrics.jsonl", "pretrain")
    files = given.pop("companions", None) or {"companion_files": {"tokenizer.json": b"{}"}}
    return pretrain(
        recipe.pretrain,
        folder / "shards",
        folder / "checkpoints" / "pretrain",
        log,
        parallelism=spread,
        **files,
        **given,
    )


def rows(root: Path) -> list[dict]:
    """Return the rows of the log without the times."""
    found = read_metrics(root / "runs" / "tiny" / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in found]


def last_weights(root: Path) -> bytes:
    """Return the file of the weights at the end of the run."""
    folder = root / "runs" / "tiny" / "checkpoints" / "pretrain"
    return (folder / "step_000020" / "model.safetensors").read_bytes()


def engine(*arguments: str) -> list[str]:
    return ["-m", "training.engine", "recipe.toml", *arguments]


def start_ranks(root: Path, size: int, *arguments: str, torchrun: tuple[str, ...] = ()):
    """Start torchrun in the folder of the run."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}"]
    return subprocess.Popen(
        [*launcher, *(torchrun or ("--standalone",)), *engine(*arguments)],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
