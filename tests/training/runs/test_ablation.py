"""Ablations: files that contain only their changes, each trained once."""

from pathlib import Path

import numpy as np
import pytest

from lm_core.formats.metric_log import read_metrics
from lm_core.formats.token_shards import ShardWriter
from training.runs import finished_runs
from training.runs.ablation import load_ablations, run_ablations
from training.runs.pretraining import pretrain

PROJECT = Path(__file__).parents[3]
FILES = sorted((PROJECT / "recipes" / "ablations").glob("*.toml"))

DEFAULT = """
title = "default"
shards = "{folder}/shards"
folder = "{folder}/ablations"
[pretrain]
device = "cpu"
[pretrain.model]
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
d_ff = 32
[pretrain.training]
steps = 6
batch_size = 2
learning_rate = 1e-2
precision = "float32"
validate_every = 3
"""


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "shards", "h" * 64, 32, np.ones(32, dtype=np.int32)) as writer:
        for split, documents in (("train", 20), ("validation", 2)):
            for _ in range(documents):
                writer.add(split, np.arange(100) * int(generator.integers(1, 4)) % 32)
    (tmp_path / "default.toml").write_text(DEFAULT.format(folder=tmp_path))
    (tmp_path / "post.toml").write_text(
        'title = "post-norm"\n[pretrain.model]\nnorm_position = "post"\n'
    )
    return tmp_path


def test_a_file_changes_only_what_it_names(folder):
    default, post = load_ablations([folder / "post.toml"])
    assert default.title == "default"
    assert default.pretrain.model.norm_position == "pre"
    changed = post.pretrain.model.model_dump() | {"norm_position": "pre"}
    assert changed == default.pretrain.model.model_dump()
    assert post.pretrain.training == default.pretrain.training


def test_each_is_trained_once_on_the_same_batches(folder, monkeypatch):
    trained = []

    def counting(settings, *given, **named):
        trained.append(settings.model.norm_position)
        return pretrain(settings, *given, **named)

    monkeypatch.setattr(finished_runs, "pretrain", counting)
    first, metrics = run_ablations(load_ablations([folder / "post.toml"]))
    again, _ = run_ablations(load_ablations([folder / "default.toml", folder / "post.toml"]))
    assert trained == ["pre", "post"]
    assert first == again
    assert [result["title"] for result in first] == ["default", "post-norm"]
    assert first[0]["parameters"] == first[1]["parameters"] + 16  # no last norm
    rows = {title: read_metrics(metrics, title) for title in ("default", "post-norm")}
    assert [row["step"] for row in rows["default"]] == [row["step"] for row in rows["post-norm"]]
    assert rows["default"][-1]["validation_bits_per_byte"] == first[0]["bits_per_byte"]
    assert first[0]["bits_per_byte"] != first[1]["bits_per_byte"]


def test_a_run_that_diverges_is_a_result_and_the_others_go_on(folder, monkeypatch):
    (folder / "bad.toml").write_text(
        'title = "no norm"\n[pretrain.model]\nnorm = "none"\n[pretrain.training]\n'
        "learning_rate = 1e30\nwarmup_steps = 0\n"
    )
    paths = [folder / "bad.toml", folder / "post.toml"]
    first, metrics = run_ablations(load_ablations(paths))
    assert [result["title"] for result in first] == ["default", "no norm", "post-norm"]
    assert 1 <= first[1]["diverged_at"] <= 6 and "bits_per_byte" not in first[1]
    assert "diverged_at" not in first[2] and first[2]["bits_per_byte"] > 0
    read_metrics(metrics, "no norm")
    monkeypatch.setattr(finished_runs, "pretrain", None)  # a second training would fail
    assert run_ablations(load_ablations(paths))[0] == first


def test_a_wrong_setting_names_its_file(folder):
    (folder / "bad.toml").write_text('title = "bad"\n[pretrain.model]\nnorm_positon = "post"\n')
    with pytest.raises(ValueError, match=r"bad\.toml: unknown setting .*did you mean norm_pos"):
        load_ablations([folder / "bad.toml"])
    (folder / "twin.toml").write_text('title = "post-norm"\n')
    with pytest.raises(
        ValueError, match=r"twin\.toml: title is 'post-norm', the same as in .*post\.toml"
    ):
        load_ablations([folder / "post.toml", folder / "twin.toml"])
    with pytest.raises(ValueError, match=r"nothing\.toml: no such ablation; .*elsewhere has none"):
        load_ablations([folder.parent / "elsewhere" / "nothing.toml"])
    with pytest.raises(ValueError, match="2 folders"):
        load_ablations([folder / "post.toml", folder.parent / "default.toml"])


def test_the_projects_files_load_and_each_is_another_run():
    ablations = load_ablations(FILES)
    assert len(ablations) == len(FILES)
    described = [each.pretrain.model_dump_json() for each in ablations]
    assert len(set(described)) == len(described)
