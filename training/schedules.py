"""The learning rate over a run: linear warm-up, then decay along half a cosine.

Loshchilov and Hutter, 2017, equation 5, without restarts; warm-up as in Vaswani et al., 2017,
section 5.3. What this leaves out: the warmup-stable-decay schedule.
"""

import math


def learning_rate_at(
    step: int, *, steps: int, warmup_steps: int, learning_rate: float, min_learning_rate: float
) -> float:
    """Return the learning rate of one update.

    Args:
        step: number of the update, counted from 1; the last is `steps`.
        steps: number of updates in the whole run.
        warmup_steps: the update at which `learning_rate` is reached; with 0 the run starts at it.
        learning_rate: the highest rate.
        min_learning_rate: the rate of the last update and of any later one.

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
