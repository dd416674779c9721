"""The report's parts about the documents: the funnel, what the documents are like, examples.

A file that is missing, because an earlier version made the documents, costs what it would show. A
file that cannot be read is named in its place.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter, ValidationError

from lm_core.formats.documents import read_counts
from lm_course.report import report_plots

Part = dict[str, Any]
FEW_SOURCES = 8  # shown without a click
URL_CHARACTERS = 200
MAKE_AGAIN = "make the documents again with `lm data build RECIPE --force`"


class Example(BaseModel):
    """A document of examples.json."""

    url: str
    text: str


class StepExamples(BaseModel):
    """An entry of examples.json."""

    step: str
    kept: list[Example]
    dropped: dict[str, list[Example]]


class Cluster(BaseModel):
    """An entry of clusters.json: near duplicates, of which the first is kept."""

    documents: int
    urls: list[str]


def funnel(documents: Path, seconds: Mapping[str, float]) -> Part | None:
    """Return the table of the steps, and that of the source files if there are several.

    Args:
        documents: the folder of documents.
        seconds: of each step, by its name; may lack some or all.
    """
    if not documents.exists():
        return None
    counts = read_counts(documents)
    widest = max(row["documents_in"] for row in counts) or 1
    rows = [
        {
            "step": row["step"],
            "percent": 100 * row["documents_out"] / widest,
            "documents": row["documents_out"],
            "bytes": row["bytes_out"],
            "seconds": seconds.get(row["step"]),
            "dropped": sorted(row["dropped"].items(), key=lambda item: -item[1]),
        }
        for row in counts
    ]
    named = [name for row in counts for name in row.get("named", [])]
    return {
        "anchor": "funnel",
        "title": "From pages to documents",
        "kind": "funnel",
        "rows": rows,
        "timed": any(row["seconds"] is not None for row in rows),
        "named": named[:5],
        "sources": _sources(counts),
    }


def _sources(counts: list[dict[str, Any]]) -> Part | None:
    """Return what each step left of each source file; None if they were not counted."""
    counted = [row for row in counts if row.get("sources")]
    if not counted:
        return None
    rows = []
    for number, first in enumerate(counted[0]["sources"]):
        left = [row["sources"][number]["documents_out"] for row in counted]
        name = _cut(first["source"]) or f"{first['files']:,} other files"
        share = 100 * left[-1] / (first["documents_in"] or 1)
        rows.append({"name": name, "documents": [first["documents_in"], *left], "percent": share})
    named = sum(bool(source["source"]) for source in counted[0]["sources"])
    steps = [row["step"] for row in counted]
    return {"steps": steps, "rows": rows, "named": named, "few": FEW_SOURCES}


def documents_shown(documents: Path, built: Path) -> Part | None:
    """Return the histograms of length and language, and the largest clusters of near duplicates.

    Args:
        documents: the folder of documents.
        built: the folder that `lm data build` wrote; filters after it write other folders.
    """
    problems: list[str] = []
    try:
        figures = _lengths_and_languages(documents)
    except (pa.ArrowException, OSError, KeyError) as error:
        figures = None
        problems.append(f"{documents.name}: cannot be read ({_first_line(error)}); {MAKE_AGAIN}")
    clusters = _read(built / "clusters.json", list[Cluster], problems)
    if not (figures or clusters or problems):
        return None
    shown = [{"size": c.documents, "urls": [*map(_cut, c.urls)]} for c in clusters or []]
    part = {"figures": figures, "clusters": shown, "searched": clusters is not None}
    return {
        "anchor": "documents",
        "title": "The documents",
        "kind": "documents",
        "problems": problems,
        **part,
    }


def _lengths_and_languages(documents: Path) -> Part | None:
    """Return the plots and the figures below them; None if there is no document."""
    lengths: Counter[int] = Counter()  # by the exponent of the power of two that is not larger
    languages: Counter[str] = Counter()
    total, extremes = 0, []
    for path in sorted(documents.glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["text", "language"]):
                sizes = pc.binary_length(batch.column("text")).to_pylist()
                lengths.update(max(size, 1).bit_length() - 1 for size in sizes)
                languages.update(batch.column("language").to_pylist())
                total += sum(sizes)
                extremes = [min(sizes + extremes), max(sizes + extremes)]
    if not lengths:
        return None
    several = len(languages) > 1
    names = {code or "not known": number for code, number in languages.most_common()}
    return {
        "plots": report_plots.length_histogram(lengths)
        + (report_plots.language_bars(names) if several else ""),
        "documents": lengths.total(),
        "mean": total / lengths.total(),
        "shortest": extremes[0],
        "longest": extremes[1],
        "language": "" if several else next(iter(names)),
    }


def examples(built: Path) -> Part | None:
    """Return what each step kept and dropped, a few of each; None if no file has them.

    Args:
        built: the folder that `lm data build` wrote; its counts.json says how many there were.
    """
    problems: list[str] = []
    entries = _read(built / "examples.json", list[StepExamples], problems)
    if entries is None and not problems:
        return None
    counts = {row["step"]: row for row in read_counts(built)}
    steps = []
    for entry in entries or []:
        row = counts.get(entry.step, {"documents_out": len(entry.kept), "dropped": {}})
        numbers = {
            reason: row["dropped"].get(reason, len(e)) for reason, e in entry.dropped.items()
        }
        reasons = sorted(entry.dropped, key=lambda reason: -numbers[reason])
        groups = [
            {"reason": reason, "number": numbers[reason], "shown": _shown(entry.dropped[reason])}
            for reason in reasons
        ]
        kept = {"reason": "", "number": row["documents_out"], "shown": _shown(entry.kept)}
        steps.append({"step": entry.step, "groups": [*groups, kept]})
    return {
        "anchor": "examples",
        "title": "Examples of what was dropped and kept",
        "kind": "examples",
        "problems": problems,
        "steps": steps,
    }


def _shown(few: list[Example]) -> list[dict[str, str]]:
    return [{"url": _cut(example.url), "text": example.text.strip()} for example in few]


def _read(path: Path, kind: Any, problems: list[str]) -> Any:
    """Return the contents of a JSON file, or None; name it in `problems` if it cannot be read."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        problems.append(f"{path.name}: cannot be read ({reason}); {MAKE_AGAIN}")
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cut(url: str) -> str:
    return url if len(url) <= URL_CHARACTERS else f"{url[: URL_CHARACTERS - 3]}..."
