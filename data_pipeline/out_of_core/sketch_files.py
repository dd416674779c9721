"""The files that the search for near duplicates keeps: shingles and band hashes of all documents.

Two files are written chunk by chunk, in the order of the documents: the shingles (8 bytes each) and
the band hashes (8 bytes for each band). Memory holds only where each document's shingles begin.
"""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipeline.compiled.shingle_sets import shingle_sets_of_texts
from data_pipeline.compiled.signatures import band_hashes, signatures
from data_pipeline.minhash_dedup import MinHashSettings, bands_and_rows, hash_functions
from lm_core.worker_pool import worker_pool

CHUNK_DOCUMENTS = 4096
CHUNK_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Sketch:
    """Of the documents of one chunk.

    Attributes:
        shingles: see `shingle_sets`; uint64.
        lengths: the number of each document's shingles; int64 [documents].
        hashes: uint64 [bands, documents].
    """

    shingles: np.ndarray
    lengths: np.ndarray
    hashes: np.ndarray


def sketch(texts: list[str], settings: MinHashSettings) -> Sketch:
    """Return shingles and band hashes of these texts."""
    shingles, starts = shingle_sets_of_texts(texts, settings.ngram_words)
    rows = signatures(shingles, starts, hash_functions(settings))
    return Sketch(shingles, np.diff(starts), band_hashes(rows, *bands_and_rows(settings)))


def chunks(texts: Iterable[str], max_documents: int, max_characters: int) -> Iterator[list[str]]:
    """Yield the texts in lists; a list ends with the text that reaches one of the limits."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) >= max_documents or characters >= max_characters:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def sketches(
    texts: Iterable[str], settings: MinHashSettings, num_processes: int, chunk_documents: int
) -> Iterator[Sketch]:
    """Yield the sketches of all texts, in order; texts are read a few chunks ahead."""
    parts = chunks(texts, chunk_documents, CHUNK_CHARACTERS)
    if num_processes == 1:
        yield from (sketch(part, settings) for part in parts)
        return
    first = list(islice(parts, 1))
    if not first:
        return
    with worker_pool(num_processes) as pool:
        function = partial(sketch, settings=settings)
        yield function(first[0])
        yield from pool.map(function, parts)


@dataclass
class SketchFiles:
    """The two files, in a folder that the caller removes.

    Attributes:
        folder: where they are.
        starts: where each document's shingles begin, and the end; int64 [documents + 1].
        chunk_sizes: documents in each chunk of the file of band hashes.
    """

    folder: Path
    starts: np.ndarray
    chunk_sizes: list[int] = field(default_factory=list)

    @property
    def num_documents(self) -> int:
        """Number of documents written."""
        return len(self.starts) - 1

    def mapped_shingles(self) -> tuple[mmap.mmap, np.ndarray]:
        """Return the file of shingles mapped into memory, and as an array that cannot be changed.

        The file is not empty, so there is at least one document.
        """
        with (self.folder / "shingles").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return mapped, np.frombuffer(mapped, dtype=np.uint64)

    def band(self, number: int, bands: int) -> Iterator[np.ndarray]:
        """Yield the hashes of one band, chunk by chunk, in the order of the documents."""
        with (self.folder / "bands").open("rb") as file:
            before = 0
            for size in self.chunk_sizes:
                file.seek(8 * (bands * before + number * size))
                yield np.fromfile(file, dtype=np.uint64, count=size)
                before += size


def write_sketches(parts: Iterable[Sketch], folder: Path) -> SketchFiles:
    """Write sketches to the folder as they come."""
    lengths = [np.zeros(1, dtype=np.int64)]
    files = SketchFiles(folder, lengths[0])
    with (folder / "shingles").open("wb") as shingles, (folder / "bands").open("wb") as bands:
        for part in parts:
            part.shingles.tofile(shingles)
            part.hashes.tofile(bands)
            lengths.append(part.lengths)
            files.chunk_sizes.append(len(part.lengths))
    files.starts = np.cumsum(np.concatenate(lengths))
    return files
