"""BPE training as it is defined: count all pairs, merge the best one everywhere, repeat."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizer_bpe.input_checks import room_for_merges
from tokenizer_bpe.learned_vocabulary import Pair, Trained, single_bytes, vocabulary_of
from tokenizer_bpe.pretokenization import GPT2_PATTERN, count_words


def count_pairs(words: Mapping[tuple[bytes, ...], int]) -> Counter[Pair]:
    """How often each pair of tokens stands side by side over all words."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge_pair(word: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    """The word with the pair as one token wherever it stands, taken from left to right."""
    left, right = pair
    joined = left + right
    merged: list[bytes] = []
    left_is_free = False  # whether the last token of `merged` is an unused `left`
    for token in word:
        if left_is_free and token == right:
            merged[-1] = joined
            left_is_free = False
        else:
            merged.append(token)
            left_is_free = token == left
    return tuple(merged)


def best_pair(pairs: Mapping[Pair, int]) -> Pair:
    """The pair with the highest count; among equals the larger pair of byte strings."""
    return max(pairs, key=lambda pair: (pairs[pair], pair))


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    verbose: bool = False,
) -> Trained:
    """Train on a file; returns id -> bytes and the merges in order. `verbose` changes nothing."""
    room = room_for_merges(vocab_size, special_tokens)
    counts = count_words(Path(input_path), special_tokens, pattern)
    words = {single_bytes(word): count for word, count in counts.items()}
    merges: list[Pair] = []
    while len(merges) < room:
        pairs = count_pairs(words)
        if not pairs:
            break
        pair = best_pair(pairs)
        words = {merge_pair(word, pair): count for word, count in words.items()}
        merges.append(pair)
    return vocabulary_of(merges, special_tokens), merges
