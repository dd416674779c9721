"""`lm pretrain --find-learning-rate` writes a plot and figures, and leaves the run as it was."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from lm_core.formats.token_shards import ShardWriter
from lm_core.user_error import UserError
from lm_course.model_steps import rate_finder
from lm_course.model_steps.rate_finder import find_rate, in_words
from training.runs.learning_rate_finder import RangeTest
from training.runs.optimizer_settings import OptimizerSettings

RECIPE = """
[run]
name = "tiny"
folder = "{folder}"
steps = ["collect", "documents", "tokenizer", "shards", "pretrain"]
[pretrain]
depth = 1
device = "cpu"
[pretrain.model]
d_model = 32
num_heads = 2
context_length = 16
[pretrain.training]
batch_size = 4
precision = "float32"
[sft.training]
steps = 1
batch_size = 1
learning_rate = 0.1
[dpo.training]
steps = 1
batch_size = 1
learning_rate = 0.1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(folder=tmp_path / "runs"))
    return path


def test_it_writes_two_files_and_prints_the_rates(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rate_finder, "check_input", lambda step, name, paths: None)
    root = tmp_path / "runs" / "tiny"
    with ShardWriter(root / "shards", "a" * 64, 32, np.full(32, 2)) as writer:
        for split in ("train", "validation"):
            writer.add(split, np.cumsum(np.random.default_rng(0).integers(0, 3, 900)) % 32)
    checkpoint = root / "checkpoints" / "pretrain" / "step_000003" / "config.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("kept")
    files = {path for path in root.rglob("*") if path.is_file()}
    find_rate(recipe, ["pretrain.training.seed=3"])
    new = {path.name for path in root.rglob("*") if path.is_file()} - {path.name for path in files}
    assert new == {"learning_rate_finder.json", "learning_rate_finder.png", ".lock"}
    assert checkpoint.read_text() == "kept"
    found = json.loads((root / "learning_rate_finder.json").read_text())
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert found["settings"]["training"]["seed"] == 3
    printed = capsys.readouterr().out
    assert f"suggested: learning_rate = {found['suggested']:.2g} (" in printed
    assert f"it diverged at {found['diverged_at']:.2g}" in printed
    assert matplotlib.image.imread(root / "learning_rate_finder.png").shape == (630, 1050, 4)


def test_steps_that_have_not_been_run_are_named(recipe, tmp_path):
    with pytest.raises(UserError, match="needs the step 'tokenizer', which has not been run"):
        find_rate(recipe, [])
    assert not (tmp_path / "runs" / "tiny" / "learning_rate_finder.json").exists()
    with pytest.raises(UserError, match=r"run\.steps does not list 'pretrain'"):
        find_rate(recipe, ['run.steps=["collect"]'])


def test_the_words_say_what_was_not_found_and_the_rate_of_muon():
    rates, flat = [0.001 * 1.1**step for step in range(20)], [4.0] * 20
    adamw = OptimizerSettings(steps=9, learning_rate=0.01)
    assert in_words(RangeTest(rates, flat, flat, None), adamw) == [
        "the smoothed loss never fell",
        "it did not diverge up to 0.0061",
        "no rate is suggested: look at the shards and the shape",
    ]
    muon = OptimizerSettings(steps=9, learning_rate=0.01, optimizer="muon", muon_learning_rate=0.05)
    assert in_words(RangeTest(rates, flat, flat, 0.2), muon)[1:] == [
        "it diverged at 0.2, a tenth of which is 0.02",
        "suggested: learning_rate = 0.02, muon_learning_rate = 0.1 (a tenth of the divergence, "
        "which is often ten times too high)",
    ]
    falling = [4.0 - 0.1 * step for step in range(20)]
    for diverged_at, rule in (
        (None, "the steepest fall, which is often too low"),
        (0.2, "the geometric mean of both, right within a factor of 2 or 3"),
    ):
        last = in_words(RangeTest(rates, falling, falling, diverged_at), adamw)[-1]
        assert last.endswith(f"({rule})")
