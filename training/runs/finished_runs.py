"""Many small runs in one folder: each is trained once, and its result is kept in a file.

A series that was stopped continues with the next unfinished run. The checkpoints of a finished run
are removed; its rows of metrics.jsonl stay.

What this leaves out: runs in parallel.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import file_sha256, read_json, write_json
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import MetricLog
from lm_core.formats.token_shards import TokenShards
from training.engine.divergence import DivergedError
from training.runs.pretraining import PretrainSettings, pretrain
from training.runs.run_checkpoints import run_fingerprint
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters


@dataclass(frozen=True)
class RunSeries:
    """The settings that the runs of a series share.

    Attributes:
        shards: the token shards of the runs.
        folder: where finished/NAME.json and metrics.jsonl are written.
        command: the `lm` command that recreates a damaged file.
        code: package -> hash of its code; runs finished by other code are trained again.
        also_measure: gets the folder of a run's last checkpoint when it has been trained; returns
            more figures of its result.
    """

    shards: TokenShards
    folder: Path
    command: str
    code: dict[str, str] | None = None
    also_measure: Callable[[Path], dict[str, float]] | None = None

    @property
    def metrics(self) -> Path:
        """Return the path of the rows of all runs; a row's stage is its run's description."""
        return self.folder / "metrics.jsonl"

    def train_unless_finished(
        self,
        settings: PretrainSettings,
        name: str,
        description: str,
        keeps_diverged: bool = False,
    ) -> dict[str, Any]:
        """Train a run that is not finished yet, and return its result.

        Args:
            settings: those of the run.
            name: name of the result file.
            description: its stage in metrics.jsonl, and the title of its progress bar.
            keeps_diverged: a run whose loss becomes NaN counts as finished, not as an error.

        Returns:
            parameters, tokens (trained on), loss (validation, nats per token), bits_per_byte; for a
            run that diverged: parameters and diverged_at, the step.

        Raises:
            DivergedError: the loss became NaN, and `keeps_diverged` is False.
        """
        config = ModelConfig(vocab_size=self.shards.vocab_size, **settings.model.model_dump())
        finished = self.folder / "finished" / f"{name}.json"
        fingerprint = run_fingerprint(
            settings=settings.model_dump(), shards=file_sha256(self.shards.folder), code=self.code
        )
        if finished.exists():
            done = read_json(finished, "a finished run", self.command)
            if done.pop("fingerprint") == fingerprint:
                return done
        checkpoints = self.folder / "training" / name
        done: dict[str, Any] = {"parameters": count_parameters(config)}
        try:
            done |= self._train(settings, config, checkpoints, description)
        except DivergedError as error:
            if not keeps_diverged:
                raise
            done["diverged_at"] = error.step
        finished.parent.mkdir(parents=True, exist_ok=True)
        write_json(finished, {"fingerprint": fingerprint, **done})
        shutil.rmtree(checkpoints, ignore_errors=True)  # a run that diverged early has none
        return done

    def _train(
        self, settings: PretrainSettings, config: ModelConfig, checkpoints: Path, description: str
    ) -> dict[str, Any]:
        summary = pretrain(
            settings,
            self.shards.folder,
            checkpoints,
            MetricLog(self.metrics, description),
            tokenizer_hash=self.shards.tokenizer_hash,
            code=self.code,
        )
        training = settings.training
        last = latest_checkpoint(checkpoints) if self.also_measure else None
        return {
            "tokens": training.steps * training.batch_size * config.context_length,
            "loss": summary.validation_after["validation_loss"],
            "bits_per_byte": summary.validation_after["validation_bits_per_byte"],
            **(self.also_measure(last) if self.also_measure and last else {}),
        }
