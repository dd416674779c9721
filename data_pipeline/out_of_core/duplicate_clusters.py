"""Clusters of near duplicates among more documents than fit in memory, the same as the lesson's.

Signatures are cut into bands while texts are read, and only shingles and 64-bit hashes of the bands
are kept, on disk. Then one band at a time is sorted by its hashes; equal hashes are a bucket. If a
band is too large to be sorted in memory, it is sorted in parts, each a range of hashes, with one
reading of the band for each part. The documents of a bucket are compared by their shingles, which
are read from a memory-mapped file, and joined in an array of one number for each document.

Why the clusters are those of `minhash_dedup.duplicate_components`: both are the connected
components of the same graph, in which two documents are neighbours if they share a band and their
true similarity reaches the threshold. Neither compares two documents that are connected already,
and an edge inside a component changes no component. Hence the order of bands, parts and comparisons
does not matter, and neither does the size of chunks or the number of processes. For the same reason
a bucket of n copies takes n - 1 comparisons: the first one joins each. The hash of a band replaces
the band itself, see `band_hashes`.

Memory: 16 bytes for each document (where its shingles begin, its component), the sorting of one
part of a band, a few chunks, and mapped pages, which are given back after every part of a bucket.

What this leaves out: several machines; a bucket of n documents that are all dissimilar still takes
n^2 / 2 comparisons.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.compiled.bucket_joining import BucketJoiner, Buckets, point_at_first
from data_pipeline.minhash_dedup import MinHashSettings, bands_and_rows
from data_pipeline.out_of_core.sketch_files import (
    CHUNK_DOCUMENTS,
    SketchFiles,
    sketches,
    write_sketches,
)

SORT_BYTES = 128 << 20
SORT_BYTES_PER_DOCUMENT = 64  # hash, document, order, and the sorted copies
MAPPED_BYTES = 128 << 20  # about as many are mapped before they are given back
PAGE_BYTES = 1 << 20  # mapped by one access: 0.6 MB for each document on ext4, Linux 6.18


def buckets_of(hashes: np.ndarray, documents: np.ndarray) -> Buckets:
    """Return the documents that share a hash with another, in order of the hashes.

    Args:
        hashes: of the band, uint64.
        documents: their numbers, rising; int64.
    """
    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    as_before = np.zeros(len(order) + 1, dtype=bool)
    as_before[1:-1] = ranked[1:] == ranked[:-1]
    repeated = as_before[:-1] | as_before[1:]
    return Buckets(documents[order[repeated]], ~as_before[:-1][repeated])


def band_parts(files: SketchFiles, band: int, bands: int, sort_bytes: int) -> Iterator[Buckets]:
    """Yield the buckets of one band, in as many parts as `sort_bytes` demands."""
    needed = files.num_documents * SORT_BYTES_PER_DOCUMENT
    num_parts = max(1, -(-needed // sort_bytes))
    for part in range(num_parts):
        hashes, documents = [], []
        before = 0
        for chunk in files.band(band, bands):
            # the upper 32 bits, cut into num_parts ranges of equal size
            range_of = (chunk >> np.uint64(32)) * np.uint64(num_parts) >> np.uint64(32)
            here = np.flatnonzero(range_of == part)
            hashes.append(chunk[here])
            documents.append(here + before)
            before += len(chunk)
        yield buckets_of(np.concatenate(hashes), np.concatenate(documents))


def _cuts(lengths: np.ndarray) -> list[int]:
    """Return where to cut the members so that a part maps about MAPPED_BYTES; [0, ..., members]."""
    sizes = np.cumsum(8 * lengths + PAGE_BYTES)
    marks = np.arange(MAPPED_BYTES, int(sizes[-1]), MAPPED_BYTES)
    inner = np.searchsorted(sizes, marks, side="right")
    return np.unique(np.concatenate([[0], inner, [len(lengths)]])).tolist()


def join_band_parts(
    files: SketchFiles, parts: Iterable[Buckets], parents: np.ndarray, threshold: float
) -> None:
    """Compare the documents of all buckets, and join those that are similar in `parents`."""
    mapped, values = files.mapped_shingles()
    for part in parts:
        buckets = part.apart(parents)
        if not len(buckets.members):
            continue
        joiner = BucketJoiner(buckets)
        cuts = _cuts(np.diff(files.starts)[buckets.members])
        for start, stop in pairwise(cuts):
            joiner.join(start, stop, values, files.starts, parents, threshold)
            if hasattr(mapped, "madvise"):
                mapped.madvise(mmap.MADV_DONTNEED)
    point_at_first(parents)


def duplicate_clusters(
    texts: Iterable[str],
    settings: MinHashSettings,
    scratch_folder: Path | str,
    num_processes: int = 1,
    *,
    chunk_documents: int = CHUNK_DOCUMENTS,
    sort_bytes: int = SORT_BYTES,
) -> np.ndarray:
    """Return the first document of each document's cluster: int64 [documents].

    A document without near duplicates is its own cluster; the documents to keep are those where
    the result equals `np.arange(len(result))`.

    Args:
        texts: read once, a few chunks ahead.
        settings: see MinHashSettings.
        scratch_folder: made if it is missing; files of about 8 bytes for each shingle and for each
            band of a document are in a new folder there, which is removed at the end, even after an
            error.
        num_processes: that compute signatures; does not change the result.
        chunk_documents: documents that a process gets at a time; does not change the result.
        sort_bytes: memory for the sorting of a band; does not change the result.

    Raises ValueError if the settings' `num_bands` does not divide `num_hashes`.
    """
    bands, _ = bands_and_rows(settings)
    Path(scratch_folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_folder, prefix="near_duplicates.") as folder:
        parts = sketches(texts, settings, num_processes, chunk_documents)
        files = write_sketches(parts, Path(folder))
        parents = np.arange(files.num_documents)
        if files.num_documents:
            every = (
                part for band in range(bands) for part in band_parts(files, band, bands, sort_bytes)
            )
            join_band_parts(files, every, parents, settings.threshold)
    return parents
