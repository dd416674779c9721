"""The checkpoints of one training run: written, found again, and kept to a bounded number.

A run is identified by its fingerprint, a hash of everything that affects its numbers. Another run's
checkpoints are never continued. They are set aside with their rows of metrics.jsonl until the new
run has ended, so that interrupting the new run does not destroy a finished one.

What this leaves out: the file format (lm_core/formats/checkpoint_files.py) and the weights' layout
(transformer_lm/weights/pretrained.py).
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import read_json, remove_path, remove_unfinished, write_json
from lm_core.formats.checkpoint_files import (
    TrainingState,
    checkpoint_name,
    list_checkpoints,
    read_checkpoint,
    read_training_state,
    write_checkpoint,
)
from lm_core.formats.metric_log import MetricLog
from lm_core.random_state import capture_random_state, restore_random_state
from training.runs.optimizer_settings import Optimizer
from transformer_lm.language_model import TransformerLM
from transformer_lm.weights.pretrained import from_hugging_face, to_hugging_face

SET_ASIDE = "earlier_run"
ROWS = "metrics.json"


def run_fingerprint(**parts: Any) -> str:
    """Return the SHA-256 of everything that affects a run's numbers: any JSON values, by name."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class RunCheckpoints:
    """The checkpoint folder of one run.

    Attributes:
        folder: contains step_000000, step_000500 ...
        fingerprint: fingerprint of this run.
        metric_log: contains this stage's rows.
        companion_files: written into every checkpoint, such as tokenizer.json.
        special_token_ids: entries of config.json such as {"eos_token_id": 2}.
        keep: number of newest checkpoints to keep. Step 0 is kept as well, as the "before" of every
            comparison.
        also_continues: fingerprint of another run that counts as this one.
    """

    folder: Path
    fingerprint: str
    metric_log: MetricLog
    companion_files: dict[str, bytes]
    special_token_ids: dict[str, int] = field(default_factory=dict)
    keep: int = 2
    also_continues: str | None = None

    def save(
        self, model: TransformerLM, optimizer: Optimizer, step: int, extra: dict[str, Any]
    ) -> Path:
        """Write a checkpoint atomically, then remove those that are no longer kept.

        Args:
            extra: JSON values that the loop needs again, such as the precision.
        """
        tensors, config = to_hugging_face(model, self.special_token_ids)
        optimizer_state = {name: tensor.cpu() for name, tensor in optimizer.state().items()}
        random_state = capture_random_state()
        state = TrainingState(step, self.fingerprint, optimizer_state, random_state, extra)
        folder = self.folder / checkpoint_name(step)
        write_checkpoint(folder, tensors, config, self.companion_files, state)
        after_step_0 = [p for p in list_checkpoints(self.folder) if p.name != checkpoint_name(0)]
        for old in after_step_0[: -self.keep]:
            remove_path(old)
        return folder

    failure = None  # a save that fails raises its error at once

    def wait(self) -> None:
        """A save has ended when it returns."""

    def finish(self, *last: Any) -> None:
        """Remove the checkpoints that were set aside, as the run has ended."""
        remove_path(self.folder / SET_ASIDE)

    def find(self) -> TrainingState | None:
        """Return the state of the newest checkpoint of this run; the log then ends with its step.

        Returns None if this run has no checkpoint; no checkpoint and no row are then left in place.
        """
        self.choose()
        found = list_checkpoints(self.folder)
        if not found:
            self.metric_log.rewind(-1)
            return None
        state = read_training_state(found[-1])
        self.metric_log.rewind(state.step)
        return state

    def restore(self, state: TrainingState, model: TransformerLM, optimizer: Optimizer) -> None:
        """Restore the weights, the optimizer and the random state of a checkpoint from `find`."""
        folder = self.folder / checkpoint_name(state.step)
        saved = from_hugging_face(*read_checkpoint(folder))
        model.load_state_dict(saved.state_dict())
        optimizer.load_state(state.optimizer)
        restore_random_state(state.random)  # last: building `saved` drew random numbers

    def choose(self) -> None:
        """Set another run's checkpoints aside, or bring those of this run back."""
        remove_unfinished(self.folder)
        earlier = self.folder / SET_ASIDE
        if self._fingerprint_in(self.folder) not in (self.fingerprint, self.also_continues):
            if self._fingerprint_in(earlier) == self.fingerprint:
                self._bring_back(earlier)
            else:
                self.set_aside()

    def _fingerprint_in(self, folder: Path) -> str | None:
        found = list_checkpoints(folder)
        return read_training_state(found[-1]).fingerprint if found else None

    def set_aside(self) -> None:
        """Set another run's checkpoints aside.

        If some are set aside already, the current ones belong to a run that never ended, and are
        removed.
        """
        earlier = self.folder / SET_ASIDE
        if not list_checkpoints(earlier) and list_checkpoints(self.folder):
            earlier.mkdir(exist_ok=True)
            write_json(earlier / ROWS, self.metric_log.rows())
            for checkpoint in reversed(list_checkpoints(self.folder)):  # the newest names the run
                checkpoint.rename(earlier / checkpoint.name)
        for checkpoint in list_checkpoints(self.folder):
            remove_path(checkpoint)

    def _bring_back(self, earlier: Path) -> None:
        """Make the run that was set aside current again, because the settings are those of that
        run.
        """
        for checkpoint in list_checkpoints(self.folder):
            remove_path(checkpoint)
        rows = read_json(earlier / ROWS, "the rows of the earlier run", "lm pretrain RECIPE")
        self.metric_log.replace_rows(rows)
        for checkpoint in list_checkpoints(earlier):  # newest last: if interrupted, do all again
            checkpoint.rename(self.folder / checkpoint.name)
        remove_path(earlier)
