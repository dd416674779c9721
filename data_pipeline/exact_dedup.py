"""Exact repeats: lines that occur in many documents, paragraphs that occurred before, and documents
that are identical byte for byte.

A line that many pages share is usually a menu, a license or an inherited description. CS336 drops
such lines; CCNet (Wenzek et al. 2020, section 3.1) drops repeated paragraphs. Texts are compared by
a 64-bit hash. Two of a million different lines share one with probability 3e-8.

Where memory is short (`memory = "bloom"`), a Bloom filter (Bloom 1970) first finds the lines that
may occur twice, and a second reading counts only those. Its false positives cost memory in the
second reading, but no line: the result is the same.

What this leaves out: substrings that cross lines (substring_dedup.py).
"""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.hash_counting.repeated_hashes import repeated_hashes
from lm_core.artifact_paths import TEMPORARY_PREFIX
from lm_core.settings import Settings
from lm_core.user_error import UserError

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")  # the gap that several dropped lines leave
PARAGRAPH_GAP = re.compile(r"(\n(?:[ \t]*\n)+)")


class ExactDedupSettings(Settings):
    """Thresholds for repeated text.

    Attributes:
        max_documents_per_line: a line that occurs in more documents than this is dropped from
            all of them.
        min_line_characters: a run of repeated lines is dropped only if one is this long.
        paragraphs: whether to drop paragraphs that occurred before.
        min_paragraph_characters: a shorter paragraph always stays.
        memory: for the lines. "exact" reads them once and keeps each distinct one's hash; "bloom"
            reads them twice and keeps those that may occur twice. The results are the same.
        bloom_capacity: number of distinct lines that the filter is made for.
        bloom_false_positive_rate: share of new lines that it takes for repeated ones when full.
    """

    max_documents_per_line: int = Field(default=10, ge=1)
    min_line_characters: int = Field(default=30, ge=0)
    paragraphs: bool = False
    min_paragraph_characters: int = Field(default=30, ge=0)
    memory: Literal["exact", "bloom"] = "exact"
    bloom_capacity: int = Field(default=100_000_000, ge=1)
    bloom_false_positive_rate: float = Field(default=0.01, gt=0, lt=1)


def bytes_hash(data: bytes) -> int:
    """Return 64 bits of BLAKE2b, the same on every machine."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """Return the hash of the text in UTF-8."""
    return bytes_hash(text.encode("utf-8"))


def line_hashes(text: str) -> set[int]:
    """Return the hashes of the text's lines, without outer blanks and without blank lines."""
    return {text_hash(line) for line in {line.strip() for line in text.split("\n")} - {""}}


def documents_of_each_line(texts: Iterable[str]) -> Counter[int]:
    """Return, for each line's hash, the number of *documents* that contain the line.

    A line that occurs twice in one document counts once. Blank lines do not count. In the documents
    "a\\nb\\na" and " a", "a" has 2 and "b" has 1.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(line_hashes(text))
    return counts


def drop_repeated_lines(
    text: str, documents_of_line: Counter[int], settings: ExactDedupSettings
) -> tuple[str, int]:
    """Return (the text without lines that too many documents share, the number of lines dropped).

    A run of repeated lines is dropped if one of them is long: without the long lines, the short
    ones would be fragments. A run of short lines only ("import sys", "}") is part of the text and
    stays. `documents_of_line` is the result of `documents_of_each_line`, or of `repeated_lines`.
    """
    lines = text.split("\n")
    kept: list[str] = []
    run: list[str] = []
    for line in [*lines, ""]:  # the empty line closes the last run
        bare = line.strip()
        if bare and documents_of_line[text_hash(bare)] > settings.max_documents_per_line:
            run.append(line)
            continue
        if all(len(repeated.strip()) < settings.min_line_characters for repeated in run):
            kept += run
        run = []
        kept.append(line)
    kept.pop()
    if len(kept) == len(lines):
        return text, 0
    return BLANK_LINES.sub("\n\n", "\n".join(kept)).strip("\n"), len(lines) - len(kept)


def drop_repeated_paragraphs(
    text: str, seen: set[int], settings: ExactDedupSettings
) -> tuple[str, int]:
    """Return (the text without paragraphs that occurred before, the number of paragraphs dropped).

    A paragraph is what blank lines separate; it is compared without the blanks around it. The first
    occurrence stays, in an earlier text or in this one. A dropped paragraph takes the blank lines
    before it along. `seen` holds the hashes of earlier paragraphs; those of this text are added.

    For example, "same\\n\\nown\\n\\nsame" becomes ("same\\n\\nown", 1), if four characters are not
    too short.
    """
    paragraph, *rest = PARAGRAPH_GAP.split(text)
    pieces = [("", paragraph), *zip(rest[::2], rest[1::2], strict=True)]  # gap, paragraph
    kept = []
    for gap, paragraph in pieces:
        bare = paragraph.strip()
        size = len(seen)
        if len(bare) >= settings.min_paragraph_characters:
            seen.add(text_hash(bare))
            if len(seen) == size:
                continue
        kept.append(gap + paragraph if kept else paragraph)
    if len(kept) == len(pieces):
        return text, 0
    return "".join(kept).strip("\n"), len(pieces) - len(kept)


def first_of_each(texts: Iterable[str]) -> list[int]:
    """Return the positions of the texts that did not occur before, in order: of ["b", "a", "b",
    "a "], the positions [0, 1, 3].
    """
    seen: set[int] = set()
    positions = []
    for position, text in enumerate(texts):
        key = text_hash(text)
        if key not in seen:
            seen.add(key)
            positions.append(position)
    return positions


class BloomFilter:
    """A set of 64-bit hashes in a few bits for each: what was added is always found, and so is a
    share `false_positive_rate` of what was not, once `capacity` hashes were added.

    For n hashes and a rate p, it has m = -n ln p / (ln 2)^2 bits, rounded up, of which each hash
    sets k = m/n ln 2, rounded. For n = 1,000 and p = 0.01: m = 9,586 and k = 7. The k positions of
    a hash are (a + i b mod 2^64) mod m for i = 0 ... k - 1 (Kirsch and Mitzenmacher 2006); a is the
    hash, and b is the hash with its halves exchanged, made odd.

    Attributes:
        num_bits, num_hashes: m and k.
        bits: uint8 [m / 8, rounded up]; position p is bit p % 8 of byte p // 8.
    """

    def __init__(self, capacity: int, false_positive_rate: float) -> None:
        if capacity < 1 or not 0 < false_positive_rate < 1:
            raise ValueError(
                "expected a capacity of at least 1 and a false-positive rate between 0 and 1, "
                f"found {capacity} and {false_positive_rate}"
            )
        ideal = -capacity * math.log(false_positive_rate) / math.log(2) ** 2
        self.num_bits = math.ceil(ideal)
        self.num_hashes = max(1, round(ideal / capacity * math.log(2)))
        self.bits = np.zeros(-(-self.num_bits // 8), dtype=np.uint8)

    def places(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of uint64 [n] hashes and the bit in each: two of [n, num_hashes]."""
        first = hashes[:, None]
        second = (first >> np.uint64(32) | first << np.uint64(32)) | np.uint64(1)
        steps = np.arange(self.num_hashes, dtype=np.uint64)
        positions = (first + steps * second) % np.uint64(self.num_bits)  # the sum wraps mod 2^64
        return positions // np.uint64(8), np.uint8(1) << (positions % np.uint64(8)).astype(np.uint8)

    def add_all(self, hashes: np.ndarray) -> np.ndarray:
        """Add uint64 [n] hashes. Return, for each, whether it was probably added before, in an
        earlier call or earlier in this one: bool [n].
        """
        where, bit = self.places(hashes)
        before = (self.bits[where] & bit).all(axis=1)
        is_first = np.zeros(len(hashes), dtype=bool)
        is_first[np.unique(hashes, return_index=True)[1]] = True
        np.bitwise_or.at(self.bits, where, bit)
        return before | ~is_first

    def add(self, key: int) -> bool:
        """Add a hash. Return whether it was probably added before."""
        return bool(self.add_all(np.array([key], dtype=np.uint64))[0])

    def __contains__(self, key: int) -> bool:
        where, bit = self.places(np.array([key], dtype=np.uint64))
        return bool((self.bits[where] & bit).all())


def empty_filter(settings: ExactDedupSettings) -> BloomFilter | None:
    """Return the filter that `settings.memory` asks for."""
    if settings.memory == "exact":
        return None
    return BloomFilter(settings.bloom_capacity, settings.bloom_false_positive_rate)


def repeated_lines(
    read_texts: Callable[[], Iterable[str]], settings: ExactDedupSettings
) -> Counter[int]:
    """Return what `documents_of_each_line` does, but only for the lines of too many documents.

    `read_texts()` returns all texts; it is called twice if `settings.memory` is "bloom".
    """

    def read_hashes() -> Iterator[int]:
        return (key for text in read_texts() for key in line_hashes(text))

    return repeated_hashes(read_hashes, settings.max_documents_per_line, empty_filter(settings))


def deduplicate_lines(
    paths: Sequence[Path | str], folder: Path | str, settings: ExactDedupSettings | None = None
) -> int:
    """Write the files to `folder` without any line that occurs more than once in all of them, and
    return the number of lines dropped. A line that occurs twice in one file is dropped there, too.

    Lines are bytes, so the files need no encoding. A line ends with "\\n" or "\\r\\n", or at the
    end of its file. This end does not count when lines are compared; other blanks do. A blank line
    is a line like any other. Kept lines keep their bytes and their order.

    For example, "a\\nb\\n\\na" and "c\\r\\n\\nb" become "" and "c\\r\\n".

    Args:
        paths: files with different names; each is read twice (three times for memory = "bloom").
        folder: is made if it is missing. Its files of other names stay; if anything fails, all do.
        settings: only `memory` and the filter's are used.

    Raises:
        UserError: two files have one name, a file is missing, or `folder` contains one of them.
    """
    files, folder = [Path(path) for path in paths], Path(folder)
    _check_files(files, folder)

    def read_hashes() -> Iterator[int]:
        return (_hash_of_line(line) for file in files for line in _lines(file))

    repeated = repeated_hashes(read_hashes, 1, empty_filter(settings or ExactDedupSettings()))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as unfinished:
        for file in files:
            with (Path(unfinished) / file.name).open("wb") as out:
                out.writelines(line for line in _lines(file) if _hash_of_line(line) not in repeated)
        for file in files:
            (Path(unfinished) / file.name).replace(folder / file.name)
    return sum(repeated.values())


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        yield from lines


def _hash_of_line(line: bytes) -> int:
    if line.endswith(b"\n"):
        line = line[:-1].removesuffix(b"\r")
    return bytes_hash(line)


def _check_files(files: Sequence[Path], folder: Path) -> None:
    names = Counter(file.name for file in files)
    for file in files:
        if names[file.name] > 1:
            raise UserError(f"{file}: {names[file.name]} files have this name; rename all but one")
        if not file.is_file():
            raise UserError(f"{file}: no such file; expected files to deduplicate")
        if file.resolve().parent == folder.resolve():
            raise UserError(f"{folder}: contains {file.name}, an input; give another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the results, found a file")
