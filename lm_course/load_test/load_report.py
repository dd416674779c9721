"""From the records of a load test to its figures, its table and its files.

- Time to first token: from the planned time of a request to its first piece of text.
- Between pieces: from each piece of an answer to the next. A piece may hold several tokens.
- Per output token: from the first piece to the last, divided by the tokens of the answer less one.
- Whole answer: from the planned time to the end; only of answers that were read to their end.

Percentiles are numpy's, with linear interpolation. Tokens are the server's own count (`usage`); for
a client that goes away there is none, and its pieces are counted. What this leaves out: the picture
(load_picture.py).
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from lm_core.artifact_paths import atomic_file
from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.load_run import LevelRun


class Percentiles(pydantic.BaseModel):
    """Seconds: half, 95 and 99 of a hundred values are at most this; `count` values."""

    p50: float
    p95: float
    p99: float
    mean: float
    count: int


class ErrorKind(pydantic.BaseModel):
    """Errors of one kind, and the first of them."""

    kind: str
    count: int
    example: str


class LevelReport(pydantic.BaseModel):
    """The figures of one level; times in seconds, None where nothing was measured."""

    load: str
    rate: float | str | None
    clients: int | None
    requests: int
    done: int
    hung_up: int
    refused: int
    errors: int
    time_limit: int
    stopped: int
    errors_by_kind: list[ErrorKind]
    mean_retry_after: float | None
    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    mean_prompt_tokens: float | None
    mean_answer_tokens: float | None
    tokens_per_piece: float | None
    answers_without_usage: int
    time_to_first_token: Percentiles | None
    between_pieces: Percentiles | None
    per_output_token: Percentiles | None
    whole_answer: Percentiles | None
    client_lag: Percentiles | None


class LoadReport(pydantic.BaseModel):
    """report.json."""

    version: int = 1
    url: str
    model: str
    settings: dict[str, Any]
    was_stopped: bool
    levels: list[LevelReport]
    secrets: dict[str, Any] | None = None


def percentiles(seconds: Iterable[float]) -> Percentiles | None:
    """Return the percentiles of some values; None of none."""
    values = np.asarray(list(seconds), dtype=np.float64)
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    return Percentiles(p50=p50, p95=p95, p99=p99, mean=float(values.mean()), count=len(values))


def first_token_seconds(records: Iterable[RequestRecord]) -> list[float]:
    """Return the time to the first piece of every answer that had one and did not fail."""
    return [record.pieces[0] - record.planned for record in _answered(records) if record.pieces]


def gaps_between_pieces(records: Iterable[RequestRecord]) -> list[float]:
    """Return the times between the pieces of all answers that did not fail."""
    return [gap for record in _answered(records) for gap in np.diff(record.pieces).tolist()]


def _answered(records: Iterable[RequestRecord]) -> list[RequestRecord]:
    return [record for record in records if record.outcome in ("done", "hung up")]


def _per_output_token(records: Iterable[RequestRecord]) -> list[float]:
    return [
        (record.pieces[-1] - record.pieces[0]) / (record.counted_tokens - 1)
        for record in _answered(records)
        if record.pieces and record.counted_tokens > 1
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _kinds(records: Iterable[RequestRecord]) -> list[ErrorKind]:
    """Return the errors by kind, the most frequent first. The kind is what stands before the first
    colon; the rest may differ from request to request.
    """
    texts = [record.error or "" for record in records if record.outcome == "error"]
    counts = Counter(text.partition(":")[0] for text in texts)
    return [
        ErrorKind(
            kind=kind,
            count=count,
            example=next(text for text in texts if text.partition(":")[0] == kind),
        )
        for kind, count in counts.most_common()
    ]


def level_report(run: LevelRun) -> LevelReport:
    """Return the figures of a level."""
    records, level = run.records, run.level
    outcomes = Counter(record.outcome for record in records)
    done = [record for record in records if record.outcome == "done"]
    counted = [record for record in done if record.answer_tokens is not None]
    prompts = [r.prompt_tokens for r in records if r.prompt_tokens is not None]
    num_output = sum(record.counted_tokens for record in records)
    num_pieces = sum(len(record.pieces) for record in counted)
    seconds = max(run.seconds, 1e-9)
    return LevelReport(
        load=level.name,
        rate=None if level.rate is None else "inf" if np.isinf(level.rate) else level.rate,
        clients=level.clients,
        requests=len(records),
        done=len(done),
        hung_up=outcomes["hung up"],
        refused=outcomes["refused"],
        errors=outcomes["error"],
        time_limit=outcomes["time limit"],
        stopped=outcomes["stopped"],
        errors_by_kind=_kinds(records),
        mean_retry_after=_mean([r.retry_after for r in records if r.retry_after is not None]),
        seconds=run.seconds,
        requests_per_second=len(done) / seconds,
        output_tokens_per_second=num_output / seconds,
        total_tokens_per_second=(num_output + sum(prompts)) / seconds,
        mean_prompt_tokens=_mean(prompts),
        mean_answer_tokens=_mean([record.counted_tokens for record in done]),
        tokens_per_piece=(
            sum(record.answer_tokens or 0 for record in counted) / num_pieces
            if num_pieces
            else None
        ),
        answers_without_usage=len(done) - len(counted),
        time_to_first_token=percentiles(first_token_seconds(records)),
        between_pieces=percentiles(gaps_between_pieces(records)),
        per_output_token=percentiles(_per_output_token(records)),
        whole_answer=percentiles(record.ended - record.planned for record in done),
        client_lag=percentiles(record.sent - record.planned for record in records),
    )


def write_report(folder: Path, report: LoadReport, records: Iterable[RequestRecord]) -> None:
    """Write report.json, and requests.jsonl with one line for each request."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "report.json", "w") as file:
        file.write(report.model_dump_json(indent=2) + "\n")
    with atomic_file(folder / "requests.jsonl", "w") as file:
        for record in records:
            file.write(json.dumps(asdict(record)) + "\n")
