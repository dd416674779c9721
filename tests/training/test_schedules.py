"""The learning rate at the points where it turns, its shape between them, and torch's own."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from training.schedules import (
    DECAYS,
    learning_rate_at,
    linear_decay_at,
    warmup_stable_decay_at,
)


def rates(steps: int, warmup: int, high: float = 1.0, low: float = 0.0) -> list[float]:
    return [
        learning_rate_at(
            step,
            steps=steps,
            warmup_steps=warmup,
            learning_rate=high,
            min_learning_rate=low,
        )
        for step in range(1, steps + 1)
    ]


def test_by_hand():
    found = rates(10, 2)
    assert found[:2] == [0.5, 1.0]
    assert found[3] == pytest.approx(0.8535534)  # (1 + cos(pi / 4)) / 2
    assert found[5] == pytest.approx(0.5)
    assert found[9] == 0.0
    assert found[8] > 0.01, "the last step is the only one at the lowest rate"


def test_ends_at_the_lowest_rate_and_stays_there():
    assert rates(50, 5, 3.0, 0.3)[-1] == 0.3
    after = learning_rate_at(51, steps=50, warmup_steps=5, learning_rate=3.0, min_learning_rate=0.3)
    assert after == 0.3


def test_no_warm_up_starts_just_below_the_top():
    assert rates(4, 0)[0] == pytest.approx(0.8535534)


@given(st.integers(2, 200), st.data())
def test_up_to_the_warm_up_then_down_and_never_outside(steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    found = rates(steps, warmup, 2.0, 0.5)
    top = max(warmup, 1) - 1
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a > b for a, b in pairwise(found[top:]))
    assert found[-1] == 0.5
    assert max(found) <= 2.0
    if warmup:
        assert found[warmup - 1] == 2.0


def test_warmup_stable_decay_by_hand():
    ends = {"steps": 10, "warmup_steps": 2, "learning_rate": 1.0, "min_learning_rate": 0.0}
    found = [warmup_stable_decay_at(step, **ends, decay_steps=4) for step in range(1, 13)]
    down = [1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0.0]
    assert found == pytest.approx([0.5, *[1.0] * 5, *down, 0.0, 0.0], abs=1e-15)
    line = partial(warmup_stable_decay_at, **ends, decay_steps=4, decay="linear")
    assert [line(step) for step in (6, 7, 8, 9, 10, 11)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_without_decay_the_rate_stays_for_others_to_continue():
    ends = {"steps": 10, "warmup_steps": 0, "learning_rate": 2.0, "min_learning_rate": 0.5}
    found = {warmup_stable_decay_at(step, **ends, decay_steps=0) for step in range(1, 13)}
    assert found == {2.0}


def test_the_constant_part_does_not_depend_on_the_number_of_steps():
    ends = {"warmup_steps": 3, "learning_rate": 2.0, "min_learning_rate": 0.5}
    short, long = (
        [warmup_stable_decay_at(s, steps=n, decay_steps=n // 5, **ends) for s in range(1, 41)]
        for n in (50, 500)
    )
    assert short == long


def torch_rates(steps: int, warmup: int, high: float, parts: dict) -> list[float]:
    """The rates of torch: warm-up, then each part from the update that is its key.

    A warm-up of 1 update is none.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=high)
    schedules = [part(optimizer) for part in parts.values()]
    starts = list(parts)
    if warmup > 1:
        up = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1)
        schedules, starts = [up, *schedules], [1, *starts]
    schedule = lr_scheduler.SequentialLR(optimizer, schedules, [start - 1 for start in starts[1:]])
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [1, 2, 7])
@pytest.mark.parametrize("low", [0.0, 0.3])
def test_every_schedule_equals_torch(warmup, low):
    steps, high, decay = 40, 3.0, 9
    ends = {"warmup_steps": warmup, "learning_rate": high, "min_learning_rate": low}

    def cosine(optimizer):
        return lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, eta_min=low)

    def constant(optimizer):
        return lr_scheduler.ConstantLR(optimizer, 1.0)

    def line(length):
        return partial(
            lr_scheduler.LinearLR, start_factor=1.0, end_factor=low / high, total_iters=length
        )

    wsd = partial(warmup_stable_decay_at, decay_steps=decay, decay="linear")
    for ours, theirs in (
        (learning_rate_at, {warmup: cosine}),
        (linear_decay_at, {warmup: line(steps - warmup)}),
        (wsd, {warmup: constant, steps - decay: line(decay)}),
    ):
        found = [ours(step, steps=steps, **ends) for step in range(1, steps + 1)]
        # torch multiplies the rate before it, and rounds each time
        assert found == pytest.approx(torch_rates(steps, warmup, high, theirs), abs=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@given(st.integers(1, 60), st.data())
def test_every_schedule_keeps_its_ends(decay, steps, data):
    """Also without warm-up, with nothing but warm-up, and after the last step."""
    warmup = data.draw(st.integers(0, steps))
    decay_steps = data.draw(st.integers(0, steps - warmup))
    ends = {"steps": steps, "warmup_steps": warmup, "learning_rate": 2.0, "min_learning_rate": 0.5}
    wsd = partial(warmup_stable_decay_at, decay_steps=decay_steps, decay=decay)
    for schedule in (learning_rate_at, linear_decay_at, wsd):
        stays = schedule is wsd and decay_steps == 0
        found = [schedule(step, **ends) for step in range(1, steps + 4)]
        assert found[:warmup][:-1] == [2.0 * s / warmup for s in range(1, warmup)]
        assert found[steps - 1 :] == [2.0 if stays else 0.5] * 4
        if 0 < warmup < steps:
            assert found[warmup - 1] == 2.0
        assert all(a >= b for a, b in pairwise(found[max(warmup - 1, 0) :]))
        assert max(found) <= 2.0


def test_phases_that_do_not_fit_and_unknown_decays_are_refused():
    ends = {"steps": 10, "learning_rate": 1.0, "min_learning_rate": 0.0}
    with pytest.raises(ValueError, match="4 steps of warm-up and 7 of decay are more than the 10"):
        warmup_stable_decay_at(1, warmup_steps=4, decay_steps=7, **ends)
    with pytest.raises(ValueError, match="unknown decay 'cosine'; expected one of linear, 1-sqrt"):
        warmup_stable_decay_at(1, warmup_steps=1, decay_steps=7, decay="cosine", **ends)
