"""From text to counted words: special tokens, the patterns that cut words, parallel counting."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import regex

from tokenizer_bpe.input_checks import check_special_tokens, check_text_file, decode_file_text

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DOCUMENT_SEPARATOR = "<|endoftext|>"
READ_BYTES = 16 * 1024


def pretokenize(text: str, pattern: str = GPT2_PATTERN) -> list[str]:
    """The matches of the pattern in the text, from left to right."""
    return [match.group() for match in regex.finditer(pattern, text)]


def special_token_pattern(special_tokens: Sequence[str]) -> regex.Pattern[str] | None:
    """A pattern that finds special tokens, the longest at each place; None if there are none."""
    check_special_tokens(special_tokens)
    if not special_tokens:
        return None
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return regex.compile("|".join(regex.escape(token) for token in longest_first))


def split_special_tokens(text: str, special_tokens: Sequence[str]) -> list[str]:
    """Pieces that join to the text, where each special token is a piece of its own."""
    finder = special_token_pattern(special_tokens)
    matches = finder.finditer(text) if finder is not None else ()
    pieces: list[str] = []
    position = 0
    for match in matches:
        pieces += [text[position : match.start()], match.group()]
        position = match.end()
    pieces.append(text[position:])
    return [piece for piece in pieces if piece]


def _count_text(text: str, special_tokens: Sequence[str], pattern: str) -> Counter[str]:
    """The words of one text, each piece between special tokens cut by itself."""
    known = set(special_tokens)
    counts: Counter[str] = Counter()
    for piece in split_special_tokens(text, special_tokens):
        if piece not in known:
            counts.update(pretokenize(piece, pattern))
    return counts


class FilePart(NamedTuple):
    """What a process needs to know to count the words of a part of a file."""

    path: str
    start: int
    end: int
    special_tokens: tuple[str, ...]
    pattern: str


def count_file_part(part: FilePart) -> Counter[str]:
    """The words in a part of a file (the worker of `count_words`)."""
    with Path(part.path).open("rb") as file:
        file.seek(part.start)
        content = file.read(part.end - part.start)
    text = decode_file_text(content, part.path)
    return _count_text(text, part.special_tokens, part.pattern)


def count_words(
    path_or_texts: Path | str | Iterable[str],
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    num_processes: int = 1,
) -> dict[str, int]:
    """How often each word occurs in a UTF-8 file or in texts, special tokens left out."""
    check_special_tokens(special_tokens)
    counts: Counter[str] = Counter()
    if not isinstance(path_or_texts, (str, Path)):
        for text in path_or_texts:
            counts.update(_count_text(text, special_tokens, pattern))
        return counts
    parts = _parts_of_file(Path(path_or_texts), special_tokens, pattern, num_processes)
    if len(parts) == 1:
        return count_file_part(parts[0])
    with multiprocessing.Pool(min(num_processes, len(parts))) as pool:
        for counted in pool.imap_unordered(count_file_part, parts):
            counts.update(counted)
    return counts


def _parts_of_file(
    path: Path, special_tokens: Sequence[str], pattern: str, num_parts: int
) -> list[FilePart]:
    """The parts to count one by one; one part where cutting the file could change the words."""
    boundaries = [0, check_text_file(path)]
    if num_parts > 1 and _may_cut_at_separator(special_tokens):
        with path.open("rb") as file:
            boundaries = find_document_boundaries(file, num_parts, DOCUMENT_SEPARATOR.encode())
    return [
        FilePart(str(path), start, end, tuple(special_tokens), pattern)
        for start, end in pairwise(boundaries)
    ]


def _may_cut_at_separator(special_tokens: Sequence[str]) -> bool:
    """Whether no other special token can begin before a separator and reach into it."""
    separator = DOCUMENT_SEPARATOR
    if separator not in special_tokens:
        return False
    for token in special_tokens:
        if separator in token[1:]:
            return False
        if any(token[start:] == separator[: len(token) - start] for start in range(1, len(token))):
            return False
    return True


def find_document_boundaries(file: BinaryIO, num_chunks: int, separator: bytes) -> list[int]:
    """Offsets where a file can be cut into about equal parts, each in front of a separator."""
    if not separator:
        raise ValueError("the separator between documents is empty")
    size = file.seek(0, os.SEEK_END)
    boundaries = [0]
    for share in range(1, num_chunks):
        position = size * share // num_chunks
        if share > 1 and position <= boundaries[-1]:
            continue  # the boundary found last is the first one here too
        found = _find_in_file(file, separator, position)
        if found is None:
            break  # and there is none for the later shares
        boundaries.append(found)
    return sorted({*boundaries, size})


def _find_in_file(file: BinaryIO, wanted: bytes, position: int) -> int | None:
    """Where the bytes first begin at or after a position; None if they do not."""
    file.seek(position)
    kept = b""  # the end of what was read, shorter than what is wanted
    kept_position = position
    while block := file.read(max(READ_BYTES, len(wanted))):
        window = kept + block
        found = window.find(wanted)
        if found >= 0:
            return kept_position + found
        keep = min(len(wanted) - 1, len(window))
        kept = window[len(window) - keep :]
        kept_position += len(window) - keep
    return None
