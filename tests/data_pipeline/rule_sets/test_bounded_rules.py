"""Bounds are inclusive, come from settings or are numbers, and the first broken rule is named."""

import pytest

from data_pipeline.rule_sets.bounded_rules import Rule, first_broken
from data_pipeline.rule_sets.text_statistics import TextStatistics
from lm_core.settings import Settings


class Bounds(Settings):
    """Bounds for the tests.

    Attributes:
        least: the smallest number of words.
        most: the largest number of words.
    """

    least: int = 2
    most: int = 3


def count_words(page: TextStatistics) -> float:
    return len(page.words)


@pytest.mark.parametrize(("words", "holds"), [(1, False), (2, True), (3, True), (4, False)])
def test_the_bounds_themselves_pass(words, holds):
    assert Rule(count_words, "least", "most").holds(words, Bounds()) == holds
    assert Rule(count_words, 2, 3).holds(words, Bounds()) == holds


def test_a_rule_without_a_bound_has_none_on_that_side():
    assert Rule(count_words, at_most="most").holds(-5, Bounds())
    assert Rule(count_words, "least").holds(10**9, Bounds())


def test_rules_after_the_first_broken_one_are_not_measured():
    def never(page: TextStatistics) -> float:
        raise AssertionError("measured")

    rules = {"a": Rule(count_words, "least"), "b": Rule(count_words, 9), "c": Rule(never)}
    assert first_broken(TextStatistics("x y"), rules, Bounds()) == "b"
    assert first_broken(TextStatistics("x"), rules, Bounds()) == "a"
    assert first_broken(TextStatistics("x y"), {"a": rules["a"]}, Bounds()) is None
