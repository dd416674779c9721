"""Settings of the training loop, which every task has in a section of its recipe.

What this leaves out: what a task trains on, which its own settings describe.
"""

from typing import Any, Literal

import pydantic

from lm_core.user_error import UserError
from training.runs.optimizer_settings import OptimizerSettings

# Settings that leave a run's numbers as they are.
CHANGE_NO_NUMBERS = {
    "checkpoint_every",
    "keep_checkpoints",
    "validate_every",
    "activation_checkpointing",
    "stop_at_deviations",
    "on_failed_save",
    "statistics_every",
}


class TrainingSettings(OptimizerSettings):
    """Settings of the training loop, for every task, besides those of `OptimizerSettings`: steps,
    optimizer and learning rate.

    Attributes:
        batch_size: sequences (or pairs) per update.
        micro_batches: parts of a batch that go through the model one after another, to use less
            memory (training/gradient_accumulation.py).
        activation_checkpointing: whether blocks are computed again in the backward pass, to use
            less memory (training/activation_checkpointing.py).
        max_grad_norm: gradients with a larger norm are scaled down to it.
        checkpoint_every, keep_checkpoints: updates between checkpoints; number of newest ones to
            keep, besides step 0.
        on_failed_save: whether to "stop" or to "continue" when a checkpoint cannot be written, for
            example because the disk is full.
        validate_every: updates between validations; the loop always validates before the first and
            after the last.
        precision: "float32", "bfloat16", or "auto", which measures this model on this device and
            uses the faster.
        stop_at_deviations: the run stops at a loss this many standard deviations above its running
            mean, but not in the first 100 steps or the warm-up; 0 for never.
        compile: whether blocks are compiled by torch.compile: faster after a first step of about a
            minute, and rounded otherwise.
        statistics_every: steps between rows that also have utilization, memory, gradient norms by
            kind and the size of the residual stream (training/engine/step_statistics.py); 0 for
            none.
        seed: for the initial weights, the order of the data and the random generators.
    """

    batch_size: int = pydantic.Field(gt=0)
    micro_batches: int = pydantic.Field(default=1, gt=0)
    activation_checkpointing: bool = False
    max_grad_norm: float = pydantic.Field(default=1.0, gt=0)
    checkpoint_every: int = pydantic.Field(default=200, gt=0)
    keep_checkpoints: int = pydantic.Field(default=2, gt=0)
    on_failed_save: Literal["stop", "continue"] = "stop"
    validate_every: int = pydantic.Field(default=200, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    stop_at_deviations: float = pydantic.Field(default=10.0, ge=0)
    compile: bool = False
    statistics_every: int = pydantic.Field(default=0, ge=0)
    seed: int = 0

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> "TrainingSettings":
        if self.micro_batches > self.batch_size:
            raise UserError(
                f"micro_batches = {self.micro_batches} is more than batch_size = "
                f"{self.batch_size}; a micro-batch has at least one sequence"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """Return the settings that affect a run's numbers, for its fingerprint.

        The others may change between an interruption and the resume.
        """
        return self.model_dump(exclude=CHANGE_NO_NUMBERS)
