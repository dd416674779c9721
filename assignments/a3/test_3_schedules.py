"""a3.6: the learning rate over a run."""

import math

import pytest

from lm_course.grading.comparisons import check_close, check_raises

pytestmark = pytest.mark.usefixtures("own_optimizers")
MODULE = "training.schedules"
HIGH, LOW = 3.0, 0.6
STEPS, WARMUP, DECAY = 10, 3, 4
UPDATES = range(1, 13)  # two beyond the end
SHARES = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "1-sqrt": lambda done: 1 - math.sqrt(done),
}


def rates(shape, start, mistake=""):
    """The rate of each update, with decay from `start`, where it is the highest, to the last
    update; with one mistake or none.
    """
    steps = STEPS + {"one early": -1, "one late": 1}.get(mistake, 0)
    start += {"decays late": 1, "decays early": -1}.get(mistake, 0)
    start = {"whole run": 0}.get(mistake, start)
    low = 0.0 if mistake in ("no low", "largest of both") else LOW
    found = []
    for update in UPDATES:
        step = update - 1 if mistake in ("from 0", "nanogpt") else update
        done = (step - start) / (steps - start)
        if step < WARMUP and mistake != "no warm-up":
            warm = WARMUP + (mistake == "warm-up one late")
            from_low = LOW + (HIGH - LOW) * step / warm
            rate = from_low if mistake == "warm-up from low" else HIGH * step / warm
            rate = HIGH * update / (WARMUP + 1) if mistake == "nanogpt" else rate
        elif done <= 0:
            rate = HIGH
        elif done >= 1 and mistake != "rises again":
            rate = low
        else:
            share = SHARES[shape](min(done, 2.0) if shape != "cosine" else done)
            rate = low + share * (HIGH - low)
            rate = LOW + share * HIGH if mistake == "too high" else rate
        found.append(max(rate, LOW) if mistake == "largest of both" and step >= WARMUP else rate)
    return found


CAUSES = {
    "updates are counted from 1: the first must not have rate 0": "from 0",
    "updates are counted from 0, as in nanoGPT: here they are 1, 2, ..., steps": "nanogpt",
    "the highest rate comes one update after the warm-up": "warm-up one late",
    "warm-up begins at 0, not at the lowest rate": "warm-up from low",
    "there is no warm-up": "no warm-up",
    "the lowest rate comes one update too early": "one early",
    "the lowest rate comes one update too late: the last update of the run must have it": (
        "one late"
    ),
    "the decay begins one update too late": "decays late",
    "the decay begins one update too early": "decays early",
    "the decay is measured from update 0: it begins where the highest rate ends": "whole run",
    "the lowest rate is not used: the decay goes to 0": "no low",
    "the decay goes to 0 and is cut off at the lowest rate: the whole curve lies between highest "
    "and lowest": "largest of both",
    "the lowest rate is added to the whole curve: it spans highest - lowest": "too high",
    "after the last update the rate changes again: it must stay": "rises again",
}


def check_rates(got, shape, start, what):
    causes = {cause: rates(shape, start, mistake) for cause, mistake in CAUSES.items()}
    causes |= {
        f"this is the shape {other!r}": rates(other, start) for other in SHARES if other != shape
    }
    check_close(got, rates(shape, start), 1e-12, 1e-12, what, causes)


@pytest.mark.task("a3.6")
def test_cosine(implementation):
    schedule = implementation(MODULE).learning_rate_at
    got = [
        schedule(u, steps=STEPS, warmup_steps=WARMUP, learning_rate=HIGH, min_learning_rate=LOW)
        for u in UPDATES
    ]
    check_rates(got, "cosine", WARMUP, "learning_rate_at of updates 1 to 12 (10 steps, warm-up 3)")


@pytest.mark.task("a3.6")
@pytest.mark.parametrize("decay", ["1-sqrt", "linear"])
def test_warmup_stable_decay(implementation, decay):
    schedule = implementation(MODULE).warmup_stable_decay_at
    named = {} if decay == "1-sqrt" else {"decay": decay}  # it is the default
    ends = {"learning_rate": HIGH, "min_learning_rate": LOW, "decay_steps": DECAY}
    got = [schedule(u, steps=STEPS, warmup_steps=WARMUP, **ends, **named) for u in UPDATES]
    what = f"warmup_stable_decay_at of updates 1 to 12 (10 steps, warm-up 3, {decay} over 4)"
    check_rates(got, decay, STEPS - DECAY, what)


@pytest.mark.task("a3.6")
def test_linear_decay(implementation):
    schedule = implementation(MODULE).linear_decay_at
    ends = {"steps": STEPS, "warmup_steps": WARMUP, "learning_rate": HIGH}
    got = [schedule(u, **ends, min_learning_rate=LOW) for u in UPDATES]
    check_rates(got, "linear", WARMUP, "linear_decay_at of updates 1 to 12 (10 steps, warm-up 3)")
    last = schedule(STEPS, **ends)
    check_close(last, 0.0, 0.0, 0.0, "the last rate of linear_decay_at without a lowest rate")


@pytest.mark.task("a3.6")
def test_without_warmup(implementation):
    """The first update is already a little below the highest rate."""
    module = implementation(MODULE)
    ends = {"steps": 4, "warmup_steps": 0, "learning_rate": 1.0, "min_learning_rate": 0.0}
    got = [module.learning_rate_at(u, **ends) for u in range(1, 5)]
    expected = [SHARES["cosine"](u / 4) for u in range(1, 5)]
    causes = {
        "the first update has the highest rate: without warm-up, that would be update 0": [
            SHARES["cosine"](u / 4) for u in range(4)
        ]
    }
    check_close(got, expected, 1e-12, 1e-12, "learning_rate_at of 4 steps without warm-up", causes)
    got = [module.linear_decay_at(u, **ends) for u in range(1, 5)]
    what = "linear_decay_at of 4 steps without warm-up"
    check_close(got, [0.75, 0.5, 0.25, 0.0], 1e-12, 1e-12, what)


@pytest.mark.task("a3.6")
def test_without_decay_the_rate_stays(implementation):
    schedule = implementation(MODULE).warmup_stable_decay_at
    ends = {"steps": 4, "warmup_steps": 1, "learning_rate": 2.0, "min_learning_rate": 0.5}
    got = [schedule(u, **ends, decay_steps=0) for u in range(1, 7)]
    causes = {"without decay steps nothing goes down, also after the end": lambda got: True}
    what = "warmup_stable_decay_at with decay_steps=0"
    check_close(got, [2.0] * 6, 0.0, 0.0, what, causes)


@pytest.mark.task("a3.6")
def test_nothing_but_warmup(implementation):
    """Warm-up over all steps: the last update has the lowest rate, as always."""
    module = implementation(MODULE)
    ends = {"steps": 2, "warmup_steps": 2, "learning_rate": 2.0, "min_learning_rate": 0.5}
    for name in ("learning_rate_at", "linear_decay_at"):
        got = [getattr(module, name)(u, **ends) for u in (1, 2, 3)]
        causes = {
            "the last update of the run has the lowest rate, also if the warm-up ends there": [
                1.0,
                2.0,
                0.5,
            ]
        }
        what = f"{name} with 2 steps, both of them warm-up"
        check_close(got, [1.0, 0.5, 0.5], 1e-12, 0.0, what, causes)


@pytest.mark.task("a3.6")
def test_what_does_not_fit_is_refused(implementation):
    schedule = implementation(MODULE).warmup_stable_decay_at
    ends = {"steps": 10, "learning_rate": 1.0, "min_learning_rate": 0.0}
    check_raises(
        ValueError,
        lambda: schedule(1, warmup_steps=4, decay_steps=7, **ends),
        "a warm-up of 4 and a decay of 7 in 10 steps",
        ["4", "7", "10"],
    )
    check_raises(
        ValueError,
        lambda: schedule(1, warmup_steps=1, decay_steps=7, decay="cosine", **ends),
        'decay="cosine"',
        ["cosine"],
    )
    got = schedule(4, warmup_steps=4, decay_steps=6, **ends)
    check_close(got, 1.0, 0.0, 0.0, "the last update of a warm-up of 4, before a decay of 6 in 10")
