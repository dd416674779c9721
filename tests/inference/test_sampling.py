"""Penalties, filters and draws by hand, by brute force, as `transformers`, and by counting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.sampling import (
    GAMMA,
    SamplingSettings,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    mix,
    next_token_probabilities,
    penalize,
    pick,
    sample,
    seed_of_sample,
    uniform,
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
@pytest.mark.parametrize(("k", "min_p"), [(1, 0.5), (3, 0.3), (20, 0.01), (50, 0.1)])
def test_the_filters_are_those_of_transformers(p: float, k: int, min_p: float) -> None:
    """Compare on random float32 logits, without ties, with the classes that `generate` uses."""
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * 2
    settings = SamplingSettings(temperature=0.7, top_k=k, top_p=p, min_p=min_p)
    theirs = logits / 0.7
    for warper in (TopKLogitsWarper(k), TopPLogitsWarper(p), MinPLogitsWarper(min_p)):
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
        settings = SamplingSettings(temperature=temperature)
        assert next_token_probabilities(LOGITS * 100, settings).tolist() == [[0, 1, 0, 0]]
        assert sample(LOGITS, [settings], [3]) == [1]
    ties = torch.tensor([1.0, 5.0, 5.0, 2.0])
    assert next_token_probabilities(ties, SamplingSettings(temperature=0)).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-30, 0.5, 1.0, 1e30, 1e300])
def test_no_logits_or_temperatures_give_nan(temperature: float) -> None:
    settings = SamplingSettings(temperature=temperature, top_k=3, top_p=0.99, min_p=0.001)
    for values in ([3e38, -3e38, 0.0, 1.0], [-math.inf, 2.0, -math.inf, 1.0], [-3e38] * 4):
        got = next_token_probabilities(torch.tensor(values), settings)
        assert got.dtype == torch.float32
        assert got.sum().item() == pytest.approx(1)
        assert all(share == 0 for share, x in zip(got.tolist(), values, strict=True) if x < -4e38)


def test_the_order_of_the_steps() -> None:
    """At temperature 0.5 the shares are 0.03, 0.72, 0.07, 0.18, so the first is enough for 0.7; the
    share 0.15 is above 0.2 times 0.5 only before the temperature.
    """
    colder = SamplingSettings(temperature=0.5, top_p=0.7)
    assert next_token_probabilities(LOGITS, colder).tolist() == [[0, 1, 0, 0]]
    colder = SamplingSettings(temperature=0.5, min_p=0.2)
    assert kept(next_token_probabilities(LOGITS, colder).log()) == [1, 3]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, [0, 1, 2, 3]), (0.21, [1, 2, 3]), (0.31, [1, 3]), (1.0, [1])]
)
def test_min_p_is_relative_to_the_largest(p: float, expected: list[int]) -> None:
    assert kept(keep_min_p(LOGITS, p)) == expected


def test_filters_keep_the_first_of_equal_logits() -> None:
    ties = torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0]])
    assert kept(keep_top_k(ties, 3)) == [0, 1, 2]
    assert kept(keep_top_p(ties, 0.61)) == [0, 1, 2]  # shares 0.15, 0.40, 0.15, 0.15, 0.15
    assert kept(keep_min_p(ties, 1.0)) == [1]


def test_filters_return_tensors_of_their_own() -> None:
    for filtered in (keep_top_k(LOGITS, 9), keep_top_p(LOGITS, 1.0), keep_min_p(LOGITS, 0.0)):
        assert torch.equal(filtered, LOGITS)
        assert filtered.data_ptr() != LOGITS.data_ptr()


def test_penalties_by_hand() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, -1.0, 0.0, 4.0])
    settings = SamplingSettings(
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={4: 3.0, 1: 1.0},
    )
    got = penalize(logits, [0, 1, 0], [2, 2, 3], settings)
    # halved; doubled, then the bias; 0.5 - 0.5 - 2 * 0.25; -2 - 0.5 - 0.25; only the bias; nothing
    assert got.tolist() == [1.0, -3.0, -0.5, -2.75, 3.0, 4.0]
    assert penalize(logits, [0], [1], SamplingSettings()).tolist() == logits.tolist()


@given(
    st.lists(st.integers(0, 19), max_size=12),
    st.lists(st.integers(0, 19), max_size=12),
    st.floats(0.1, 4),
    st.dictionaries(st.integers(0, 19), st.floats(-5, 5), min_size=1, max_size=4),
)
@settings(max_examples=40)
def test_penalties_are_those_of_transformers(
    prompt: list[int], answer: list[int], penalty: float, bias: dict[int, float]
) -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(len(prompt)))
    ids = torch.tensor([prompt + answer], dtype=torch.int64)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    theirs = SequenceBiasLogitsProcessor({(token,): each for token, each in bias.items()})(
        ids, theirs
    )
    changes = SamplingSettings(repetition_penalty=penalty, logit_bias=bias)
    torch.testing.assert_close(penalize(logits[0], prompt, answer, changes), theirs[0])


def test_a_bias_for_a_token_that_the_model_lacks() -> None:
    with pytest.raises(ValueError, match=r"logit_bias names the token 4, the model has .* 0 to 3"):
        penalize(LOGITS[0], [], [], SamplingSettings(logit_bias={4: 1.0}))


def test_which_settings_have_penalties() -> None:
    assert not SamplingSettings(temperature=0.3, top_k=5, min_p=0.1).has_penalties
    for change in (
        {"repetition_penalty": 0.9},
        {"presence_penalty": -0.1},
        {"frequency_penalty": 0.1},
        {"logit_bias": {3: 0.5}},
    ):
        assert SamplingSettings(**change).has_penalties


def test_the_random_numbers_are_those_of_splitmix64() -> None:
    # The first two outputs for the state 1234567, as published with the generator.
    assert [mix(1234567 + step * GAMMA) for step in (1, 2)] == [
        6457827717110365317,
        3203168211198807973,
    ]
    state = mix(7 + GAMMA)
    for index in range(3):
        state = (state + GAMMA) % 2**64
        assert uniform(7, index) == (mix(state) >> 11) / 2**53


def test_the_random_numbers_are_uniform_and_unrelated() -> None:
    grid = torch.tensor(
        [[uniform(seed, index) for index in range(320)] for seed in range(320)], dtype=torch.float64
    )
    assert grid.min() >= 0
    assert grid.max() < 1
    assert len(set(grid.flatten().tolist())) == grid.numel()
    error = 1 / math.sqrt(grid.numel())
    assert grid.mean().item() == pytest.approx(1 / 2, abs=4 * error * math.sqrt(1 / 12))
    assert grid.var().item() == pytest.approx(1 / 12, abs=4 * error * math.sqrt(1 / 180))
    centered = (grid - 0.5) * math.sqrt(12)
    # next index, next seed, and (seed, index + 1) with (seed + 1, index)
    pairs = [
        (centered[:, 1:], centered[:, :-1]),
        (centered[1:], centered[:-1]),
        (centered[:-1, 1:], centered[1:, :-1]),
    ]
    for one, other in pairs:
        assert (one * other).mean().item() == pytest.approx(0, abs=4.2 * error)
    counts = torch.histc(grid, 64, 0, 1)
    expected = grid.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 108  # chi-square, 63 degrees: 0.03 %


def test_seeds_of_samples() -> None:
    assert seed_of_sample(5, 0) == 5
    seeds = {seed_of_sample(seed, number) for seed in range(300) for number in range(1, 300)}
    assert len(seeds) == 300 * 299  # also (1, 2) and (2, 1) differ
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    firsts = [uniform(seed_of_sample(3, number), 0) for number in range(4000)]
    assert len(set(firsts)) == 4000
    assert sum(firsts) / 4000 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.0, 1), (0.0999, 1), (0.1, 3), (0.5999, 3), (0.6, 4), (1 - 2**-53, 4)],
)
def test_pick_by_hand(number: float, expected: int) -> None:
    shares = torch.tensor([0.0, 0.1, 0.0, 0.5, 0.4, 0.0], dtype=torch.float64)
    assert pick(shares, number) == expected


@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-9, 0.1, 1 / 3, 1.0, 2.5]), min_size=1, max_size=9),
       st.sampled_from([0.0, 5e-324, 2**-53, 0.5, 1 - 2**-52, 1 - 2**-53]),
       st.booleans())  # fmt: skip
def test_pick_never_returns_what_has_no_probability(
    shares: list[float], number: float, single: bool
) -> None:
    probabilities = torch.tensor(shares, dtype=torch.float32 if single else torch.float64)
    if sum(shares) == 0:
        with pytest.raises(ValueError, match=r"add up to 0\.0"):
            pick(probabilities, number)
    else:
        assert probabilities[pick(probabilities, number)] > 0


def test_pick_sums_in_float64() -> None:
    """The last token has a share of 1e-10, which is nothing beside 1 in float32."""
    probabilities = torch.tensor([0.5, 0.5, 1e-10])
    assert pick(probabilities, 1 - 2**-40) == 2


@pytest.mark.parametrize("share", [math.nan, math.inf])
def test_logits_of_a_broken_model_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="the probabilities of the next token add up to"):
        pick(torch.tensor([0.5, share]), 0.5)
    with pytest.raises(ValueError, match="add up to nan"):
        sample(torch.tensor([[0.5, share, -math.inf]]), [SamplingSettings()], [0])


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    """Chi-square of 20,000 draws, of one seed at many places and of many seeds at one place."""
    settings = SamplingSettings(temperature=1.0, seed=5)
    probabilities = next_token_probabilities(LOGITS[0], settings)
    numbers = {
        "places": [uniform(5, index) for index in range(20_000)],
        "seeds": [uniform(seed, 0) for seed in range(20_000)],
    }
    for drawn in numbers.values():
        picked = torch.tensor([pick(probabilities, number) for number in drawn])
        expected = PROBABILITIES[0] * len(drawn)
        counts = picked.bincount(minlength=4)
        assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees: 0.1 %


def test_a_row_is_drawn_as_if_it_were_alone() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    each = [SamplingSettings(temperature=2, seed=seed, top_k=40) for seed in (1, 1, 2, 3, 4, 4)]
    indices = [0, 9, 0, 3, 7, 7]
    together = sample(logits, each, indices)
    alone = [sample(logits[i : i + 1], [each[i]], [indices[i]])[0] for i in range(6)]
    assert together == alone
    assert together[::-1] == sample(logits.flip(0), each[::-1], indices[::-1])
    expected = pick(next_token_probabilities(logits[3], each[3]), uniform(3, 3))
    assert together[3] == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or a positive number, got -1.0"),
        ({"temperature": math.nan}, "temperature must be 0 or a positive number, got nan"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"min_p": 1.1}, r"min_p must be between 0 \(off\) and 1, got 1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a positive number"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be a positive number"),
        ({"presence_penalty": math.nan}, "presence_penalty must be a finite number, got nan"),
        ({"frequency_penalty": math.inf}, "frequency_penalty must be a finite number, got inf"),
        ({"logit_bias": {3: math.inf}}, "logit_bias must map token ids .* got 3: inf"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias must map token ids from 0 up .* got -1: 1.0"),
        ({"seed": -1}, "seed must be between"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**setting)
