"""The input of a training run, and the progress that its checkpoints store.

What this leaves out: the loop (training/training_loop.py) and its settings (training_settings.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lm_core.formats.metric_log import MetricLog
from training.batching import Batch
from training.engine.parallelism import OneProcess, Parallelism
from training.runs.training_settings import TrainingSettings
from transformer_lm.language_model import TransformerLM


@dataclass
class TrainingRun:
    """Everything that `train` needs.

    Attributes:
        model: with its initial weights; a resume overwrites them.
        loss_of_batch: (model, batch) -> the loss to minimize, a tensor without axes.
        batch_at: the batch of an update, counted from 0: a pure function of that number.
        validate: figures by name, such as {"validation_bits_per_byte": 2.1}; None for none. Called
            in eval mode, without gradients, in the training's precision.
        settings: see `TrainingSettings`.
        checkpoint_folder: contains this run's checkpoints and nothing else.
        metric_log: receives a row for each update, and row 0 before the first.
        fingerprint: `run_fingerprint` of everything that affects the numbers.
        companion_files: copied into every checkpoint, such as tokenizer.json.
        special_token_ids: entries of config.json such as {"eos_token_id": 2}.
        device: where to train.
        description: text for the progress bar.
        loss_sum_of_batch: (model, batch) -> the sum of the losses of its counted tokens, and their
            number; for settings with micro_batches, and for many ranks. None if the task's batches
            cannot be split.
        parallelism: how the work is spread; by default, it is not.
        also_continues: fingerprint of a run on many ranks that this run may continue.
        name_batch: the batch of an update, counted from 0, in words, for messages.
    """

    model: TransformerLM
    loss_of_batch: Callable[[TransformerLM, Batch], Tensor]
    batch_at: Callable[[int], Batch]
    validate: Callable[[TransformerLM], dict[str, float]] | None
    settings: TrainingSettings
    checkpoint_folder: Path
    metric_log: MetricLog
    fingerprint: str
    companion_files: dict[str, bytes] = field(default_factory=dict)
    special_token_ids: dict[str, int] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    description: str = "train"
    loss_sum_of_batch: Callable[[TransformerLM, Batch], tuple[Tensor, Tensor | int]] | None = None
    parallelism: Parallelism = field(default_factory=OneProcess)
    also_continues: str | None = None
    name_batch: Callable[[int], str] | None = None


@dataclass
class TrainingState:
    """The progress of a run, which a checkpoint stores as JSON.

    Attributes:
        precision: "float32" or "bfloat16", as chosen.
        bfloat16_advantage: how many times faster bfloat16 was; None if it was not measured.
        step: number of updates done.
        tokens: number of tokens read so far.
        seconds: time spent on updates and validation so far, including earlier processes.
        update_seconds: the part of it spent on updates.
        loss: loss of the last update; None before the first.
        running_loss: its running mean and variance (training/engine/divergence.py).
        validation_before, validation_after: the first and the latest figures.
        resumed_from: the step of the checkpoint that this process resumed from; None if it started
            the run.
        unfinished_row: in a checkpoint that was saved before the validation of its step, the row of
            that step without the validation.
    """

    precision: Literal["float32", "bfloat16"]
    bfloat16_advantage: float | None = None
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    update_seconds: float = 0.0
    loss: float | None = None
    running_loss: list[float] | None = None
    validation_before: dict[str, float] = field(default_factory=dict)
    validation_after: dict[str, float] = field(default_factory=dict)
    resumed_from: int | None = None
    unfinished_row: dict[str, Any] | None = None
