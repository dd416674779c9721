"""Suffixes compared as strings of bytes; windows found by a dictionary of them."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from functools import cmp_to_key
from itertools import groupby

import numpy as np
import regex


def as_bytes(ids):
    """Four bytes for each id, the most significant first, in the order of the ids."""
    ranks = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)[1]
    return ranks.astype(">u4").tobytes()


def suffix_array(ids):
    """Sorted by their first 64 ids; those that agree in them, by more and more."""
    text = as_bytes(ids)

    def first_ids(start):
        return text[4 * start : 4 * start + 256]

    def compare(one, other):
        first = second = b""
        size = 64
        while first == second:
            size *= 2
            first, second = (text[4 * start : 4 * (start + size)] for start in (one, other))
        return 1 if first > second else -1

    order = []
    for _, alike in groupby(sorted(range(len(ids)), key=first_ids), first_ids):
        order += sorted(alike, key=cmp_to_key(compare))
    return np.array(order, dtype=np.int64)


def longest_common_prefixes(ids, suffixes):
    values = np.append(np.asarray(ids, dtype=np.int64), 0)[:-1]
    shared = [0] * len(suffixes)
    for place in range(1, len(suffixes)):
        one, other = suffixes[place - 1], suffixes[place]
        length = len(values) - max(one, other)
        same = values[one : one + length] == values[other : other + length]
        shared[place] = length if same.all() else int(same.argmin())
    return np.array(shared, dtype=np.int64)


def repeated_spans(documents, min_tokens):
    if min_tokens < 1:
        raise ValueError(f"windows of {min_tokens} ids")
    ended, before, spans = {}, 0, []
    for document in documents:
        ids = np.asarray(document, dtype=np.int64)
        if (ids < 0).any():
            raise ValueError(f"the id {ids[ids < 0][0]} is negative")
        text, covered, found = ids.astype(">i8").tobytes(), 0, []
        for start in range(len(ids) - min_tokens + 1):
            window = text[8 * start : 8 * (start + min_tokens)]
            if ended.setdefault(window, before + start + min_tokens) > before + start:
                continue
            if found and start <= covered:
                found[-1] = (found[-1][0], start + min_tokens)
            else:
                found.append((start, start + min_tokens))
            covered = start + min_tokens
        before += len(ids)
        spans.append(found)
    return spans


def drop_repeated_spans(texts, min_words):
    """Pieces are pairs of a word and the blanks behind it."""
    pattern = regex.compile(rf"({WORD.pattern})(\s*+)")
    pieces = [pattern.findall(text) for text in texts]
    numbers = {}
    documents = [[numbers.setdefault(word, len(numbers)) for word, _ in each] for each in pieces]
    result = []
    spans = repeated_spans(documents, min_words)
    for text, each, cuts in zip(texts, pieces, spans, strict=True):
        dropped = {place for first, end in cuts for place in range(first, end)}
        indent = text[: len(text) - len(text.lstrip())]
        words = [word + blanks for place, (word, blanks) in enumerate(each) if place not in dropped]
        left = indent + "".join(words)
        at_the_end = len(each) - 1 in dropped
        shorter = left.rstrip() if at_the_end else left
        result.append((shorter if dropped else text, len(dropped)))
    return result
