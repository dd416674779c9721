"""The learning rate over a run: linear warm-up, then one of three ways down.

- Half a cosine: Loshchilov and Hutter, 2017, equation 5, without restarts. Its shape depends on the
  number of steps from the start, so a longer run is another run.
- Warmup-stable-decay: Hu et al., 2024, section 4. The rate is constant until the last `decay_steps`
  updates, so runs of several lengths can share the constant part. It goes down along 1 - sqrt or a
  line (Hägele et al., 2024, section 3).
- A line from the end of the warm-up to 0: Bergsma et al., 2025.

Warm-up is that of Vaswani et al., 2017, section 5.3. All are pure functions of the step. What this
leaves out: restarts, and schedules that react to the loss.
"""

import math

from lm_core.user_error import UserError

# share of the decay that is done, from 0 to 1 -> share of the rate that is left
DECAYS = {
    "linear": lambda done: 1 - done,
    "1-sqrt": lambda done: 1 - math.sqrt(done),
}


def learning_rate_at(
    step: int, *, steps: int, warmup_steps: int, learning_rate: float, min_learning_rate: float
) -> float:
    """Return the learning rate of one update, with decay along half a cosine.

    Args:
        step: number of the update, counted from 1; the last is `steps`.
        steps: number of updates in the whole run.
        warmup_steps: the update at which `learning_rate` is reached; with 0 the decay begins with
            the first update.
        learning_rate: the highest rate.
        min_learning_rate: the rate of the last update (also if the warm-up takes all updates) and
            of any later one.

    Example: 10 steps with a warm-up of 2, from 1.0 to 0.0: update 1 has 0.5, update 2 has 1.0,
    update 6 (halfway from 2 to 10) has 0.5, update 10 has 0.0.
    """
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    if step >= steps:
        return min_learning_rate
    progress = (step - warmup_steps) / (steps - warmup_steps)
    share = (1 + math.cos(math.pi * progress)) / 2
    return min_learning_rate + share * (learning_rate - min_learning_rate)


def warmup_stable_decay_at(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    learning_rate: float,
    min_learning_rate: float,
    decay_steps: int,
    decay: str = "1-sqrt",
) -> float:
    """Return the learning rate of one update: warm-up, then constant, then decay.

    Args:
        decay_steps: number of updates at the end that have a lower rate; with 0 the rate stays at
            `learning_rate`, for a run from whose checkpoint others start their decay.
        decay: "1-sqrt" or "linear": 1 - sqrt(done) or 1 - done is left of the rate when this share
            of the decay is done.

    The other arguments are those of `learning_rate_at`.

    Example: 10 steps with a warm-up of 2 and 4 steps of decay, from 1.0 to 0.0: updates 2 to 6 have
    1.0, update 7 has 1 - sqrt(1/4) = 0.5 (linear: 0.75), update 10 has 0.0.

    Raises:
        ValueError: warm-up and decay take more than all steps, or no decay has this name.
    """
    if warmup_steps + decay_steps > steps:
        raise UserError(
            f"{warmup_steps} steps of warm-up and {decay_steps} of decay are more than the {steps} "
            "steps of the run; shorten one of them"
        )
    if decay not in DECAYS:
        raise UserError(f"unknown decay {decay!r}; expected one of {', '.join(DECAYS)}")
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    decayed = min(step, steps) - (steps - decay_steps)
    if decayed <= 0:
        return learning_rate
    share = DECAYS[decay](decayed / decay_steps)
    return min_learning_rate + share * (learning_rate - min_learning_rate)


def linear_decay_at(
    step: int, *, steps: int, warmup_steps: int, learning_rate: float, min_learning_rate: float = 0
) -> float:
    """Return the learning rate of one update, with decay along a line from the end of the warm-up.

    The arguments are those of `learning_rate_at`. The line ends at 0 unless `min_learning_rate`
    says otherwise; Bergsma et al., 2025, found 0 better than a tenth of the highest rate.

    Example: 10 steps with a warm-up of 2, from 1.0: update 6 (halfway from 2 to 10) has 0.5, update
    10 has 0.0.
    """
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    if step >= steps:
        return min_learning_rate
    share = (steps - step) / (steps - warmup_steps)
    return min_learning_rate + share * (learning_rate - min_learning_rate)
