"""Special tokens found in a trie, boundaries by overlapping reads, counting in an executor."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import regex

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Trie:
    """The special tokens, letter by letter."""

    __slots__ = ("below", "ends")

    def __init__(self) -> None:
        self.below: defaultdict[str, Trie] = defaultdict(Trie)
        self.ends = False

    def add(self, token: str) -> None:
        node = self
        for letter in token:
            node = node.below[letter]
        if node.ends or not token:
            raise ValueError(f"special token {token!r} is empty or named twice")
        node.ends = True

    def longest(self, text: str, start: int) -> int:
        """Return the end of the longest token that begins at `start`, or `start`."""
        node, end = self, start
        for position in range(start, len(text)):
            if text[position] not in node.below:
                break
            node = node.below[text[position]]
            if node.ends:
                end = position + 1
        return end


def trie_of(special_tokens: Sequence[str]) -> Trie:
    trie = Trie()
    for token in special_tokens:
        trie.add(token)
    return trie


def marked_pieces(text: str, trie: Trie) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is a special token, piece)."""
    begun = position = 0
    while position < len(text):
        end = trie.longest(text, position)
        if end == position:
            position += 1
            continue
        if begun < position:
            yield False, text[begun:position]
        yield True, text[position:end]
        begun = position = end
    if begun < len(text):
        yield False, text[begun:]


def split_special_tokens(text: str, special_tokens: Sequence[str]) -> list[str]:
    return [piece for _, piece in marked_pieces(text, trie_of(special_tokens))]


def pretokenize(text: str, pattern: str = GPT2_PATTERN) -> list[str]:
    return [match[0] for match in regex.compile(pattern).finditer(text)]


def words_of(texts: Iterable[str], special_tokens: Sequence[str], pattern: str) -> Iterator[str]:
    trie = trie_of(special_tokens)
    for text in texts:
        for special, piece in marked_pieces(text, trie):
            if not special:
                yield from pretokenize(piece, pattern)


def counts_of(
    texts: Iterable[str], special_tokens: Sequence[str], pattern: str
) -> defaultdict[str, int]:
    counts: defaultdict[str, int] = defaultdict(int)
    for word in words_of(texts, special_tokens, pattern):
        counts[word] += 1
    return counts


def read_text(path: Path, start: int, end: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(end - start)
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None


def counts_of_part(
    path: Path, special_tokens: Sequence[str], pattern: str, part: tuple[int, int]
) -> dict[str, int]:
    return dict(counts_of([read_text(path, *part)], special_tokens, pattern))


def count_words(
    path_or_texts: Path | str | Iterable[str],
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    num_processes: int = 1,
) -> dict[str, int]:
    special_tokens = list(special_tokens)
    trie_of(special_tokens)
    if not isinstance(path_or_texts, str | os.PathLike):
        return dict(counts_of(path_or_texts, special_tokens, pattern))
    path = Path(path_or_texts)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty")
    separator = "<|endoftext|>"
    clashes = [
        token
        for token in special_tokens
        if token != separator
        and (separator in token or any(token.endswith(separator[:n]) for n in range(1, 13)))
    ]
    if num_processes == 1 or separator not in special_tokens or clashes:
        return counts_of_part(path, special_tokens, pattern, (0, size))
    with path.open("rb") as file:
        cuts = find_document_boundaries(file, num_processes, separator.encode())
    work = partial(counts_of_part, path, special_tokens, pattern)
    total: dict[str, int] = {}
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as executor:
        for counts in executor.map(work, pairwise(cuts)):
            for word, count in counts.items():
                total[word] = total.get(word, 0) + count
    return total


def find_document_boundaries(file: BinaryIO, num_chunks: int, separator: bytes) -> list[int]:
    size = file.seek(0, os.SEEK_END)
    step = max(4096, len(separator))

    def next_separator(position: int) -> int:
        while position < size:
            file.seek(position)
            found = file.read(step + len(separator) - 1).find(separator)
            if found >= 0:
                return position + found
            position += step
        return size

    shares = (size * share // num_chunks for share in range(1, num_chunks))
    return sorted({0, size, *map(next_separator, shares)})
