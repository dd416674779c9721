"""All words in one linked list of nodes; the positions of a pair in a set; a heap of objects."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenizer_bpe.inputs.input_checks import check_special_tokens, check_vocab_size
from tokenizer_bpe.pretokenization import GPT2_PATTERN, count_words


class Node:
    """A token of a word. `number` orders the nodes of a word from left to right."""

    __slots__ = ("before", "following", "number", "token", "weight")

    def __init__(self, number: int, token: int, weight: int) -> None:
        self.number, self.token, self.weight = number, token, weight
        self.before: Node | None = None
        self.following: Node | None = None


class Candidate:
    """A pair with the count that it had; the best is the smallest, as heapq wants it."""

    __slots__ = ("count", "pair", "sides")

    def __init__(self, count: int, pair: tuple[int, int], tokens: list[bytes]) -> None:
        self.count, self.pair = count, pair
        self.sides = tokens[pair[0]], tokens[pair[1]]

    def __lt__(self, other: "Candidate") -> bool:
        return (self.count, self.sides) > (other.count, other.sides)


class Corpus:
    """The linked list, with the count and the places of every pair."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.places: defaultdict[tuple[int, int], dict[int, Node]] = defaultdict(dict)
        number = 0
        for word, weight in counts.items():
            before = None
            for byte in word.encode():
                node = Node(number, byte, weight)
                number += 1
                if before is not None:
                    before.following, node.before = node, before
                    self.add(before, 1)
                before = node

    def add(self, left: Node, sign: int) -> None:
        """Count, or no longer count, the pair that begins at a node."""
        pair = left.token, left.following.token
        self.counts[pair] += sign * left.weight
        if sign > 0:
            self.places[pair][left.number] = left
        else:
            self.places[pair].pop(left.number, None)

    def merge(self, pair: tuple[int, int], new: int) -> set[tuple[int, int]]:
        """Make the merge at every place; return the pairs that are new."""
        made = set()
        for _, left in sorted(self.places.pop(pair).items()):
            right = left.following
            if right is None or (left.token, right.token) != pair:
                continue  # the merge before this one took the left token
            if left.before is not None:
                self.add(left.before, -1)
            if right.following is not None:
                self.add(right, -1)
            left.token, left.following = new, right.following
            right.token = -1
            if left.following is not None:
                left.following.before = left
                self.add(left, 1)
                made.add((new, left.following.token))
            if left.before is not None:
                self.add(left.before, 1)
                made.add((left.before.token, new))
        del self.counts[pair]
        self.places.pop(pair, None)
        return made


def train_bpe_from_counts(
    counts: Mapping[str, int],
    vocab_size: int,
    special_tokens: Sequence[str],
    on_merge: Callable[[int], None] | None = None,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    tokens = [byte.to_bytes() for byte in range(256)]
    corpus = Corpus(counts)
    heap = [Candidate(count, pair, tokens) for pair, count in corpus.counts.items()]
    heapq.heapify(heap)
    merges: list[tuple[bytes, bytes]] = []
    while heap and len(tokens) + len(special_tokens) < vocab_size:
        best = heapq.heappop(heap)
        count = corpus.counts.get(best.pair, 0)
        if count != best.count:
            if count > 0:
                heapq.heappush(heap, Candidate(count, best.pair, tokens))
            continue
        merges.append(best.sides)
        tokens.append(b"".join(best.sides))
        for pair in corpus.merge(best.pair, len(tokens) - 1):
            if corpus.counts[pair] > 0:
                heapq.heappush(heap, Candidate(corpus.counts[pair], pair, tokens))
        if on_merge:
            on_merge(len(merges))
    return dict(enumerate([*tokens, *map(str.encode, special_tokens)])), merges


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    counts = count_words(input_path, special_tokens, pattern)
    return train_bpe_from_counts(counts, vocab_size, special_tokens)
