"""Draws are those of the lesson, token for token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import draws
from inference.engine.draws import MOST_LIKELY, draw
from inference.sampling import SamplingSettings, sample
from lm_core.user_error import UserError


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 5, MOST_LIKELY, MOST_LIKELY + 1, 3000]),
    spread=st.sampled_from([0.0, 0.3, 2.0, 8.0]),
    ties=st.booleans(),
    temperature=st.sampled_from([0.0, 1e-30, 0.5, 1.0, 3.0]),
    top_p=st.sampled_from([1e-9, 0.3, 0.95, 0.9999999, 1.0]),
    seed=st.integers(0, 1000),
)
def test_the_token_of_the_lesson(size, spread, ties, temperature, top_p, seed) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread
    if ties:
        logits = logits.round()
    chosen = SamplingSettings(temperature=temperature, top_p=top_p, seed=seed)
    assert draw(logits, chosen, seed) == sample(logits[None], [chosen], [seed])[0]


@pytest.mark.parametrize("other", [{"top_k": 3}, {"min_p": 0.5}])
def test_further_filters(other) -> None:
    logits = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 3
    for seed in range(50):
        chosen = SamplingSettings(temperature=1.5, top_p=0.9, seed=seed, **other)
        assert draw(logits, chosen, 0) == sample(logits[None], [chosen], [0])[0]


def test_tokens_that_are_masked() -> None:
    logits = torch.full((1000,), float("-inf"))
    logits[[5, 900]] = 1.0
    seen = {draw(logits, SamplingSettings(top_p=0.9, seed=seed), 0) for seed in range(30)}
    assert seen == {5, 900}


def test_equal_tokens_of_which_the_most_likely_hold_a_part() -> None:
    """Top-p keeps the lowest ids of them; a partial sort finds any."""
    logits = torch.full((3000,), float("-inf"))
    logits[1000:1400] = 0.0
    logits[2000:2100] = 1.0
    for seed in range(50):
        chosen = SamplingSettings(top_p=0.5, seed=seed)
        assert draw(logits, chosen, 0) == sample(logits[None], [chosen], [0])[0]


def test_a_token_that_begins_where_top_p_ends_is_not_drawn() -> None:
    logits = torch.full((1000,), float("-inf"))
    logits[[7, 70, 700, 900]] = 0.0
    each = [SamplingSettings(top_p=0.5, seed=seed) for seed in range(30)]
    assert {draw(logits, one, 0) for one in each} == {7, 70}
    assert {sample(logits[None], [one], [0])[0] for one in each} == {7, 70}


def test_a_row_without_numbers_is_refused_as_in_the_lesson() -> None:
    row = torch.full((1000,), float("nan"))
    for top_p in (0.9, 1.0):
        with pytest.raises(UserError, match="add up to nan"):
            draw(row, SamplingSettings(top_p=top_p), 0)


def test_the_vocabulary_is_not_sorted(monkeypatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the lesson's way was taken")

    monkeypatch.setattr(draws, "sample", never)
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 5
    for chosen in ({"temperature": 0}, {"temperature": 0.8, "top_p": 0.9}):
        draw(logits, SamplingSettings(**chosen), 0)
