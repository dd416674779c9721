"""The training loop: read a batch, step, log, validate, save; and resume exactly where it stopped.

The loop does not depend on the task: pretraining, fine-tuning and preference optimization give it a
batch for each step and a loss for each batch. A resumed run gives the same numbers as one that was
never stopped. Everything that a step depends on is either a pure function of the step (batch,
learning rate) or part of the checkpoint (weights, optimizer, random generators, precision).

One process and many ranks run this loop; `run.parallelism` has everything that differs between them
(training/engine/parallelism.py).

What this leaves out: what a rank does with its part of the model (training/engine/many_ranks.py).
"""

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lm_core.device import faster_dtype
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
    DivergedError,
    check_figures,
    check_finite,
    check_jump,
    running_loss_after,
)
from training.engine.parallelism import LossOfBatch, OneProcess
from training.engine.queued_figures import QueuedFigures
from training.engine.step_statistics import (
    gradient_norms,
    residual_sizes,
    utilization,
    watched_blocks,
)
from training.engine.stop_signals import StopSignals
from training.runs.optimizer_settings import Optimizer
from training.runs.progress_note import ProgressNote
from training.runs.run_checkpoints import RunCheckpoints
from training.runs.training_run import TrainingRun, TrainingState


def train(run: TrainingRun) -> TrainingState:
    """Train to the end, from the newest checkpoint of the same fingerprint if there is one.

    Raises:
        ValueError: the loss or the gradient is not finite, or the loss far above its running mean;
            the message names the step. Or the task's batches cannot be split into micro-batches.
        StoppedBySignal: SIGTERM or Ctrl-C came; a checkpoint of the last update is saved.
    """
    _check(run)
    run.metric_log = run.parallelism.log_of(run.metric_log)
    if run.settings.compile:
        for block in run.model.blocks:
            block.forward = torch.compile(block.forward)
    if run.settings.activation_checkpointing:
        checkpoint_blocks(run.model)
    run.model.to(run.device).train()
    checkpoints = run.parallelism.checkpoints_of(
        RunCheckpoints(
            run.checkpoint_folder,
            run.fingerprint,
            run.metric_log,
            run.companion_files,
            run.special_token_ids,
            run.settings.keep_checkpoints,
            run.also_continues,
        )
    )
    with StopSignals(second_acts=not run.parallelism.saves_before_validation) as signals:
        try:
            state, optimizer = _begin_or_resume(run, checkpoints)
            _update_to_the_end(run, state, optimizer, checkpoints, signals)
        except UserError:
            checkpoints.wait()  # the last good one may still be on its way
            raise
        checkpoints.finish(run.model, optimizer, state.step, vars(state))
        if signals.seen is not None:
            signals.stop(state.step)
    return state


def _check(run: TrainingRun) -> None:
    settings, parallelism = run.settings, run.parallelism
    if run.loss_sum_of_batch is None and (
        settings.micro_batches > 1 or not isinstance(parallelism, OneProcess)
    ):
        raise UserError(
            f"micro_batches = {settings.micro_batches}, but batches of {run.description} cannot be "
            "split; set micro_batches = 1"
        )
    parallelism.check(settings.batch_size, settings.micro_batches, settings.optimizer)


def _begin_or_resume(run: TrainingRun, checkpoints: Any) -> tuple[TrainingState, Optimizer]:
    """Return the state after a resume, or after step 0 (first validation, first checkpoint)."""
    saved = checkpoints.find()
    if saved is not None:
        state = TrainingState(**(saved.extra | {"resumed_from": saved.step}))
    else:
        seed_everything(
            derived_seed(run.settings.seed, "training loop", *run.parallelism.seed_names)
        )
        state = run.parallelism.agreed(choose_precision(run))
    run.parallelism.wrap(run.model, state.precision)
    optimizer = run.settings.optimizer_of(run.model.named_parameters(), run.settings.precision)
    run.parallelism.warm_up(
        lambda: _forward_and_backward(run, _batch(run, 1)[0], state.precision), run.model
    )
    if saved is not None:
        checkpoints.restore(saved, run.model, optimizer)
        if state.unfinished_row is not None:
            _finish_row(run, state, state.unfinished_row, checkpoints)
        return state, optimizer
    state.validation_before = state.validation_after = _validate(run, state)
    first_row = {"step": 0, "tokens": 0, "seconds": state.seconds}
    run.metric_log.append(first_row | state.validation_before)
    checkpoints.save(run.model, optimizer, 0, vars(state))
    checkpoints.wait()
    if checkpoints.failure is not None:
        raise UserError(checkpoints.failure)
    return state, optimizer


def _update_to_the_end(
    run: TrainingRun,
    state: TrainingState,
    optimizer: Optimizer,
    checkpoints: Any,
    signals: StopSignals,
) -> None:
    settings, early = run.settings, run.parallelism.saves_before_validation
    left = settings.steps - state.step
    earlier = f" from step {state.step}" if state.step else ""
    shown = None if run.parallelism.is_main else Console(quiet=True)
    with progress_bar(run.description + earlier, left, "steps", shown) as bar:
        note = ProgressNote(settings.steps, bar.live is not None)
        queue: deque[_Update] = deque()
        read_at = 0.0
        for step in range(state.step + 1, settings.steps + 1):
            # Begin an update; its loss and its gradient's norm are read once they have arrived.
            wants = signals.seen is not None, checkpoints.failure is not None
            queue.append(_begin_update(run, optimizer, step, state.precision, wants))
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
                    if saves and early:
                        state.unfinished_row = row
                        _save(run, state, optimizer, checkpoints)
                    _finish_row(run, state, row, checkpoints)
                else:
                    run.metric_log.append(row)
                bar.advance(1, note.after(row, state))
            if saves and not (early and validates):
                _save(run, state, optimizer, checkpoints)
            if not last:
                _stop_if_asked(run, state, optimizer, checkpoints, signals, queue)


def _stop_if_asked(
    run: TrainingRun,
    state: TrainingState,
    optimizer: Optimizer,
    checkpoints: Any,
    signals: StopSignals,
    queue: "deque[_Update]",
) -> None:
    """Save and raise, if a signal has come (to any rank), or a checkpoint could not be saved."""
    own = signals.seen is not None, checkpoints.failure is not None
    stops, failed = run.parallelism.decided(own)
    if failed and run.settings.on_failed_save == "stop":
        raise UserError(f"{checkpoints.failure or 'a checkpoint was not saved'}; training stops")
    if not stops:
        return
    while queue:
        run.metric_log.append(_end_update(run, queue.popleft(), state, 0.0))
    checkpoints.save(run.model, optimizer, state.step, vars(state))
    checkpoints.wait()
    if checkpoints.failure is not None:
        raise UserError(checkpoints.failure)
    signals.stop(state.step)


def _save(run: TrainingRun, state: TrainingState, optimizer: Optimizer, checkpoints: Any) -> None:
    try:
        checkpoints.save(run.model, optimizer, state.step, vars(state))
    except OSError as error:
        if run.settings.on_failed_save == "stop":
            raise
        why = error.strerror or error
        line = f"{run.description}: the checkpoint of step {state.step} was not saved: {why}"
        print(f"{line}; the one before is whole", file=sys.stderr)


def _finish_row(
    run: TrainingRun, state: TrainingState, row: dict[str, Any], checkpoints: Any
) -> None:
    """Validate, and write the row of the step with the figures.

    A checkpoint that was saved before a validation which shows ruined weights is removed.
    """
    try:
        state.validation_after = _validate(run, state)
    except DivergedError:
        if state.unfinished_row is not None:
            checkpoints.discard(state.step)
        raise
    state.unfinished_row = None
    run.metric_log.append(row | state.validation_after)


@dataclass(frozen=True)
class _Update:
    """An update that the device may still be computing, with the data for its row."""

    step: int
    learning_rate: float
    num_tokens: int
    figures: QueuedFigures  # loss, norm of the gradient, statistics, and ranks' votes to stop
    started: float
    statistics: Sequence[str] = ()  # their names


def unread_updates(device: torch.device) -> int:
    """Return how many updates may be unread when the next one begins.

    On a GPU it is one, so that the GPU has work while this process writes a row. A CPU has finished
    an update when the call returns.
    """
    return 0 if device.type == "cpu" else 1


def _begin_update(
    run: TrainingRun,
    optimizer: Optimizer,
    step: int,
    precision: str,
    wants: tuple[bool, bool] = (False, False),
) -> _Update:
    """Queue one update on the device. Nothing here may wait for the device.

    Args:
        wants: whether this rank wants to stop, and whether it could not save a checkpoint.
    """
    started = time.perf_counter()
    settings = run.settings
    # 1. the batch and the learning rate: functions of the step's number alone
    batch, num_tokens = _batch(run, step)
    learning_rate = settings.learning_rate_at(step)
    # 2. forward and backward
    due = settings.statistics_every > 0 and step % settings.statistics_every == 0
    with watched_blocks(run.model) if due else nullcontext([]) as squares:
        loss = _forward_and_backward(run, batch, precision)
    statistics = gradient_norms(run.model.named_parameters()) if due else {}
    statistics |= residual_sizes(squares, run.parallelism.mean)
    # 3. clip, step, and clear the gradients
    grad_norm = run.parallelism.clip_gradients(run.model.parameters(), settings.max_grad_norm)
    figures = QueuedFigures(loss, grad_norm, *statistics.values(), *run.parallelism.votes(wants))
    optimizer.step(learning_rate)
    optimizer.zero_gradients()
    return _Update(step, learning_rate, num_tokens, figures, started, tuple(statistics))


def _forward_and_backward(run: TrainingRun, batch: Batch, precision: str) -> Tensor:
    """Leave the gradient of the global batch's loss in the model, and return the loss."""
    loss = LossOfBatch(
        run.loss_of_batch,
        run.loss_sum_of_batch,
        run.settings.micro_batches,
        lambda: _precision(run, precision),
    )
    return run.parallelism.loss_and_gradients(run.model, loss, batch)


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
    loss, grad_norm, *others = update.figures.read()
    statistics = dict(zip(update.statistics, others, strict=False))
    run.parallelism.hear(others[len(statistics) :])
    try:
        check_finite(update.step, loss, grad_norm, update.learning_rate)
        if update.step > max(EXEMPT_STEPS, run.settings.warmup_steps):
            check_jump(update.step, loss, state.running_loss, run.settings.stop_at_deviations)
    except DivergedError as error:
        if run.name_batch is None:
            raise
        batch = run.name_batch(update.step - 1)
        raise DivergedError(f"{error}; the batch was {batch}", update.step) from None
    state.running_loss = running_loss_after(loss, state.running_loss)
    seconds = time.perf_counter() - max(update.started, read_at)
    state.step, state.loss = update.step, loss
    state.tokens += update.num_tokens
    state.seconds += seconds
    state.update_seconds += seconds
    row = {
        "step": update.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "loss": loss,
        "learning_rate": update.learning_rate,
        "grad_norm": grad_norm,
        "tokens_per_second": update.num_tokens / seconds,
    }
    if statistics:
        speed = row["tokens_per_second"] / run.parallelism.size
        row |= statistics
        row |= utilization(run.model.config, speed, run.device, state.precision)
    return row


def _batch(run: TrainingRun, step: int) -> tuple[Batch, int]:
    """Return this rank's part of the batch of update `step` (counted from 1), checked against the
    model's vocabulary, and the tokens of the whole batch.
    """
    batch = run.batch_at(step - 1)
    batch.check_ids(run.model.config.vocab_size)
    return run.parallelism.own_part(batch, step).to(run.device), batch.num_tokens


IN_BFLOAT16 = {"float32": False, "bfloat16": True}  # a precision without a row is an error


def _precision(run: TrainingRun, name: str) -> torch.autocast:
    """Return the autocast context: weights stay float32, matrix products use bfloat16 if `name`
    says so.
    """
    enabled = IN_BFLOAT16[name] and run.parallelism.autocasts()
    return torch.autocast(run.device.type, torch.bfloat16, enabled=enabled)


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


def choose_precision(run: TrainingRun) -> TrainingState:
    """Measure a forward and backward pass of this model, unless the settings name a precision."""
    if run.settings.precision != "auto":
        return TrainingState(run.settings.precision)
    batch = _batch(run, 1)[0].split(run.settings.micro_batches)[0]

    def forward_and_backward(dtype: torch.dtype) -> None:
        with torch.autocast(run.device.type, dtype, enabled=dtype == torch.bfloat16):
            loss = run.loss_of_batch(run.model, batch)
        loss.backward()
        run.model.zero_grad()

    before = capture_random_state()
    dtype, advantage = faster_dtype(forward_and_backward, run.device, repeats=3)
    restore_random_state(before)
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    return TrainingState(name, bfloat16_advantage=advantage)
