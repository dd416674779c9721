"""Shared parts of the checks of a1: slow, obvious oracles, one small corpus, a counter of work.

Nothing here imports the code under test. What this leaves out: speed; every oracle recounts.
"""

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import regex

from lm_course.containment.step_counter import StepCounter
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import Causes, check_equal, check_raises, likely_cause, shown

sys.path.insert(0, str(Path(__file__).parent))  # for the strategies beside it

END = "<|endoftext|>"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = (
    "The owl that calls upon the night speaks the unbeliever's fright. Tell me, what's the\n"
    "answer? They'll all say: «where the heart is, there we'll be».\n\n\n  In 1789 and 2024, "
    f"naïve cafés — 東京の夜 🦉🦉 — stayed open.{END}Another document: the other thing, then "
    f"the rest of the theatre; aaaaaaa bbbb aaabbb!!{END}{END}\tthe\r\nend of the tether."
)

Pair = tuple[bytes, bytes]


def words_of(text: str, special_tokens: list[str], pattern: str = GPT2) -> list[str]:
    """Return the words outside the special tokens; at one position, the longest of them wins."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    either = "|".join(map(regex.escape, longest_first))
    pieces = regex.split(either, text) if either else [text]
    return [word for piece in pieces for word in regex.findall(pattern, piece)]


def merge_once(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """Merge `pair` from left to right."""
    merged = list(tokens)
    position = 0
    while position < len(merged) - 1:
        if (merged[position], merged[position + 1]) == pair:
            merged[position : position + 2] = [pair[0] + pair[1]]
        position += 1
    return merged


def train(counts: Mapping[str, int], num_merges: int) -> list[Pair]:
    """Return the merges; count all pairs again for each of them."""
    merges: list[Pair] = []
    words = [([bytes([byte]) for byte in word.encode()], n) for word, n in counts.items()]
    while len(merges) < num_merges:
        pairs = pairs_of(words)
        if not pairs:
            break
        most = max(pairs.values())
        merges.append(max(pair for pair, count in pairs.items() if count == most))
        words = [(merge_once(tokens, merges[-1]), count) for tokens, count in words]
    return merges


def pairs_of(words: list[tuple[list[bytes], int]]) -> Counter[Pair]:
    """Return the count of every pair."""
    pairs: Counter[Pair] = Counter()
    for tokens, count in words:
        for pair in pairwise(tokens):
            pairs[pair] += count
    return pairs


def count_pairs(counts: Mapping[str, int], merges: list[Pair]) -> Counter[Pair]:
    """Return the count of every pair after these merges."""
    words = []
    for word, count in counts.items():
        tokens = [bytes([byte]) for byte in word.encode()]
        for pair in merges:
            tokens = merge_once(tokens, pair)
        words.append((tokens, count))
    return pairs_of(words)


def vocabulary(merges: list[Pair], special_tokens: list[str]) -> dict[int, bytes]:
    """Return the vocabulary: 256 bytes, merges, special tokens."""
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    return dict(enumerate(tokens + [token.encode() for token in special_tokens]))


def encode(
    text: str,
    vocab: Mapping[int, bytes],
    merges: list[Pair],
    special_tokens: list[str],
    pattern: str = GPT2,
) -> list[int]:
    """Return the ids of `text`: apply every merge in turn to every word."""
    id_of = {token: token_id for token_id, token in vocab.items()}
    longest_first = sorted(special_tokens, key=len, reverse=True)
    ids: list[int] = []
    start = position = 0
    while position <= len(text):
        here = (token for token in longest_first if text.startswith(token, position))
        token = next(here, None)
        if token is None and position < len(text):
            position += 1
            continue
        for word in regex.findall(pattern, text[start:position]):
            tokens = [bytes([byte]) for byte in word.encode()]
            for pair in merges:
                tokens = merge_once(tokens, pair)
            ids += [id_of[part] for part in tokens]
        if token is None:
            break
        ids.append(id_of[token.encode()])
        start = position = position + len(token)
    return ids


def expect(got: Any, expected: Any, sentence: str, causes: Causes | None = None) -> None:
    """Fail with `sentence` unless both are equal and of one type.

    The sentence ends with the likely cause or, if none is known, with the first difference.
    """
    try:
        check_equal(got, expected, sentence)
    except GradedFailure as failure:
        cause = likely_cause(got, expected, causes)
        if not cause:
            raise
        values = str(failure).split("\n")[1:]
        raise GradedFailure("\n".join([f"{sentence}: {cause}", *values])) from None


def expect_value_error(call: Callable[[], Any], what: str, names: str = "") -> None:
    """Fail unless `call` raises a ValueError whose message contains `names`."""
    check_raises(ValueError, call, what, [names] if names else [])


def dict_of(got: Any, name: str) -> dict[Any, Any]:
    """Return the result of the function `name` as a dict; fail if it is not a mapping."""
    if got is None:
        raise GradedFailure(f"{name} returned None; is `return` missing?")
    if not isinstance(got, Mapping):
        kind = type(got).__name__
        raise GradedFailure(f"{name}: expected a dict, got a {kind}\n  got  {shown(got)}")
    return dict(got)


def trained(got: Any) -> tuple[dict[int, bytes], list[Pair]]:
    """Return (vocab, merges) from the result of a trainer; fail if it is something else."""
    if got is None:
        raise GradedFailure("the trainer returned None; is `return` missing?")
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise GradedFailure(f"the trainer must return (vocab, merges)\n  got  {shown(got)}")
    vocab, merges = got
    if isinstance(merges, Mapping) and not isinstance(vocab, Mapping):
        raise GradedFailure("the trainer returns (merges, vocab): return the vocabulary first")
    if not isinstance(merges, list | tuple):
        kind = type(merges).__name__
        raise GradedFailure(f"the second value of (vocab, merges) is a {kind}: return a list")
    return dict_of(vocab, "the trainer's vocabulary"), list(merges)


def processor_seconds(call: Callable[..., object], *arguments: Any, **options: Any) -> float:
    """Return the processor time of a call in this process; other processes do not count.

    Python's garbage collector is off meanwhile: it looks at all objects of the process, and may do
    so in any of the calls that are compared.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        start = time.process_time()
        call(*arguments, **options)
        return time.process_time() - start
    finally:
        if collects:
            gc.enable()


def seconds_of_children() -> float:
    """Return the processor time of child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.fixture(scope="session")
def a1() -> Iterator[SimpleNamespace]:
    """Provide the oracles and the comparisons."""
    special_tokens = [END]
    merges = train(Counter(words_of(CORPUS, special_tokens)), 120)
    yield SimpleNamespace(
        END=END,
        GPT2=GPT2,
        GPT4=GPT4,
        CORPUS=CORPUS,
        StepCounter=partial(StepCounter, c_calls=True),
        count_pairs=count_pairs,
        dict_of=dict_of,
        encode=encode,
        expect=expect,
        expect_value_error=expect_value_error,
        merge_once=merge_once,
        merges=merges,
        processor_seconds=processor_seconds,
        seconds_of_children=seconds_of_children,
        shown=shown,
        special_tokens=special_tokens,
        train=train,
        trained=trained,
        vocab=vocabulary(merges, special_tokens),
        vocabulary=vocabulary,
        words_of=words_of,
    )
