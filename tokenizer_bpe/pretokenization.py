"""Text -> words: BPE merges inside these pieces, but never across them.

Special tokens are cut out first, and a pattern cuts the rest into words such as " dog" or "'ll".
The trainers only need the count of each word. A file is counted in parts that begin at a document
boundary, so several processes can share it, and no part needs to be large.

How many digits a word may hold (`gpt4_pattern`) decides what a model must learn in order to add.
`benchmarks/digit_rule.py` measures it:

- 1: ten digits, and the carry. Single digits meet in the same ten shapes in every sum.
- 2: a table of 100 by 100. 347 is "34", "7", so its ones are not aligned with the ones of 85.
- 3: a table of 1,000 by 1,000. As one token, an operand of three digits occurs 76 times in the
  whole training, and what was learned of 347 says little about 348. From four digits on, numbers
  are split from the left, so their ones are not aligned.
- 0 (no limit): the same, with splits that follow no rule. No number of four digits was frequent
  enough to become a token: 1100 became "1", "100", and 1998 "199", "8". GPT-2 splits numbers this
  way too.

Large models do add in groups of three digits, and do it better if numbers are split from the right
(Singh and Strouse, 2024, "Tokenization counts", arXiv 2402.14903).

What this leaves out: normalization (the text stays unchanged, byte for byte) and languages written
without spaces, where a "word" is a whole clause.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import BinaryIO

import regex

from lm_core.worker_pool import worker_pool
from tokenizer_bpe.inputs.input_checks import check_special_tokens
from tokenizer_bpe.inputs.text_files import check_text_file, decode_text, safe_separator

GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # openai/gpt-2
)


def gpt4_pattern(max_digits: int = 3) -> str:
    """Return GPT-4's pattern, in which a newline ends a word, with the digit rule as an option.

    A word has at most `max_digits` digits, so that a number is not one rare token: 3 is GPT-4's
    rule, 1 that of Llama 2 and Qwen, and 0 sets no limit, as in GPT-2.
    """
    digits = rf"{{1,{max_digits}}}" if max_digits else "+"
    return (
        rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def digit_limit(pattern: str) -> int | None:
    """Return the `max_digits`, below 1,000, of a pattern from `gpt4_pattern`; None for any
    other.
    """
    found = re.search(r"\\p\{N\}\{1,([0-9]{1,3})\}", pattern)
    limit = int(found[1]) if found else 0
    return limit if pattern == gpt4_pattern(limit) else None


GPT4_PATTERN = gpt4_pattern()


def split_digits_pattern(individual: bool = True) -> str:
    r"""Return GPT-2's pattern applied after digits are cut out, as in SmolLM2.

    The text between two digits is cut by itself, so all whitespace in front of a digit is one
    separate word.

    Args:
        individual: True if every digit is a word; False if every run of digits is.
    """
    digits = r"\p{N}" if individual else r"\p{N}+"
    return (
        rf"'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+|\s+(?![^\s\p{{N}}])|\s+"
    )


PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}


@cache
def ascii_pattern(pattern: str) -> re.Pattern[str] | None:
    r"""Return a pattern that cuts ASCII text as `pattern` does; None for a pattern of your own.

    The standard library's `re` does not support \p{L}, but is 2.1 times as fast as `regex` (45
    against 21 MB/s, 19th-century novels).
    """
    if pattern != GPT2_PATTERN and digit_limit(pattern) is None:
        return None
    # Both together occur only inside [^...], and a single one occurs only outside it.
    for unicode, ascii_only in (
        (r"\p{L}\p{N}", "A-Za-z0-9"),
        (r"\p{L}", "[A-Za-z]"),
        (r"\p{N}", "[0-9]"),
    ):
        pattern = pattern.replace(unicode, ascii_only)
    return re.compile(pattern, re.ASCII)


# In a run of three or more whitespace characters (two at the end of a text), GPT-2's pattern makes
# one word of all but the last. Without such runs, words also end before *every* space and newline,
# and `str.split` does most of the cutting. The class is the whitespace of `regex`; the standard
# library's \s also includes \x1c to \x1f.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SPACE_RUNS = {GPT2_PATTERN: re.compile(rf"([{_SPACE}][{_SPACE}]+(?![^{_SPACE}]))")}

# With all these patterns, a word ends before every space that follows a non-space, whatever comes
# next.
SAFE_CUT = re.compile(r"(?<=\S)(?= )")
BLOCK_CHARACTERS = 2048  # short enough that 96 % of English blocks are pure ASCII
PART_BYTES = 1 << 24  # a process holds about 16 MB of text at a time


def special_token_pattern(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern that matches any of the special tokens, the longest first; None for no
    tokens.

    Raises ValueError for an empty or repeated token.
    """
    check_special_tokens(special_tokens)
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def split_special_tokens(text: str, special_tokens: Sequence[str]) -> list[str]:
    """Cut `text` into pieces; every special token is a separate piece.

    Args:
        text: any text.
        special_tokens: if two match at the same place, the longer one wins.

    Returns:
        Non-empty pieces that, joined, give `text`.

    Raises:
        ValueError: a special token is empty or repeated.
    """
    pattern = special_token_pattern(special_tokens)
    if pattern is None:
        return [text] if text else []
    pieces, end = [], 0
    for match in pattern.finditer(text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]


def open_special_token(text: str, start: int, special_tokens: Iterable[str]) -> int:
    """Return the first place, at or after `start`, where an incomplete special token may begin.

    There, the end of `text` is the beginning of a special token (or of a longer one) that more text
    could complete. Returns `len(text)` if there is none.
    """
    longest = max(map(len, special_tokens), default=0)
    for position in range(max(start, len(text) - longest + 1), len(text)):
        ending = text[position:]
        if any(len(token) > len(ending) and token.startswith(ending) for token in special_tokens):
            return position
    return len(text)


def pretokenize(text: str, pattern: str = GPT2_PATTERN) -> list[str]:
    """Cut `text`, which has no special token, into words that, joined, give `text`.

    Args:
        text: any text.
        pattern: GPT2_PATTERN, one of `gpt4_pattern`, or one of your own in the syntax of the
            `regex` module, without capturing groups, which matches every character.
    """
    if text.isascii() and (fast := ascii_pattern(pattern)):
        return fast.findall(text)
    return regex.findall(pattern, text)


def text_blocks(text: str, pattern: str, size: int = BLOCK_CHARACTERS) -> Iterator[str]:
    """Cut a long text into blocks of about `size` characters, at places where a word certainly
    ends.

    The words of the blocks, in order, are the words of the text. Text without spaces is one block;
    so is all text under a pattern of your own, whose safe places are unknown.
    """
    if ascii_pattern(pattern) is None:
        size = len(text)
    start = 0
    while start < len(text):
        cut = SAFE_CUT.search(text, start + size) if len(text) > start + size else None
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def count_words(
    path_or_texts: Path | str | Iterable[str],
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    num_processes: int = 1,
) -> dict[str, int]:
    """Count every word of a file, or of some texts, outside the special tokens.

    Args:
        path_or_texts: the path of a UTF-8 file, or the texts themselves, read as they come.
        special_tokens: no word contains any part of one. A file is read in parts that begin at one
            of them (END_OF_TEXT if it is listed); a file without any is read whole.
        pattern: see `pretokenize`.
        num_processes: above 1, worker processes are spawned, so call it under `if __name__ ==
            "__main__":`, as always with `multiprocessing`.

    Returns:
        word -> count, in order of first appearance.

    Raises:
        ValueError: the file is missing, empty or not UTF-8; a special token is empty or repeated.
    """
    check_special_tokens(special_tokens)
    if isinstance(path_or_texts, Path | str):
        parts = _file_parts(Path(path_or_texts), special_tokens, num_processes)
    else:
        parts = _text_parts(path_or_texts)
    jobs = iter((part, list(special_tokens), pattern) for part in parts)
    total: Counter[str] = Counter()
    first_two = list(islice(jobs, 2))
    jobs = chain(first_two, jobs)
    if num_processes == 1 or len(first_two) < 2:  # a single part keeps one process busy
        for job in jobs:
            _count_part(job, total)
        return dict(total)
    with worker_pool(num_processes) as pool:
        for counts in pool.map(_count_part, jobs):
            total.update(counts)
    return dict(total)


FilePart = tuple[Path, int, int]  # path, first byte, one past the last byte


def _count_part(
    job: tuple[FilePart | list[str], list[str], str], counts: Counter[str] | None = None
) -> Counter[str]:
    part, special_tokens, pattern = job
    counts = Counter() if counts is None else counts
    for text in [_read_part(*part)] if isinstance(part, tuple) else part:
        for piece in split_special_tokens(text, special_tokens):
            if piece not in special_tokens:
                for block in text_blocks(piece, pattern):
                    counts.update(pretokenize(block, pattern))
    return counts


def _file_parts(
    path: Path, special_tokens: Sequence[str], num_processes: int
) -> Iterator[FilePart]:
    check_text_file(path)
    size = path.stat().st_size
    boundaries = [0, size]
    separator = safe_separator(special_tokens)
    if separator:
        num_chunks = max(num_processes, -(-size // PART_BYTES))
        with path.open("rb") as file:
            boundaries = find_document_boundaries(file, num_chunks, separator.encode())
    for start, end in pairwise(boundaries):
        yield path, start, end


def _text_parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= PART_BYTES // 4:
            yield part
            part, size = [], 0
    if part:
        yield part


def _read_part(path: Path, start: int, end: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(end - start)
    return decode_text(content, path, start)


def find_document_boundaries(file: BinaryIO, num_chunks: int, separator: bytes) -> list[int]:
    """Return offsets at which a file can be cut into about `num_chunks` parts of about equal size.

    Each inner offset is where a `separator` begins: the first at or after an equal share.

    Args:
        file: open for reading bytes.
        num_chunks: the desired number of parts; there may be fewer if documents are long.
        separator: the bytes between documents.

    Returns:
        Ascending offsets in bytes; the first is 0 and the last is the size of the file.
    """
    size = file.seek(0, 2)
    boundaries = {0, size}
    for share in range(1, num_chunks):
        position = size * share // num_chunks
        file.seek(position)
        window = b""
        while block := file.read(1 << 16):
            found = (window + block).find(separator)
            if found >= 0:
                boundaries.add(position - len(window) + found)
                break
            position += len(block)
            # Keep bytes that may begin a separator cut by the end of the block.
            window = (window + block)[max(0, len(window) + len(block) - len(separator) + 1) :]
    return sorted(boundaries)
