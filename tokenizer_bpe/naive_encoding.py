"""Naive encoding: split a word into bytes, and apply the earliest merge that fits until none does.

It gives the ids of `tokenizer.Tokenizer`, whose tests compare the two, by following the definition
literally. A merge is made in all its places before anything else, as in GPT-2's own code.

What this leaves out: speed (every merge rescans the whole word, and words are not cached), streams,
and decoding.

Source: Sennrich et al. 2016, section 3.2, on bytes as in Radford et al. 2019.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from tokenizer_bpe.naive_training import Pair, Word, merge_pair
from tokenizer_bpe.pretokenization import GPT2_PATTERN, pretokenize, split_special_tokens


def encode_word(word: bytes, ranks: Mapping[Pair, int], verbose: bool = False) -> Word:
    """Return the tokens of one word.

    Args:
        word: its bytes.
        ranks: pair -> index in the list of merges; the smallest is applied first.
        verbose: print the tokens at the beginning and after every merge.

    >>> encode_word(b"banana", {(b"a", b"n"): 0, (b"an", b"an"): 1}, verbose=True)
    b a n a n a
    b an an a
    b anan a
    (b'b', b'anan', b'a')
    """
    tokens = tuple(bytes([byte]) for byte in word)
    if verbose:
        print_tokens(tokens)
    while pairs := ranks.keys() & set(pairwise(tokens)):
        tokens = merge_pair(tokens, min(pairs, key=ranks.__getitem__))
        if verbose:
            print_tokens(tokens)
    return tokens


def encode(
    text: str,
    vocab: Mapping[int, bytes],
    merges: Sequence[Pair],
    special_tokens: Sequence[str] = (),
    pattern: str = GPT2_PATTERN,
    verbose: bool = False,
) -> list[int]:
    """Return the ids of a text; `vocab` to `pattern` are the arguments of `tokenizer.Tokenizer`."""
    id_of = {token: token_id for token_id, token in vocab.items()}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids: list[int] = []
    for piece in split_special_tokens(text, special_tokens):
        if piece in special_tokens:
            ids.append(id_of[piece.encode()])
            continue
        for word in pretokenize(piece, pattern):
            ids += [id_of[token] for token in encode_word(word.encode(), ranks, verbose)]
    return ids


def print_tokens(tokens: Word) -> None:
    """Print the tokens on one line; a byte that is not a character by itself appears as \\xff."""
    print(*(token.decode("utf-8", errors="backslashreplace") for token in tokens))
