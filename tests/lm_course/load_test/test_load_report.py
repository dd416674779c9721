"""Figures worked out by hand, percentiles against numpy, and the form of the files."""

import json

import numpy as np
import pytest

from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.load_plan import Level
from lm_course.load_test.load_report import (
    LoadReport,
    level_report,
    percentiles,
    write_report,
)
from lm_course.load_test.load_run import LevelRun


def record(number: int, outcome: str = "done", **values) -> RequestRecord:
    return RequestRecord(0, number, values.pop("planned", 0.0), outcome=outcome, **values)


RECORDS = [
    # Sent a second late. Six tokens in three pieces: the first after 3 s, then gaps of 1 s and 3 s.
    RequestRecord(0, 0, 1.0, 2.0, [4.0, 5.0, 8.0], 9.0, "done", None, None, 10, 6, "abc"),
    record(1, pieces=[2.0], ended=2.0, prompt_tokens=20, answer_tokens=1),
    record(2, "hung up", pieces=[3.0, 4.0], ended=4.0),
    record(3, "refused", ended=0.5, retry_after=2.0, error="HTTP 429: busy"),
    record(4, "error", pieces=[1.0], ended=1.5, error="HTTP 500: at 3"),
    record(5, "error", ended=1.5, error="HTTP 500: at 4"),
    record(6, "error", ended=1.5, error="no connection"),
    record(7, "time limit", pieces=[1.0], ended=10.0),
    record(8, "stopped", ended=10.0),
    record(9, ended=1.0, prompt_tokens=30, answer_tokens=0),  # the model ended at once
]
RUN = LevelRun(Level(clients=4), RECORDS, seconds=10.0)


def test_percentiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).exponential(size=1001)
    found = percentiles(values)
    ordered = np.sort(values)
    assert (found.p50, found.p95, found.p99) == (ordered[500], ordered[950], ordered[990])
    assert found.p99 == np.percentile(values, 99)
    assert found.mean == pytest.approx(values.mean())
    assert found.count == 1001
    assert percentiles([1.0, 3.0]).p50 == 2.0, "linear interpolation"
    assert percentiles([]) is None


def test_counts() -> None:
    found = level_report(RUN)
    assert (found.requests, found.done, found.hung_up, found.refused) == (10, 3, 1, 1)
    assert (found.errors, found.time_limit, found.stopped) == (3, 1, 1)
    assert found.mean_retry_after == 2.0
    kinds = [(error.kind, error.count, error.example) for error in found.errors_by_kind]
    assert kinds == [("HTTP 500", 2, "HTTP 500: at 3"), ("no connection", 1, "no connection")]


def test_times() -> None:
    found = level_report(RUN)
    first = found.time_to_first_token
    assert (first.count, first.p50) == (3, 3.0), "3, 2 and 3 seconds; not those that failed"
    assert found.between_pieces.count == 3, "1, 3 and 1 seconds"
    assert found.between_pieces.mean == pytest.approx(5 / 3)
    # (8 - 4) / (6 - 1) tokens, and (4 - 3) / (2 - 1) where pieces are counted.
    assert found.per_output_token.count == 2
    assert found.per_output_token.mean == pytest.approx((0.8 + 1.0) / 2)
    assert found.whole_answer.count == 3
    assert found.whole_answer.mean == pytest.approx((8 + 2 + 1) / 3), "from the planned time"
    assert found.client_lag.p99 == pytest.approx(np.percentile([1.0] + [0.0] * 9, 99))


def test_throughput() -> None:
    found = level_report(RUN)
    assert found.requests_per_second == pytest.approx(0.3)
    # Counted tokens 6 + 1 + 0, and pieces of those without a count: 2 + 1 + 1.
    assert found.output_tokens_per_second == pytest.approx(1.1)
    assert found.total_tokens_per_second == pytest.approx(1.1 + 6.0)
    assert found.mean_prompt_tokens == 20
    assert found.mean_answer_tokens == pytest.approx(7 / 3)
    assert found.tokens_per_piece == pytest.approx(7 / 4)
    assert found.answers_without_usage == 0


def test_a_level_without_records() -> None:
    found = level_report(LevelRun(Level(rate=float("inf"))))
    assert found.requests == 0
    assert found.time_to_first_token is None
    assert found.rate == "inf", "JSON has no infinity"


def test_files(tmp_path) -> None:
    report = LoadReport(
        url="http://s/v1",
        model="small",
        settings={"seed": 0},
        was_stopped=False,
        levels=[level_report(RUN), level_report(LevelRun(Level(rate=2.0)))],
    )
    write_report(tmp_path / "new", report, RECORDS)
    text = (tmp_path / "new" / "report.json").read_text()
    assert LoadReport.model_validate_json(text) == report
    assert json.loads(text, parse_constant=pytest.fail)["levels"][0]["done"] == 3
    schema = LoadReport.model_json_schema()["$defs"]["LevelReport"]
    assert set(json.loads(text)["levels"][0]) == set(schema["required"])
    rows = [
        json.loads(line) for line in (tmp_path / "new" / "requests.jsonl").read_text().splitlines()
    ]
    assert [row["number"] for row in rows] == list(range(10))
    assert rows[0]["pieces"] == [4.0, 5.0, 8.0]
    assert RequestRecord(**rows[0]) == RECORDS[0]
