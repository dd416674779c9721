"""Single elimination: who meets whom, and who wins.

The seed decides the order of the entries in the first round, and which verse of a match is shown
first. If the number of entries is not a power of two, the first ones pass the first round without a
match (a bye), so that every later round is full.

What this leaves out: the votes (votes.py), and a match for the third place.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lm_core.random_state import derived_seed


@dataclass(frozen=True)
class Match:
    """Two entries whose verses are compared, or one entry with a bye.

    Attributes:
        round: from 1.
        number: its number in the round, from 1.
        first: the entry whose verse is shown as verse 1.
        second: that of verse 2; None for a bye.
    """

    round: int
    number: int
    first: str
    second: str | None


@dataclass(frozen=True)
class Decided:
    """A match with its winner."""

    match: Match
    winner: str


def number_of_rounds(num_entries: int) -> int:
    """Return how many rounds decide between that many entries."""
    return math.ceil(math.log2(num_entries))


def play(
    names: Sequence[str], seed: int, better: Callable[[Match], int]
) -> tuple[list[list[Decided]], str]:
    """Play all rounds.

    Args:
        names: the entries, at least two and all different; their order has no effect.
        seed: decides the order in the first round, and the order in a match.
        better: the number of the better verse of a match, 1 or 2; called once for each match that
            is not a bye, in the order of the rounds. What it raises ends the bracket.

    Returns:
        (for each round its matches with their winners, the winner of the last one).
    """
    assert len(set(names)) == len(names) >= 2, f"a bracket of {names}"
    left = sorted(names)
    random.Random(derived_seed(seed, "bracket")).shuffle(left)
    byes = 2 ** number_of_rounds(len(left)) - len(left)
    rounds: list[list[Decided]] = []
    while len(left) > 1:
        number = len(rounds) + 1
        passing = byes if number == 1 else 0
        pairs: list[tuple[str, str | None]] = [(name, None) for name in left[:passing]]
        pairs += zip(left[passing::2], left[passing + 1 :: 2], strict=True)
        rounds.append([_decide(number, i, *pair, seed, better) for i, pair in enumerate(pairs, 1)])
        left = [decided.winner for decided in rounds[-1]]
    return rounds, left[0]


def _decide(
    round_number: int,
    number: int,
    a: str,
    b: str | None,
    seed: int,
    better: Callable[[Match], int],
) -> Decided:
    if b is None:
        return Decided(Match(round_number, number, a, None), a)
    if derived_seed(seed, "first verse", round_number, number) % 2:
        a, b = b, a
    match = Match(round_number, number, a, b)
    return Decided(match, (a, b)[better(match) - 1])
