"""Verdicts in a file: what every rule measured of each document, so that other thresholds can be
tried without the texts.

One row of a parquet file is one document: url, source, language, first_failed ("" if it passed all
rules), and a column for each rule with its measured number. The file's metadata holds the settings
with which it was written.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.rule_sets.c4_rules import LINE_SETTINGS
from data_pipeline.rule_sets.rule_verdicts import (
    EVERY_RULE_SET,
    RuleSet,
    RuleSettings,
    rules_of,
)
from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

VERDICTS_FILE = "verdicts.parquet"
TEXT_COLUMNS = ("url", "source", "language", "first_failed")
SETTINGS_KEY = b"rule settings"
FORMAT = {b"format": b"language-model verdicts, version 1"}
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Verdict:
    """The numbers that the rules measured of one document: `measures` maps each rule's name to its
    number. `first_failed` is the first rule that it breaks, or None.
    """

    url: str
    source: str
    language: str
    first_failed: str | None
    measures: dict[str, float]


@dataclass(frozen=True)
class RuleDrops:
    """How many documents a rule drops.

    Attributes:
        broken: documents that break the rule.
        first: documents for which it is the first broken rule. These add up to all drops.
        alone: documents that break no other rule, so would be kept without it.
    """

    broken: int
    first: int
    alone: int


def write_verdicts(
    path: Path,
    verdicts: Iterable[Verdict],
    settings: RuleSettings,
    rule_sets: Sequence[RuleSet] = EVERY_RULE_SET,
) -> int:
    """Write a file of verdicts, complete or not at all, and return their number.

    Args:
        path: of the parquet file.
        verdicts: in the order of their rows, each with the measures of all rules of `rule_sets`.
        settings: with which they were measured.
        rule_sets: that were measured.
    """
    total = 0
    with verdict_file(path, settings, rule_sets) as add:
        for verdict in verdicts:
            add(verdict)
            total += 1
    return total


@contextmanager
def verdict_file(
    path: Path, settings: RuleSettings, rule_sets: Sequence[RuleSet] = EVERY_RULE_SET
) -> Iterator[Callable[[Verdict], None]]:
    """Yield a function that writes a verdict to a file, which appears when the block succeeds; see
    `write_verdicts`.
    """
    names = list(rules_of(settings, rule_sets))
    schema = pa.schema(
        [(name, pa.string()) for name in TEXT_COLUMNS] + [(name, pa.float64()) for name in names],
        metadata={**FORMAT, SETTINGS_KEY: settings.model_dump_json().encode()},
    )
    rows: list[Verdict] = []
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def write_rows() -> None:
            columns = [
                [v.url for v in rows],
                [v.source for v in rows],
                [v.language for v in rows],
                [v.first_failed or "" for v in rows],
                *([v.measures[name] for v in rows] for name in names),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows.clear()

        def add(verdict: Verdict) -> None:
            rows.append(verdict)
            if len(rows) == ROWS_AT_ONCE:
                write_rows()

        yield add
        write_rows()


def read_verdicts(path: Path) -> Iterator[Verdict]:
    """Yield the verdicts of a file in the order written.

    Raises:
        ValueError: the file is missing, or no file of verdicts.
    """
    for batch in _batches(path):
        for row in batch.to_pylist():
            url, source, language, first_failed = (row.pop(name) for name in TEXT_COLUMNS)
            yield Verdict(url, source, language, first_failed or None, row)


def read_settings(path: Path) -> RuleSettings:
    """Return the settings with which a file of verdicts was written.

    Raises:
        ValueError: the file is missing, or no file of verdicts.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        return RuleSettings.model_validate_json(metadata[SETTINGS_KEY])
    except FileNotFoundError:
        raise UserError(f"{path}: no verdicts there; write them with `write_verdicts`") from None
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: expected a parquet file of verdicts, found another file ({problem}); write "
            "it again with `write_verdicts`"
        ) from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    read_settings(path)  # raises if it is another file
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROWS_AT_ONCE)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as verdicts ({error})") from None


def _check_measured(path: Path, settings: RuleSettings) -> None:
    """Raise a UserError unless the file holds what a verdict by these settings needs."""
    written = read_settings(path)
    if "c4" in settings.rules:
        for name in LINE_SETTINGS:
            old, new = getattr(written.c4, name), getattr(settings.c4, name)
            if old != new:
                raise UserError(
                    f"{path}: the lines that C4 keeps were chosen with {name} = {old}, not {new}; "
                    "this setting needs the texts, so write the verdicts again"
                )
    columns = set(pq.read_schema(path).names)
    missing = [name for name in rules_of(settings) if name not in columns]
    if missing:
        raise UserError(
            f"{path}: the rule '{missing[0]}' was not measured; take its set out of `rules`, or "
            "write the verdicts again"
        )


def count_drops(path: Path, settings: RuleSettings) -> tuple[dict[str, RuleDrops], int]:
    """Return (drops of each rule of `settings.rules`, number of documents that pass them all), if
    the documents of a file of verdicts were judged by these settings.

    Raises:
        ValueError: the file is missing or another, or lacks a measure that the settings need.
    """
    _check_measured(path, settings)
    rules = rules_of(settings)
    counts = np.zeros((len(rules), 3), np.int64)
    kept = 0
    for batch in _batches(path):
        broken = np.zeros((len(rules), batch.num_rows), bool)
        for row, (name, (rule, bounds)) in enumerate(rules.items()):
            measured = batch.column(name).to_numpy()
            least, most = rule.bounds(bounds)
            broken[row] = ~((least <= measured) & (measured <= most))
        number = broken.sum(axis=0)
        kept += int((number == 0).sum())
        first = broken & (np.cumsum(broken, axis=0) == 1)
        alone = broken & (number == 1)
        counts += np.stack([part.sum(axis=1) for part in (broken, first, alone)], axis=1)
    drops = {name: RuleDrops(*map(int, row)) for name, row in zip(rules, counts, strict=True)}
    return drops, kept
