"""Pairs counted in NumPy arrays, and merges made by str.replace."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tokenizer_bpe.inputs.input_checks import check_special_tokens, check_vocab_size
from tokenizer_bpe.pretokenization import GPT2_PATTERN, count_words


class PairCounts(dict):
    """A dict with a name."""


def count_pairs(words: Mapping[tuple[bytes, ...], int]) -> PairCounts:
    tokens = sorted({token for word in words for token in word})
    number_of = {token: number for number, token in enumerate(tokens)}
    flat = np.array([number_of[token] for word in words for token in word], dtype=np.int64)
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    counts = np.repeat(np.array(list(words.values()), dtype=object), lengths)
    word_of = np.repeat(np.arange(len(lengths)), lengths)
    inside = word_of[1:] == word_of[:-1]
    codes = (flat[:-1] * len(tokens) + flat[1:])[inside]
    found, place = np.unique(codes, return_inverse=True)
    sums = np.zeros(len(found), dtype=object)
    np.add.at(sums, place, counts[:-1][inside])
    return PairCounts(
        ((tokens[code // len(tokens)], tokens[code % len(tokens)]), int(total))
        for code, total in zip(found.tolist(), sums, strict=True)
    )


def best_pair(pairs: Mapping[tuple[bytes, bytes], int]) -> tuple[bytes, bytes]:
    highest = sorted(pairs.values())[-1]
    *_, last = sorted(pair for pair, count in pairs.items() if count == highest)
    return last


def merge_pair(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """Write tokens as characters: str.replace works from left to right and overlaps nothing."""
    names = list(dict.fromkeys([*word, *pair, pair[0] + pair[1]]))
    character = {token: chr(0x10000 + number) for number, token in enumerate(names)}
    text = "".join(map(character.__getitem__, word))
    left, right = map(character.__getitem__, pair)
    text = text.replace(left + right, character[pair[0] + pair[1]])
    return tuple(names[ord(each) - 0x10000] for each in text)


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    verbose: bool = False,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    words = {
        tuple(each.to_bytes() for each in word.encode()): count
        for word, count in count_words(input_path, special_tokens, pattern).items()
    }
    merges = []
    for _ in range(vocab_size - 256 - len(special_tokens)):
        if not any(len(word) > 1 for word in words):
            break
        merges.append(best_pair(count_pairs(words)))
        words = {merge_pair(word, merges[-1]): count for word, count in words.items()}
    vocab = {byte: byte.to_bytes() for byte in range(256)}
    for token in [*map(b"".join, merges), *map(str.encode, special_tokens)]:
        vocab[len(vocab)] = token
    return vocab, merges
