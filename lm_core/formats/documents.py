"""The documents artifact: parquet files of cleaned text, with the counts of every step that made
them.

Columns: id, text, source, url, language, scores (map of name to float). `counts.json`, in the same
folder, holds one row per step:
{"step", "documents_in", "documents_out", "bytes_in", "bytes_out", "dropped": {reason: documents}},
"named", a list of pages, if a step could not read some, and "sources", if the pages are of several
files: [{"source", "documents_in", "documents_out"}]; "" is the sum over all that are not named.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lm_core.artifact_paths import atomic_folder, read_json, write_json
from lm_core.user_error import UserError

MAKE_DOCUMENTS = "lm data build RECIPE"
COUNTS_FILE = "counts.json"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("language", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
    ],
    metadata={"format": "language-model documents, version 1"},
)


@dataclass(frozen=True)
class Document:
    """One cleaned page. `id` is `document_id(text)`; `scores` are measured by filters, such as the
    language confidence.
    """

    id: str
    text: str
    source: str
    url: str
    language: str = ""
    scores: dict[str, float] = field(default_factory=dict)


def document_id(text: str) -> str:
    """Return the first 16 hex digits of the text's SHA-256: the same on every machine."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def write_documents(
    folder: Path,
    documents: Iterable[Document],
    counts: list[dict[str, Any]],
    rows_per_file: int = 4096,
    others: Mapping[str, Any] | None = None,
    files: Iterable[Path] = (),
) -> int:
    """Write `folder` atomically: part-00000.parquet and so on, counts.json, whose last row is that
    of the step which writes, `others` as JSON files, and `files`, which are moved there. Return the
    number of documents.
    """
    total = 0
    with atomic_folder(folder) as temporary:
        rows: list[dict[str, Any]] = []
        parts = 0
        for document in documents:
            rows.append({**asdict(document), "scores": list(document.scores.items())})
            total += 1
            if len(rows) == rows_per_file:
                _write_part(temporary, parts, rows)
                rows, parts = [], parts + 1
        if rows or parts == 0:
            _write_part(temporary, parts, rows)
        said = counts[-1].get("documents_out") if counts else None
        assert said == total, f"{total} documents, {said} in the last row of counts: append a row"
        for name, value in {COUNTS_FILE: counts, **(others or {})}.items():
            write_json(temporary / name, value)
        for file in files:
            file.rename(temporary / file.name)
    return total


def _write_part(folder: Path, index: int, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, folder / f"part-{index:05}.parquet", compression="zstd")


def read_documents(folder: Path) -> Iterator[Document]:
    """Yield the documents in the order written, with one row group in memory at a time.

    Raises:
        ValueError: the folder is missing, holds no document, or holds a parquet file that cannot be
            read as documents.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise UserError(f"{folder}: no documents there; make them with `{MAKE_DOCUMENTS}`")
    found = False
    for part in parts:
        for row in _read_part(part):
            found = True
            yield Document(**{**row, "scores": dict(row["scores"] or [])})
    if not found:
        raise UserError(f"{folder}: holds no document; its counts.json says why pages were dropped")


def _read_part(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise UserError(f"columns are {file.schema_arrow.names}, not {SCHEMA.names}")
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as documents ({error}); make it again with `{MAKE_DOCUMENTS}`"
        ) from None


def read_counts(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of counts.json: documents and bytes in and out of every step, in order."""
    return read_json(folder / COUNTS_FILE, "the table of counts", MAKE_DOCUMENTS)


def text_bytes(folder: Path) -> int:
    """Return the UTF-8 bytes of all documents, as counted when they were written."""
    return read_counts(folder)[-1]["bytes_out"]
