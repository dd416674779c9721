"""Checks for a training run that has diverged: its loss or its gradient is NaN or infinite, or its
loss is far above its running mean.

The second comes earlier: a loss that jumps from 3 to 9 is often NaN only hundreds of steps later,
when the last good checkpoint has been replaced.

What this leaves out: restarting from a checkpoint with a smaller learning rate.
"""

import math
from collections.abc import Mapping, Sequence

from lm_core.user_error import UserError

EXEMPT_STEPS = 100  # a new run's loss falls fast, and its deviation is not known yet
NEW_LOSS_WEIGHT = 0.05  # the running mean is over the last 20 losses or so
LEAST_DEVIATION = 0.02  # nats; losses that hardly vary would make a small rise look large


class DivergedError(UserError):
    """The loss or the gradient's norm became NaN or infinite at `step`, or the loss too large."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def in_words(value: float) -> str:
    """Return the usual spelling of a value that is not finite."""
    return "NaN" if math.isnan(value) else "infinite"


def check_finite(step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
    """Raise DivergedError if the loss or the gradient's norm is not finite."""
    for name, value in (("loss", loss), ("gradient's norm", grad_norm)):
        if not math.isfinite(value):
            message = (
                f"the {name} became {in_words(value)} at step {step} "
                f"(learning rate {learning_rate:.2g}); "
                'lower learning_rate, raise warmup_steps, or set precision = "float32"'
            )
            raise DivergedError(message, step)


def running_loss_after(loss: float, running: Sequence[float] | None) -> list[float]:
    """Return the running mean and variance of the loss, with one more loss; None before the first.

    Both are exponential averages.
    """
    if running is None:
        return [loss, 0.0]
    mean, variance = running
    difference = loss - mean
    return [
        mean + NEW_LOSS_WEIGHT * difference,
        (1 - NEW_LOSS_WEIGHT) * (variance + NEW_LOSS_WEIGHT * difference**2),
    ]


def check_jump(
    step: int, loss: float, running: Sequence[float] | None, most_deviations: float
) -> None:
    """Raise DivergedError if the loss is more than `most_deviations` standard deviations above its
    running mean; 0 allows any loss.
    """
    if running is None or most_deviations == 0:
        return
    mean, deviation = running[0], max(math.sqrt(running[1]), LEAST_DEVIATION)
    if loss > mean + most_deviations * deviation:
        message = (
            f"the loss jumped to {loss:.4g} at step {step}: {(loss - mean) / deviation:.0f} times "
            f"its standard deviation of {deviation:.2g} above its running mean of {mean:.4g}; "
            "lower learning_rate, or set stop_at_deviations = 0 to resume from the last checkpoint"
        )
        raise DivergedError(message, step)


def check_figures(step: int, figures: Mapping[str, float]) -> None:
    """Raise DivergedError if a validation figure is not finite.

    The last update may have ruined the weights, which only a later update would detect.
    """
    for name, value in figures.items():
        if math.isfinite(value):
            continue
        what = name.replace("_", " ")
        if step == 0:
            message = (
                f"the {what} is {in_words(value)} before the first step; the initial model is "
                "damaged: create it again"
            )
        else:
            message = (
                f"the {what} became {in_words(value)} after step {step}; lower learning_rate or "
                "raise warmup_steps"
            )
        raise DivergedError(message, step)
