"""A training that has left the numbers: its loss or its gradient is NaN or infinite. What this
leaves out: going back to a checkpoint, and on with a smaller learning rate.
"""

import math

from lm_core.user_error import UserError


class DivergedError(UserError):
    """The loss or the gradient's norm became NaN or infinite at `step`."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def in_words(value: float) -> str:
    """A value that is not finite, as people write it."""
    return "NaN" if math.isnan(value) else "infinite"


def check_finite(step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
    """Raise DivergedError where one of the two is not finite."""
    for name, value in (("loss", loss), ("gradient's norm", grad_norm)):
        if not math.isfinite(value):
            message = (
                f"the {name} became {in_words(value)} at step {step} "
                f"(learning rate {learning_rate:.2g}); "
                'lower learning_rate, raise warmup_steps, or set precision = "float32"'
            )
            raise DivergedError(message, step)
