"""The training loop: read a batch, step, log, validate, save; and resume exactly where it stopped.

The loop does not depend on the task: pretraining, fine-tuning and preference optimization give it a
batch for each step and a loss for each batch. A resumed run gives the same numbers as one that was
never stopped. Everything that a step depends on is either a pure function of the step (batch,
learning rate) or part of the checkpoint (weights, optimizer, random generators, precision).

What this leaves out: more than one process.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lm_core.device import faster_dtype
from lm_core.formats.metric_log import MetricLog
from lm_core.progress import progress_bar
from lm_core.random_state import (
    capture_random_state,
    derived_seed,
    restore_random_state,
    seed_everything,
)
from lm_core.user_error import UserError
from training.activation_checkpointing import checkpoint_blocks
from training.batching import Batch
from training.engine.divergence import (
    EXEMPT_STEPS,
    check_figures,
    check_finite,
    check_jump,
    running_loss_after,
)
from training.engine.queued_figures import QueuedFigures
from training.gradient_accumulation import accumulate_gradients
from training.optimizers import clip_gradients
from training.runs.optimizer_settings import Optimizer
from training.runs.run_checkpoints import RunCheckpoints
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
            number; for settings with micro_batches. None if the task's batches cannot be split.
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


def train(run: TrainingRun) -> TrainingState:
    """Train to the end, from the newest checkpoint of the same fingerprint if there is one.

    Raises:
        ValueError: the loss or the gradient is not finite, or the loss far above its running mean;
            the message names the step. Or the task's batches cannot be split into micro-batches.
    """
    settings = run.settings
    if settings.micro_batches > 1 and run.loss_sum_of_batch is None:
        raise UserError(
            f"micro_batches = {settings.micro_batches}, but batches of {run.description} cannot be "
            "split; set micro_batches = 1"
        )
    if settings.activation_checkpointing:
        checkpoint_blocks(run.model)
    run.model.to(run.device).train()
    optimizer = settings.optimizer_of(run.model.named_parameters(), settings.precision)
    checkpoints = RunCheckpoints(
        run.checkpoint_folder,
        run.fingerprint,
        run.metric_log,
        run.companion_files,
        run.special_token_ids,
        settings.keep_checkpoints,
    )
    state = _begin_or_resume(run, optimizer, checkpoints)
    left = settings.steps - state.step
    earlier = f" from step {state.step}" if state.step else ""
    with progress_bar(run.description + earlier, left, "steps") as bar:
        queue: deque[_Update] = deque()
        read_at = 0.0
        for step in range(state.step + 1, settings.steps + 1):
            # Begin an update; its loss and its gradient's norm are read once they have arrived.
            queue.append(_begin_update(run, optimizer, step, state.precision))
            # Validation and checkpoint, if due after it. Both need all updates so far to have
            # ended.
            last = step == settings.steps
            validates = step % settings.validate_every == 0 or last
            saves = step % settings.checkpoint_every == 0 or last
            while len(queue) > (0 if validates or saves else unread_updates(run.device)):
                # End the oldest update: write one row of the log, with the validation if it is due.
                row = _end_update(run, queue.popleft(), state, read_at)
                read_at = time.perf_counter()
                if validates and not queue:
                    state.validation_after = _validate(run, state)
                    row |= state.validation_after
                run.metric_log.append(row)
                bar.advance(1, _note(row, state))
            if saves:
                checkpoints.save(run.model, optimizer, step, vars(state))
    checkpoints.finish()
    return state


def _begin_or_resume(
    run: TrainingRun, optimizer: Optimizer, checkpoints: RunCheckpoints
) -> TrainingState:
    """Return the state after a resume, or after step 0 (first validation, first checkpoint)."""
    saved = checkpoints.resume(run.model, optimizer)
    if saved is not None:
        return TrainingState(**(saved.extra | {"resumed_from": saved.step}))
    seed_everything(derived_seed(run.settings.seed, "training loop"))
    state = _choose_precision(run)
    state.validation_before = state.validation_after = _validate(run, state)
    first_row = {"step": 0, "tokens": 0, "seconds": state.seconds}
    run.metric_log.append(first_row | state.validation_before)
    checkpoints.save(run.model, optimizer, 0, vars(state))
    return state


@dataclass(frozen=True)
class _Update:
    """An update that the device may still be computing, with the data for its row."""

    step: int
    learning_rate: float
    num_tokens: int
    figures: QueuedFigures  # loss and norm of the gradient
    started: float


def unread_updates(device: torch.device) -> int:
    """Return how many updates may be unread when the next one begins.

    On a GPU it is one, so that the GPU has work while this process writes a row. A CPU has finished
    an update when the call returns.
    """
    return 0 if device.type == "cpu" else 1


def _begin_update(run: TrainingRun, optimizer: Optimizer, step: int, precision: str) -> _Update:
    """Queue one update on the device. Nothing here may wait for the device."""
    started = time.perf_counter()
    settings = run.settings
    # 1. the batch and the learning rate: functions of the step's number alone
    batch = _batch(run, step)
    learning_rate = settings.learning_rate_at(step)
    # 2. forward and backward
    loss = _forward_and_backward(run, batch, precision)
    # 3. clip, step, and clear the gradients
    grad_norm = clip_gradients(run.model.parameters(), settings.max_grad_norm)
    figures = QueuedFigures(loss, grad_norm)
    optimizer.step(learning_rate)
    optimizer.zero_gradients()
    return _Update(step, learning_rate, batch.num_tokens, figures, started)


def _forward_and_backward(run: TrainingRun, batch: Batch, precision: str) -> Tensor:
    """Leave the gradient of the batch's loss in the model, and return the loss."""
    loss_sum_of_batch = run.loss_sum_of_batch
    if run.settings.micro_batches == 1 or loss_sum_of_batch is None:
        with _precision(run, precision):
            loss = run.loss_of_batch(run.model, batch)
        loss.backward()
        return loss

    def loss_sum(model: TransformerLM, micro_batch: Batch) -> tuple[Tensor, Tensor | int]:
        with _precision(run, precision):
            return loss_sum_of_batch(model, micro_batch)

    return accumulate_gradients(run.model, loss_sum, batch.split(run.settings.micro_batches))


def _end_update(
    run: TrainingRun, update: _Update, state: TrainingState, read_at: float
) -> dict[str, Any]:
    """Wait for one update, and return its row for the log.

    Its time is measured from its start, or from the end of the previous update (`read_at`) if that
    was later.

    Raises:
        ValueError: the loss or the gradient is not finite, or the loss too high. The weights of
            this update and of one begun since are lost; no checkpoint is written in between.
    """
    loss, grad_norm = update.figures.read()
    check_finite(update.step, loss, grad_norm, update.learning_rate)
    if update.step > max(EXEMPT_STEPS, run.settings.warmup_steps):
        check_jump(update.step, loss, state.running_loss, run.settings.stop_at_deviations)
    state.running_loss = running_loss_after(loss, state.running_loss)
    seconds = time.perf_counter() - max(update.started, read_at)
    state.step, state.loss = update.step, loss
    state.tokens += update.num_tokens
    state.seconds += seconds
    state.update_seconds += seconds
    return {
        "step": update.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "loss": loss,
        "learning_rate": update.learning_rate,
        "grad_norm": grad_norm,
        "tokens_per_second": update.num_tokens / seconds,
    }


def _batch(run: TrainingRun, step: int) -> Batch:
    """Return the batch of update `step` (counted from 1), checked against the model's
    vocabulary.
    """
    batch = run.batch_at(step - 1)
    batch.check_ids(run.model.config.vocab_size)
    return batch.to(run.device)


IN_BFLOAT16 = {"float32": False, "bfloat16": True}  # a precision without a row is an error


def _precision(run: TrainingRun, name: str) -> torch.autocast:
    """Return the autocast context: weights stay float32, matrix products use bfloat16 if `name`
    says so.
    """
    return torch.autocast(run.device.type, torch.bfloat16, enabled=IN_BFLOAT16[name])


def _validate(run: TrainingRun, state: TrainingState) -> dict[str, float]:
    """Return the figures of `run.validate`, and restore the state of the random generators."""
    if run.validate is None:
        return {}
    started = time.perf_counter()
    before = capture_random_state()
    run.model.eval()
    with torch.no_grad(), _precision(run, state.precision):
        figures = run.validate(run.model)
    run.model.train()
    restore_random_state(before)
    state.seconds += time.perf_counter() - started
    check_figures(state.step, figures)
    return figures


def _choose_precision(run: TrainingRun) -> TrainingState:
    """Measure a forward and backward pass of this model, unless the settings name a precision."""
    if run.settings.precision != "auto":
        return TrainingState(run.settings.precision)
    batch = _batch(run, 1).split(run.settings.micro_batches)[0]

    def forward_and_backward(dtype: torch.dtype) -> None:
        with _precision(run, "bfloat16" if dtype == torch.bfloat16 else "float32"):
            loss = run.loss_of_batch(run.model, batch)
        loss.backward()
        run.model.zero_grad()

    before = capture_random_state()
    dtype, advantage = faster_dtype(forward_and_backward, run.device, repeats=3)
    restore_random_state(before)
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    return TrainingState(name, bfloat16_advantage=advantage)


def _note(row: dict[str, Any], state: TrainingState) -> str:
    """Return the text that the progress bar shows next to the count, with the first validation
    figure.
    """
    note = f"loss {row['loss']:.2f} · {row['tokens_per_second']:,.0f} tokens/s"
    for name, value in list(state.validation_after.items())[:1]:
        note += f" · {name.replace('_', ' ')} {value:.3f}"
    return note
