"""Documents between two steps, in a file: only a few are in memory.

Such a file is an Arrow stream with a record batch for each batch of documents. It can be read many
times, all of it or only the texts.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from lm_core.artifact_paths import TEMPORARY_PREFIX, remove_path
from lm_core.formats.documents import SCHEMA, Document

ROWS, BYTES = 1024, 8_000_000  # of a record batch, at most, unless a document is larger
OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield an empty folder beside `beside`, and remove it at the end, also after an error.

    Its name is that of an unfinished artifact: what a killed process leaves, the next `lm` removes.
    """
    beside.parent.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, suffix="scratch", dir=beside.parent)
    try:
        yield Path(name)
    finally:
        remove_path(Path(name))


class ScratchDocuments:
    """Documents in a file. Iterating over it yields them in order, as often as you like."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, documents: Iterable[Document]) -> None:
        """Write the file."""
        rows: list[dict[str, Any]] = []
        size = 0
        with pa.ipc.new_stream(self.path, SCHEMA, options=OPTIONS) as writer:
            for document in documents:
                rows.append({**asdict(document), "scores": list(document.scores.items())})
                size += len(document.text)
                if len(rows) == ROWS or size >= BYTES:
                    writer.write(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                    rows, size = [], 0
            if rows:
                writer.write(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))

    def __iter__(self) -> Iterator[Document]:
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                for row in batch.to_pylist():
                    yield Document(**{**row, "scores": dict(row["scores"])})

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink()


class Texts:
    """The texts of documents in a file, to read as often as needed."""

    def __init__(self, documents: ScratchDocuments) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[str]:
        return self._column("text")

    def urls(self) -> Iterator[str]:
        """Yield the URL of each document."""
        return self._column("url")

    def _column(self, name: str) -> Iterator[str]:
        with pa.OSFile(str(self.documents.path)) as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                yield from batch.column(SCHEMA.get_field_index(name)).to_pylist()
