"""The sweep of learning rates runs from end to end, and interpolates the best rate."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from lm_core.formats.token_shards import ShardWriter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "shards"
    generator = np.random.default_rng(0)
    with ShardWriter(folder, "a" * 64, 32, np.full(32, 2)) as writer:
        for split in ("train", "validation"):
            writer.add(split, np.cumsum(generator.integers(0, 3, 2000)) % 32)
    return folder


def test_the_best_rate_is_the_bottom_of_a_parabola_in_log_space():
    interpolated_best = load("learning_rate_transfer").interpolated_best
    rates = [0.001, 0.002, 0.004, 0.008, 0.016]
    losses = [3.0 + (math.log2(rate / 0.005)) ** 2 for rate in rates]
    assert interpolated_best(rates, losses) == pytest.approx(0.005)
    assert interpolated_best(rates, [3.0, 2.9, 2.8, 2.7, 2.6]) is None, "the last is the best"
    assert interpolated_best(rates, [3.0, 2.9, 2.8, None, 2.6]) is None
    assert interpolated_best(rates, [3.0, 2.9, 2.7, None, None]) is None, "its neighbour diverged"


def test_the_rules_differ_in_the_rates_alone():
    settings_of = load("learning_rate_transfer").settings_of
    standard, dial, muon = (
        settings_of(rule, 2, 128, 0.004, 20, 2, 16) for rule in ("standard", "dial", "muon")
    )
    assert (standard.training.width_ratio, dial.training.width_ratio) == (1.0, 0.5)
    assert standard.model == dial.model == muon.model
    ratio = muon.training.muon_learning_rate / muon.training.learning_rate
    assert (muon.training.optimizer, ratio) == ("muon", 2.5)
    assert (dial.training.learning_rate, dial.training.weight_decay) == (0.004, 0.1)
    changed = {"training": {"width_ratio", "optimizer"}}
    others = [each.model_dump(exclude=changed) for each in (standard, dial, muon)]
    assert others[0] == others[1] == others[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "learning_rate_transfer",
            ["--models", "1x32", "--along-dial", "1x32", "--rates", "1e-2", "--along-rates=2e-2"],
        ),
        ("coordinate_check", ["--widths", "32", "64", "--layers", "1"]),
    ],
)
def test_a_whole_benchmark_in_two_steps(name, options, shards, tmp_path, monkeypatch, one_thread):
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    given = [*options, "--steps", 2, "--batch-size", 2, "--context", 16, "--shards", shards]
    given += ["--results", results, "--picture", picture]
    given += ["--folder", tmp_path / "runs"] if name == "learning_rate_transfer" else []
    monkeypatch.setattr(sys, "argv", [name, *map(str, given)])
    load(name).main()
    rules = json.loads(results.read_text())["rules"]
    assert {"standard", "dial", "muon"} <= set(rules)
    assert picture.read_bytes().startswith(b"\x89PNG")
    if name == "learning_rate_transfer":
        assert "depth" in rules
        losses = [loss for models in rules.values() for each in models for loss in each["losses"]]
        assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
    if name == "coordinate_check":
        for figures in rules.values():
            assert all(size > 0 for sizes in figures["change"].values() for size in sizes)
            assert figures["exponent_of_change"].keys() == {"embedding", "block 1", "logits"}


def test_an_exponent_is_the_slope_in_log_space():
    exponent = load("coordinate_check").exponent
    assert exponent([64, 128, 256], [1.0, 2.0, 4.0]) == pytest.approx(1.0)
    assert exponent([64, 128, 256], [3.0, 3.0, 3.0]) == pytest.approx(0.0)


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    yield  # the benchmarks set one thread
    torch.set_num_threads(before)
