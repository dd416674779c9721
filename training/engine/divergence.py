"""Checks for a training run that has diverged: its loss or its gradient is NaN or infinite.

What this leaves out: restarting from a checkpoint with a smaller learning rate.
"""

import math
from collections.abc import Mapping

from lm_core.user_error import UserError


class DivergedError(UserError):
    """The loss or the gradient's norm became NaN or infinite at `step`."""

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
