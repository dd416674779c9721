"""Lengths: their forms, their distributions, and what is wrong with an option."""

import numpy as np
import pytest

from lm_core.user_error import UserError
from lm_course.load_test.token_lengths import TokenLengths, parse_lengths


def draws(text: str, count: int = 4000) -> np.ndarray:
    generator = np.random.default_rng(0)
    lengths = parse_lengths(text, "--x")
    return np.array([lengths.draw(generator) for _ in range(count)])


def test_a_number_is_that_number() -> None:
    assert set(draws("17", 10)) == {17}
    assert parse_lengths(" 17 ", "--x").longest == 17


def test_a_range_has_both_ends_and_its_mean() -> None:
    found = draws("3-7")
    assert set(found) == {3, 4, 5, 6, 7}
    assert found.mean() == pytest.approx(5, abs=0.1)
    assert parse_lengths("3-7", "--x").longest == 7


def test_a_lognormal_has_the_mean_and_spread_that_were_asked_for() -> None:
    found = draws("lognormal:200,0.5", 20_000)
    assert found.mean() == pytest.approx(200, rel=0.02)
    assert np.log(found).std() == pytest.approx(0.5, rel=0.02)
    assert TokenLengths("lognormal", 200, 0.5).longest is None


def test_no_length_is_below_one() -> None:
    assert draws("lognormal:1,3").min() == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "at least 1 token"),
        ("9-3", "ends before it begins"),
        ("99999999", "at most 10,000,000"),
        ("lognormal:0,1", "the mean is between 1"),
        ("lognormal:5,9", "SIGMA"),
        ("lognormal:1.2.3,1", "expected a number"),
        ("normal:5,1", "expected a number"),
        ("many", "expected a number"),
        ("-5", "expected a number"),
    ],
)
def test_what_is_no_length(text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--prompt-tokens {text}: .*{said}"):
        parse_lengths(text, "--prompt-tokens")
