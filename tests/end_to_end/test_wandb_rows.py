"""`--wandb`: every metrics row of every training stage goes to wandb too, here a stand-in of it."""

import json
import os
from pathlib import Path

import pytest

from lm_core.formats.metric_log import read_metrics

STAGES = ("pretrain", "sft", "dpo")
SHORT = ("steps=3", "warmup_steps=1")
STAND_IN = """
import json

class Run:
    def log(self, row):
        with open("mirrored.jsonl", "a") as file:
            file.write(json.dumps(row) + "\\n")

    def finish(self):
        with open("mirrored.jsonl", "a") as file:
            file.write('"finished"\\n')

def init(**options):
    return Run()
"""


def test_every_row_arrives_under_its_stage(
    shrunk_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shrunk_run.copy(tmp_path)
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "wandb.py").write_text(STAND_IN)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'stand_in'}{os.pathsep}{before}")
    only = [f"--only={stage}" for stage in STAGES]
    short = [f"--set={stage}.training.{key}" for stage in STAGES for key in SHORT]
    done = run.lm_recipe("run", *short, *only, "--wandb")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "mirrored.jsonl").read_text().splitlines()
    *mirrored, end = [json.loads(line) for line in lines]
    assert end == "finished"
    expected = []
    for stage in STAGES:
        rows = read_metrics(run.folder / "metrics.jsonl", stage)
        assert [row["step"] for row in rows][-1] == 3
        for row in rows:
            expected.append({f"{stage}/{k}": v for k, v in row.items() if k != "stage"})
    assert mirrored == expected
