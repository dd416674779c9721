"""Learning rates as three phases: up, flat, down. Each schedule is a set of limits and a curve."""

import math


def _rate(step, warmup_steps, flat_until, steps, high, low, curve):
    """The rate of one update; `curve` maps the share of the way down that is done to (0, 1)."""
    if step < warmup_steps:
        return high / warmup_steps * step
    if step >= steps and flat_until < math.inf:
        return low
    if step <= flat_until:
        return high
    done = (step - flat_until) / (steps - flat_until)
    return (1 - curve(done)) * low + curve(done) * high


def learning_rate_at(step, *, steps, warmup_steps, learning_rate, min_learning_rate):
    """Half a cosine from the end of the warm-up."""
    return _rate(
        step,
        warmup_steps,
        warmup_steps,
        steps,
        learning_rate,
        min_learning_rate,
        lambda done: math.cos(math.pi * done / 2) ** 2,
    )


def warmup_stable_decay_at(
    step,
    *,
    steps,
    warmup_steps,
    learning_rate,
    min_learning_rate,
    decay_steps,
    decay="1-sqrt",
):
    """Flat until the last updates."""
    if warmup_steps + decay_steps > steps:
        raise ValueError(f"{warmup_steps} and {decay_steps} do not fit into {steps} steps")
    if decay == "1-sqrt":
        power = 0.5
    elif decay == "linear":
        power = 1.0
    else:
        raise ValueError(f"there is no decay called {decay!r}")
    flat_until = steps - decay_steps if decay_steps else math.inf
    return _rate(
        step,
        warmup_steps,
        flat_until,
        steps,
        learning_rate,
        min_learning_rate,
        lambda done: 1 - done**power,
    )


def linear_decay_at(step, *, steps, warmup_steps, learning_rate, min_learning_rate=0):
    """A line from the end of the warm-up."""
    return _rate(
        step,
        warmup_steps,
        warmup_steps,
        steps,
        learning_rate,
        min_learning_rate,
        lambda done: 1 - done,
    )
