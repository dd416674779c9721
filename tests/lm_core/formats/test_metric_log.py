"""Rows are appended and rewound per stage, and survive a process that dies within a line."""

from pathlib import Path

import pytest

from lm_core.formats.metric_log import MetricLog, read_metrics


class Mirror:
    def __init__(self) -> None:
        self.rows: list[dict] = []

    def log(self, data: dict) -> None:
        self.rows.append(data)


def test_rewinding_one_stage_leaves_the_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    pretrain, sft = MetricLog(path, "pretrain"), MetricLog(path, "sft")
    for step in range(4):
        pretrain.append({"step": step, "loss": 4.0 - step})
        sft.append({"step": step, "loss": 1.0})
    pretrain.rewind(1)
    assert [row["step"] for row in read_metrics(path, "pretrain")] == [0, 1]
    assert [row["step"] for row in read_metrics(path, "sft")] == [0, 1, 2, 3]
    pretrain.rewind(-1)
    assert read_metrics(path, "pretrain") == []
    assert len(read_metrics(path)) == 4


def test_a_half_written_last_line_is_dropped_and_an_earlier_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path, "pretrain")
    log.append({"step": 0, "loss": 4.0})
    with path.open("a") as file:
        file.write('{"stage": "pretrain", "st')
    assert [row["step"] for row in read_metrics(path)] == [0]
    log.rewind(0)
    log.append({"step": 1, "loss": 3.0})
    assert [row["step"] for row in read_metrics(path)] == [0, 1]
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 1 is not JSON"):
        read_metrics(path)


def test_a_missing_file_has_no_rows_and_nan_is_refused(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "metrics.jsonl", "pretrain")
    log.rewind(5)
    assert read_metrics(log.path) == []
    with pytest.raises(ValueError):
        log.append({"step": 0, "loss": float("nan")})
    with pytest.raises(AssertionError):
        log.append({"loss": 1.0})


def test_the_mirror_gets_every_row_under_the_stages_name(tmp_path: Path) -> None:
    mirror = Mirror()
    MetricLog(tmp_path / "metrics.jsonl", "dpo", mirror).append({"step": 3, "loss": 0.5})
    assert mirror.rows == [{"dpo/step": 3, "dpo/loss": 0.5}]
