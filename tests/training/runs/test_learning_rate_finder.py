"""The range test: the two rules by hand, and a tiny model that learns, diverges or breaks."""

import math

import numpy as np
import pytest

from lm_core.formats.token_shards import ShardWriter
from lm_core.user_error import UserError
from training.runs import pretraining
from training.runs.learning_rate_finder import (
    RangeTest,
    find_learning_rate,
    has_diverged,
    rates_between,
    steepest_rate,
)
from training.runs.pretraining import PretrainSettings

VOCAB = 32


def test_rates_grow_by_one_factor():
    assert rates_between(1e-3, 1.0, 4) == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])


def test_the_steepest_fall_is_found_in_its_middle():
    rates = rates_between(1e-4, 1.0, 41)
    smoothed = [4.0 - 3.0 / (1 + math.exp(-(step - 17) / 2)) for step in range(41)]
    assert steepest_rate(rates, smoothed) == pytest.approx(rates[17])
    assert steepest_rate(rates, [4.0 + 0.01 * step for step in range(41)]) is None
    assert steepest_rate(rates[:8], smoothed[:8]) is None, "too short for one slope"


@pytest.mark.parametrize(
    ("smoothed", "diverged"),
    [
        ([4.0, 3.9, 4.2], False),  # noise at the start: less than a tenth of 4
        ([4.0, 3.9, 4.4], True),
        ([4.0, 2.0, 2.9], False),  # less than half of the fall
        ([4.0, 2.0, 3.1], True),
    ],
)
def test_a_rise_counts_from_half_of_the_fall_and_a_tenth_of_the_start(smoothed, diverged):
    assert has_diverged(smoothed) is diverged


def test_the_suggestion_is_between_the_two_rates():
    rates = rates_between(1e-4, 1.0, 41)
    smoothed = [4.0 - 3.0 / (1 + math.exp(-(step - 20) / 2)) for step in range(41)]
    both = RangeTest(rates, smoothed, smoothed, 0.4)
    assert both.tenth_of_divergence == pytest.approx(0.04)
    assert both.suggested == pytest.approx(math.sqrt(0.04 * 0.01))
    assert RangeTest(rates, smoothed, smoothed, None).suggested == pytest.approx(0.01)
    flat = [4.0] * 41
    assert RangeTest(rates, flat, flat, None).suggested is None


def settings_with(**training: object) -> PretrainSettings:
    return PretrainSettings(
        depth=1,
        model={"d_model": 32, "num_heads": 2, "context_length": 16},
        training={
            "steps": 9,
            "batch_size": 4,
            "weight_decay": 0.1,
            "precision": "float32",
            **training,
        },
        device="cpu",
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("finder") / "shards"
    generator = np.random.default_rng(0)
    with ShardWriter(folder, "a" * 64, VOCAB, np.full(VOCAB, 2)) as writer:
        for split in ("train", "validation"):
            writer.add(split, np.cumsum(generator.integers(0, 3, 2000)) % VOCAB)
    return folder


def test_a_model_learns_and_then_diverges_and_no_file_is_written(shards):
    before = sorted(shards.parent.rglob("*"))
    found = find_learning_rate(settings_with(), shards)
    assert sorted(shards.parent.rglob("*")) == before
    assert found.losses[0] == pytest.approx(math.log(VOCAB), rel=0.1)
    assert found.diverged_at == found.rates[-1] > found.steepest
    assert min(found.smoothed) < found.smoothed[0] - 0.3
    assert 1e-3 < found.suggested < 0.3
    again = find_learning_rate(settings_with(learning_rate=0.5), shards)
    assert again.losses == found.losses, "the recipe's rate does not matter, and the seed is fixed"


def test_micro_batches_give_the_same_losses(shards):
    whole, parts = (
        find_learning_rate(settings_with(micro_batches=n), shards, steps=20, highest=1e-2)
        for n in (1, 2)
    )
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert whole.diverged_at is None and len(whole.rates) == 20


def test_a_loss_that_is_not_finite_ends_the_test(shards, monkeypatch):
    real, calls = pretraining.language_model_loss, []

    def breaks_at(number: int):
        def loss(model, batch, **settings):
            calls.append(1)
            return real(model, batch, **settings) * (math.nan if len(calls) == number else 1.0)

        return loss

    monkeypatch.setattr(pretraining, "language_model_loss", breaks_at(6))
    found = find_learning_rate(settings_with(), shards, lowest=1e-3, highest=1e-2, steps=10)
    assert len(found.losses) == 5 and all(map(math.isfinite, found.losses))
    assert found.diverged_at == pytest.approx(1e-3 * 10 ** (5 / 9))
    calls.clear()
    monkeypatch.setattr(pretraining, "language_model_loss", breaks_at(1))
    with pytest.raises(UserError, match="not finite before the first update; set precision"):
        find_learning_rate(settings_with(), shards)


def test_the_rates_of_all_parts_keep_their_ratio(shards):
    """Muon's rate, and that of the matrices which AdamW divides by the width."""

    def found(**given):
        training = {"learning_rate": 0.01, **given}
        return find_learning_rate(settings_with(**training), shards, steps=12, highest=1e-2)

    muon = {"optimizer": "muon", "muon_learning_rate": 0.02}
    for one, other in (
        (muon, muon | {"muon_learning_rate": 0.2}),
        ({"width_ratio": 1.0}, {"width_ratio": 0.1}),
    ):
        slow, fast = found(**one), found(**other)
        assert slow.rates == fast.rates and slow.losses[0] == fast.losses[0]
        assert slow.losses[-1] > fast.losses[-1]
    twice = found(**muon | {"learning_rate": 0.02, "muon_learning_rate": 0.04})
    assert twice.losses == found(**muon).losses


def test_the_z_loss_of_the_settings_is_in_the_loss(shards):
    settings = settings_with()
    plain = find_learning_rate(settings, shards, steps=3)
    with_z_loss = find_learning_rate(settings.model_copy(update={"z_loss": 0.1}), shards, steps=3)
    assert with_z_loss.losses[0] > plain.losses[0] + 0.1
