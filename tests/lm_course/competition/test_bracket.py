"""Single elimination: the numbers of matches and rounds, byes, and the order in a match."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_course.competition.bracket import Match, number_of_rounds, play


@settings(max_examples=60, deadline=None)
@given(num_entries=st.integers(2, 17), seed=st.integers(0, 99), votes=st.integers(0, 99))
def test_everybody_but_the_winner_loses_once(num_entries: int, seed: int, votes: int) -> None:
    names = [f"entry {number}" for number in range(num_entries)]
    draw = random.Random(votes)
    asked: list[Match] = []

    def better(match: Match) -> int:
        asked.append(match)
        return draw.choice((1, 2))

    rounds, winner = play(names, seed, better)
    matches = [decided for matches in rounds for decided in matches]
    played = [decided for decided in matches if decided.match.second is not None]
    assert [decided.match for decided in played] == asked
    losers = [({d.match.first, d.match.second} - {d.winner}).pop() for d in played]
    assert sorted([*losers, winner]) == sorted(names)
    assert len(rounds) == number_of_rounds(num_entries)
    byes = [decided.match for decided in matches if decided.match.second is None]
    assert {match.round for match in byes} <= {1}
    assert 2 * len(rounds[0]) - len(byes) == num_entries
    for number, each in enumerate(rounds, start=1):
        assert [d.match.number for d in each] == list(range(1, len(each) + 1))
        assert {d.match.round for d in each} == {number}


@pytest.mark.parametrize(("entries", "rounds"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)])
def test_the_number_of_rounds(entries: int, rounds: int) -> None:
    assert number_of_rounds(entries) == rounds


def test_the_vote_is_the_number_of_the_verse() -> None:
    for seed in range(8):
        rounds, winner = play(["a", "b"], seed, lambda match: 2)
        assert winner == rounds[0][0].match.second


def test_an_entry_that_gets_every_vote_wins() -> None:
    for favourite in "abcde":
        _, winner = play(list("abcde"), 3, lambda match: 2 if match.second == favourite else 1)  # noqa: B023
        assert winner == favourite


def test_the_seed_alone_decides_who_meets_whom() -> None:
    def first_round(names: str, seed: int) -> list[Match]:
        return [decided.match for decided in play(list(names), seed, lambda match: 1)[0][0]]

    assert first_round("abcdefg", 0) == first_round("gfedcba", 0)
    drawn = {tuple(first_round("abcdefg", seed)) for seed in range(10)}
    assert len(drawn) == 10
    orders = {first_round("ab", seed)[0].first for seed in range(10)}
    assert orders == {"a", "b"}  # also the order in a match


def test_whoever_had_a_bye_is_not_always_shown_first() -> None:
    shown_first = set()
    for seed in range(10):
        [[bye, _], [final]], _ = play(["a", "b", "c"], seed, lambda match: 1)
        shown_first.add(final.match.first == bye.winner)
    assert shown_first == {True, False}
