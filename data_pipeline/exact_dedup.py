"""Exact repeats: lines that occur in many documents, and documents that are identical byte for
byte.

A line that many pages share is usually a menu, a license or an inherited description. CCNet (Wenzek
et al. 2020, section 3.1) drops such paragraphs, CS336 drops such lines. Lines and documents are
compared by a 64-bit hash, which keeps eight bytes for each distinct line instead of its text. Two
of a million different lines share one with probability 3e-8.

What this leaves out: substrings that cross lines (Lee et al. 2022 use suffix arrays), and a table
of hashes larger than memory.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from pydantic import Field

from lm_core.settings import Settings

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")  # the gap that several dropped lines leave


class ExactDedupSettings(Settings):
    """Thresholds for repeated text.

    Attributes:
        max_documents_per_line: a line that occurs in more documents than this is dropped from
            all of them.
        min_line_characters: a run of repeated lines is dropped only if one is this long.
    """

    max_documents_per_line: int = Field(default=10, ge=1)
    min_line_characters: int = Field(default=30, ge=0)


def text_hash(text: str) -> int:
    """Return 64 bits of BLAKE2b, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def documents_of_each_line(texts: Iterable[str]) -> Counter[int]:
    """Return, for each line's hash, the number of *documents* that contain the line.

    A line that occurs twice in one document counts once. Blank lines do not count.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        lines = {line.strip() for line in text.split("\n")} - {""}
        counts.update(map(text_hash, lines))
    return counts


def drop_repeated_lines(
    text: str, documents_of_line: Counter[int], settings: ExactDedupSettings
) -> tuple[str, int]:
    """Return (the text without lines that too many documents share, the number of lines dropped).

    A run of repeated lines is dropped if one of them is long: without the long lines, the short
    ones would be fragments. A run of short lines only ("import sys", "}") is part of the text and
    stays. `documents_of_line` is the result of `documents_of_each_line`.
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


def first_of_each(texts: Iterable[str]) -> list[int]:
    """Return the positions of the texts that did not occur before, in order."""
    seen: set[int] = set()
    positions = []
    for position, text in enumerate(texts):
        key = text_hash(text)
        if key not in seen:
            seen.add(key)
            positions.append(position)
    return positions
