"""Naive BPE training: count all pairs, merge the most frequent one, and repeat.

Every merge visits every word, so V merges over N token positions cost V * N steps. The lesson
`merge_training` finds the same merges with a priority queue.

What this leaves out: speed.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
algorithm 1, on bytes as in Radford et al. 2019.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizer_bpe.inputs.input_checks import check_special_tokens, check_vocab_size
from tokenizer_bpe.pretokenization import GPT2_PATTERN, count_words

Word = tuple[bytes, ...]  # the tokens of one word, in order
Pair = tuple[bytes, bytes]


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """Count how often each two tokens are adjacent; a word counts as often as it occurs.

    "aaa" contains the pair (a, a) twice: overlaps are counted.
    """
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def best_pair(pairs: Mapping[Pair, int]) -> Pair:
    """Return the most frequent pair; among equals, the larger pair of byte strings.

    >>> best_pair({(b"a", b"b"): 2, (b"a", b"bc"): 2, (b"z", b"z"): 1})
    (b'a', b'bc')
    """
    return max(pairs, key=lambda pair: (pairs[pair], pair))


def merge_pair(word: Word, pair: Pair) -> Word:
    """Replace `pair` by one token wherever it occurs in `word`, from left to right.

    >>> merge_pair((b"a", b"a", b"a"), (b"a", b"a"))
    (b'aa', b'a')
    """
    merged: list[bytes] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    verbose: bool = False,
) -> tuple[dict[int, bytes], list[Pair]]:
    """Train a byte-level BPE vocabulary on a text file.

    Args:
        input_path: a UTF-8 file.
        vocab_size: at most this many entries: the 256 bytes, the merges, the special tokens. There
            are fewer if the text runs out of pairs.
        special_tokens: never part of a merge; they take the last ids, in the order given.
        pattern: the pattern that cuts text into words; no merge crosses a word boundary.
        verbose: print every merge as it is made, with the count of its pair.

    Returns:
        (id -> bytes, merges in the order in which they were made).

    Raises:
        ValueError: the vocabulary is too small, a special token is empty or repeated, or the file
            is missing, empty or not UTF-8.
    """
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    words: dict[Word, int] = {
        tuple(bytes([byte]) for byte in word.encode()): count
        for word, count in count_words(Path(input_path), special_tokens, pattern).items()
    }
    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[Pair] = []
    while len(tokens) + len(special_tokens) < vocab_size:
        pairs = count_pairs(words)
        if not pairs:
            break
        pair = best_pair(pairs)
        if verbose:
            print(f"{len(merges) + 1}: {pair[0]!r} + {pair[1]!r}, {pairs[pair]} times")
        merges.append(pair)
        tokens.append(pair[0] + pair[1])
        words = {merge_pair(word, pair): count for word, count in words.items()}
    tokens += [token.encode() for token in special_tokens]
    return dict(enumerate(tokens)), merges
