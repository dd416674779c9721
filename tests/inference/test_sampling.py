"""Temperature, top-k and top-p by hand, by brute force, and by counting draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from inference.sampling import (
    SamplingSettings,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
    sample,
)

PROBABILITIES = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
LOGITS = PROBABILITIES.log()


def kept(logits: torch.Tensor) -> list[int]:
    return (logits[0] > -math.inf).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.49, [1]), (0.5, [1]), (0.51, [1, 3]), (0.75, [1, 3]), (0.76, [1, 2, 3]), (1e-9, [1])],
)
def test_top_p_keeps_the_token_that_crosses_the_threshold(p: float, expected: list[int]) -> None:
    assert kept(keep_top_p(LOGITS.double(), p)) == expected


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.01, 0.99))
@settings(max_examples=60)
def test_top_p_is_the_smallest_set_of_likeliest_tokens(values: list[float], p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    chosen = kept(keep_top_p(logits, p))
    probabilities = logits.softmax(-1)[0]
    total = probabilities[chosen].sum().item()
    least = probabilities[chosen].min().item()
    assert total >= p - 1e-12
    assert total - least < p + 1e-12
    left_out = [i for i in range(len(values)) if i not in chosen]
    assert all(probabilities[i] <= least for i in left_out)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_filters_are_those_of_transformers(p: float, k: int) -> None:
    """Compare on random float32 logits, without ties, with the two classes that `generate` uses."""
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * 2
    settings = SamplingSettings(temperature=0.7, top_k=k, top_p=p)
    theirs = logits / 0.7
    for warper in (TopKLogitsWarper(k), TopPLogitsWarper(p)):
        theirs = warper(torch.zeros(64, 0, dtype=torch.int64), theirs)
    ours = next_token_probabilities(logits, settings)
    # Float32 sums of at most 50 shares in another order: 1e-6.
    torch.testing.assert_close(ours, theirs.softmax(-1), atol=1e-6, rtol=0)


def test_top_k_keeps_exactly_k_even_where_logits_tie() -> None:
    assert kept(keep_top_k(LOGITS, 2)) == [1, 3]
    assert len(kept(keep_top_k(torch.zeros(1, 6), 4))) == 4
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3]


def test_temperature_by_hand() -> None:
    # p ** (1 / 0.5) renormalised: 0.01, 0.25, 0.0225, 0.0625 over their sum 0.345
    got = next_token_probabilities(LOGITS, SamplingSettings(temperature=0.5))
    expected = torch.tensor([[0.01, 0.25, 0.0225, 0.0625]]) / 0.345
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_top_k_comes_before_top_p() -> None:
    # Of the two kept by top-k, 0.5 has two thirds of the mass: enough for p = 0.6, unlike over all
    # four.
    settings = SamplingSettings(temperature=1.0, top_k=2, top_p=0.6)
    assert next_token_probabilities(LOGITS, settings).tolist() == [[0, 1, 0, 0]]


def test_temperature_zero_is_the_likeliest_and_tiny_temperatures_do_not_overflow() -> None:
    for temperature in (0.0, 1e-30, 1e-40, 1e-300):  # the last two are 0 or nearly 0 in float32
        got = next_token_probabilities(LOGITS * 100, SamplingSettings(temperature=temperature))
        assert got.tolist() == [[0, 1, 0, 0]]
    for temperature in (0.0, 1e-300):
        assert sample(LOGITS, SamplingSettings(temperature=temperature)).tolist() == [1]


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    rows = LOGITS.repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    drawn = sample(rows, SamplingSettings(temperature=1.0), generator)
    frequencies = drawn.bincount(minlength=4) / len(rows)
    # Five standard errors of a share of one half in 20,000 draws are 0.018.
    torch.testing.assert_close(frequencies, PROBABILITIES[0], atol=0.018, rtol=0)


def test_draws_after_both_filters_and_rows_are_independent() -> None:
    settings = SamplingSettings(temperature=1.0, top_k=3, top_p=0.8)
    rows = LOGITS.repeat(20_000, 1)
    drawn = sample(rows, settings, torch.Generator().manual_seed(0))
    # top-k 3 leaves 0.5, 0.25, 0.15 of 0.9; the first two add up to 0.83 and reach 0.8.
    frequencies = drawn.bincount(minlength=4) / len(rows)
    expected = torch.tensor([0.0, 2 / 3, 0.0, 1 / 3])
    torch.testing.assert_close(frequencies, expected, atol=0.017, rtol=0)  # five standard errors
    # Neighbours agree as often as two independent draws: 4/9 + 1/9.
    agree = (drawn[:-1] == drawn[1:]).double().mean().item()
    assert agree == pytest.approx(5 / 9, abs=0.018)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or a positive number, got -1.0"),
        ({"temperature": math.nan}, "temperature must be 0 or a positive number, got nan"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"seed": -1}, "seed must be between"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**setting)
