"""Pretraining from shards to a checkpoint, stopped by SIGKILL, and rejected if inputs disagree."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.formats.token_shards import ShardWriter
from lm_core.settings import load_settings
from lm_core.user_error import UserError
from training.runs import pretraining
from training.runs.pretraining import PretrainSettings, pretrain

VOCAB = 64
RECIPE = """
validation_tokens = 150
device = "cpu"
[model]
context_length = 16
d_model = 16
num_layers = 2
num_heads = 2
num_kv_heads = 1
d_ff = 32
[training]
steps = 40
batch_size = 4
learning_rate = 0.01
min_learning_rate = 0.001
warmup_steps = 4
checkpoint_every = 7
validate_every = 10
precision = "float32"
"""
CHILD = """
import sys, time, torch
from pathlib import Path
from lm_core.formats.metric_log import MetricLog
from lm_core.settings import load_settings
from training.runs.pretraining import PretrainSettings, pretrain

torch.set_num_threads(1)  # as the parent: another number adds in another order

class SlowLog(MetricLog):
    def append(self, row):
        super().append(row)
        time.sleep(0.02)  # so that the parent can aim

root = Path(sys.argv[1])
settings = load_settings(PretrainSettings, root / "recipe.toml")
log = SlowLog(root / "metrics.jsonl", "pretrain")
pretrain(settings, root / "shards", root / "checkpoints", log)
"""


def make_root(root: Path) -> Path:
    """Write shards of a text that follows a rule, and the recipe."""
    generator = np.random.default_rng(0)
    with ShardWriter(root / "shards", "a" * 64, VOCAB, np.r_[np.full(VOCAB - 1, 2), 0]) as writer:
        for index in range(40):
            text = np.cumsum(generator.integers(0, 3, 30)) % (VOCAB - 1)
            writer.add("validation" if index % 5 == 0 else "train", np.r_[text, VOCAB - 1])
    (root / "recipe.toml").write_text(RECIPE)
    return root


def run_pretrain(root: Path, overrides: list[str] | None = None, **given):
    settings = load_settings(PretrainSettings, root / "recipe.toml", overrides)
    log = MetricLog(root / "metrics.jsonl", "pretrain")
    return pretrain(settings, root / "shards", root / "checkpoints", log, **given)


def numbers(root: Path) -> list[dict]:
    clock = {"seconds", "tokens_per_second"}
    rows = read_metrics(root / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def test_from_shards_to_checkpoint(tmp_path):
    root = make_root(tmp_path)
    companions = {"tokenizer.json": b"{}"}
    summary = run_pretrain(root, companion_files=companions, special_token_ids={"eos_token_id": 63})
    before, after = summary.validation_before, summary.validation_after
    assert after["validation_bits_per_byte"] < before["validation_bits_per_byte"] - 0.3
    assert abs(before["validation_loss"] - np.log(VOCAB)) < 0.05 * np.log(VOCAB)
    last = list_checkpoints(root / "checkpoints")[-1]
    assert last.name == "step_000040"
    assert (last / "tokenizer.json").read_bytes() == b"{}"
    assert '"eos_token_id": 63' in (last / "config.json").read_text()


def test_two_runs_give_the_same_numbers_and_another_seed_does_not(tmp_path):
    roots = [make_root(tmp_path / name) for name in ("one", "two", "other seed")]
    for root, seed in zip(roots, (0, 0, 1), strict=True):
        run_pretrain(root, [f"training.seed={seed}", "training.steps=5"])
    assert numbers(roots[0]) == numbers(roots[1]) != numbers(roots[2])


def test_z_loss_is_in_the_training_loss_alone(tmp_path):
    roots = [make_root(tmp_path / name) for name in ("without", "with")]
    for root, weight in zip(roots, (0, 0.1), strict=True):
        run_pretrain(root, [f"z_loss={weight}", "training.steps=5"])
    without, with_z_loss = (numbers(root)[0] for root in roots)  # step 0: the validation
    assert without == with_z_loss
    added = numbers(roots[1])[1]["loss"] - numbers(roots[0])[1]["loss"]
    # at the start the logits are small, so that log Z is about ln(vocab_size)
    assert added == pytest.approx(0.1 * np.log(VOCAB) ** 2, rel=0.1)


def test_killed_with_sigkill_and_started_again(tmp_path):
    straight, killed = make_root(tmp_path / "straight"), make_root(tmp_path / "killed")
    run_pretrain(straight)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(killed)], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(numbers(killed)) < 19:
        assert child.poll() is None and time.monotonic() < deadline, "the child is too slow"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(numbers(killed)) < 41
    summary = run_pretrain(killed)
    assert summary.resumed_from in (14, 21, 28)
    assert numbers(killed) == numbers(straight)


def test_other_settings_or_shards_start_anew(tmp_path):
    root = make_root(tmp_path)
    run_pretrain(root, ["training.steps=5"])
    assert run_pretrain(root, ["training.steps=5"]).resumed_from == 5
    assert run_pretrain(root, ["training.steps=5", "training.validate_every=2"]).resumed_from == 5
    assert run_pretrain(root, ["training.steps=6"]).resumed_from is None
    assert run_pretrain(root, ["training.steps=6", "model.d_ff=16"]).resumed_from is None
    np.save(root / "shards" / "token_byte_lengths.npy", np.ones(VOCAB, dtype=np.int32))
    assert run_pretrain(root, ["training.steps=6", "model.d_ff=16"]).resumed_from is None


def test_other_code_starts_anew(tmp_path):
    root = make_root(tmp_path)
    run_pretrain(root, ["training.steps=5"], code={"training": "1"})
    again = run_pretrain(root, ["training.steps=5"], code={"training": "1"})
    assert again.resumed_from == 5
    changed = run_pretrain(root, ["training.steps=5"], code={"training": "2"})
    assert changed.resumed_from is None


def test_shards_of_another_tokenizer_are_refused(tmp_path):
    root = make_root(tmp_path)
    with pytest.raises(ValueError, match="made with tokenizer aaaaaaaaaaaa"):
        run_pretrain(root, tokenizer_hash="b" * 64)
    assert not (root / "checkpoints").exists()


def test_packed_documents_train_too(tmp_path):
    make_root(tmp_path)
    packed = run_pretrain(tmp_path, ["batches=documents"])
    assert packed.tokens < 40 * 4 * 16, "the rows of a batch are not padded"
    assert packed.validation_after["validation_loss"] < 3.0, "from ln 64 = 4.16; 2.58 when written"
    rows = numbers(tmp_path)
    run_pretrain(tmp_path, ["batches=documents", "training.micro_batches=2"])
    for first, second in zip(rows[1:4], numbers(tmp_path)[1:4], strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)


def test_a_model_that_mixes_documents_is_refused_before_the_first_step(tmp_path, monkeypatch):
    class Mixing(pretraining.TransformerLM):
        def forward(self, token_ids, cache=None, cu_seqlens=None):
            return super().forward(token_ids, cache)

    make_root(tmp_path)
    monkeypatch.setattr(pretraining, "TransformerLM", Mixing)
    with pytest.raises(UserError, match='ignores cu_seqlens; write that, or set batches = "wind'):
        run_pretrain(tmp_path, ["batches=documents"])
    assert not (tmp_path / "metrics.jsonl").exists()
