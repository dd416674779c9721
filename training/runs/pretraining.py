"""Pretraining: shards in, checkpoints out. It connects the shards, the model and the loop.

What this leaves out: the recipe and its paths (lm_course), and the tokenizer itself; this step
needs only its hash, its size and the files to store next to the weights.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pydantic
from torch import Tensor

from lm_core.artifact_paths import file_sha256
from lm_core.device import pick_device
from lm_core.formats.metric_log import MetricLog
from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import derived_seed, seed_everything
from lm_core.settings import Settings
from lm_core.user_error import UserError
from training.batching import Batch, WindowBatches
from training.engine.fused_loss import fused_token_losses
from training.engine.parallelism import OneProcess, Parallelism
from training.packed_documents import DocumentBatches, check_documents_stay_apart
from training.runs.one_dial import dial_line, with_dial
from training.runs.run_checkpoints import run_fingerprint
from training.runs.training_settings import TrainingSettings
from training.runs.validation import evaluate_bits_per_byte
from training.training_loop import TrainingRun, TrainingState, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, ModelShape


class PretrainSettings(Settings):
    """The `[pretrain]` section of a recipe.

    Attributes:
        depth: number of layers, from which all values of `model` and `training` that are not given
            are derived (training/runs/one_dial.py).
        tokens_per_parameter: with a depth, the tokens to train on for each parameter of the blocks;
            20 by default.
        model: shape of the model; the vocabulary is that of the shards.
        training: settings of the training loop.
        batches: "windows" of the whole text, or "documents", packed and kept apart.
        z_loss: weight of the z-loss (training/loss.py) in training; validation is without it.
        validation_tokens: how much of the validation split to read each time; None for all of it.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
    """

    depth: int | None = None
    tokens_per_parameter: float | None = pydantic.Field(default=None, gt=0)
    model: ModelShape
    training: TrainingSettings
    batches: Literal["windows", "documents"] = "windows"
    z_loss: float = pydantic.Field(default=0.0, ge=0)
    validation_tokens: int | None = pydantic.Field(default=None, gt=1)
    device: str = "auto"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_depth(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("depth") is not None:
            return with_dial(values)
        if isinstance(values, dict) and values.get("tokens_per_parameter") is not None:
            raise UserError(
                "tokens_per_parameter is given without depth, so training.steps decides the "
                "tokens; remove it, or set depth"
            )
        return values


BATCHES = {"windows": WindowBatches, "documents": DocumentBatches}


def language_model_loss(model: TransformerLM, batch: Batch, z_loss: float = 0.0) -> Tensor:
    """Return the mean loss per token of a batch from `WindowBatches` or `DocumentBatches`."""
    return _token_losses(model, batch, z_loss).mean()


def language_model_loss_sum(
    model: TransformerLM, batch: Batch, z_loss: float = 0.0
) -> tuple[Tensor, int]:
    """Return the sum of the tokens' losses of such a batch, and the number of tokens."""
    return _token_losses(model, batch, z_loss).sum(), batch["targets"].numel()


def losses_of(settings: PretrainSettings) -> dict[str, Callable[[Any, Batch], Any]]:
    """Return both forms of the loss to train with, by their names in `TrainingRun`."""
    return {
        "loss_of_batch": partial(language_model_loss, z_loss=settings.z_loss),
        "loss_sum_of_batch": partial(language_model_loss_sum, z_loss=settings.z_loss),
    }


def _token_losses(model: TransformerLM, batch: Batch, z_loss: float) -> Tensor:
    borders = {name: batch[name] for name in ("cu_seqlens",) if name in batch.tensors}
    return fused_token_losses(model(batch["token_ids"], **borders), batch["targets"], z_loss)


def _validation_figures(
    shards: TokenShards, settings: PretrainSettings, parallelism: Parallelism, model: TransformerLM
) -> dict[str, float]:
    """Return the validation figures for the log, by name."""
    context_length, batch_size = settings.model.context_length, settings.training.batch_size
    result = evaluate_bits_per_byte(
        model, shards, context_length, batch_size, settings.validation_tokens, parallelism
    )
    return {
        "validation_bits_per_byte": result.bits_per_byte,
        "validation_loss": result.nats_per_token,
    }


def _named(kind: str, numbers: list[int]) -> str:
    """Return the items of a batch for a message; a long list is cut."""
    what = {"windows": "windows", "documents": "rows of documents"}[kind]
    listed = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"{what} {listed} of the training shards"


def new_model(settings: PretrainSettings, config: ModelConfig) -> TransformerLM:
    """Return a model that can be trained on the batches of the settings."""
    seed_everything(derived_seed(settings.training.seed, "initial weights"))
    model = TransformerLM(config)
    if settings.batches == "documents":
        check_documents_stay_apart(model)
    return model


def _fingerprint(
    settings: PretrainSettings, config: ModelConfig, shards: str, code: dict[str, str] | None
) -> str:
    return run_fingerprint(
        stage="pretrain",
        code=code,
        model=config.model_dump(),
        training=settings.training.deciding(),
        batches=settings.batches,
        z_loss=settings.z_loss,
        shards=shards,
    )


def pretrain(
    settings: PretrainSettings,
    shards_folder: Path,
    checkpoint_folder: Path,
    metric_log: MetricLog,
    *,
    tokenizer_hash: str | None = None,
    companion_files: dict[str, bytes] | None = None,
    special_token_ids: dict[str, int] | None = None,
    code: dict[str, str] | None = None,
    parallelism: Parallelism | None = None,
) -> TrainingState:
    """Train a model on the "train" split and validate it on the "validation" split.

    Args:
        settings: the recipe's section.
        shards_folder: the folder that `lm data shard` wrote.
        checkpoint_folder: for the checkpoints; those of another run are set aside, and removed when
            this run ends.
        metric_log: log of the stage "pretrain"; its stage is also the progress bar's title.
        tokenizer_hash: hash of the tokenizer in companion_files; None skips the check.
        companion_files: tokenizer.json and other files to store next to the weights.
        special_token_ids: entries of config.json such as {"eos_token_id": 2}.
        code: package -> hash of its code; a run is not resumed under other code, except one that
            was trained without a hash, on many ranks.
        parallelism: how the work is spread; by default, it is not.

    Raises:
        ValueError: the shards were made with another tokenizer, or are too small; or the model
            mixes packed documents.
    """
    training = settings.training
    train_shards = TokenShards.open(shards_folder, "train", tokenizer_hash)
    validation_shards = TokenShards.open(shards_folder, "validation", tokenizer_hash)
    model_config = ModelConfig(vocab_size=train_shards.vocab_size, **settings.model.model_dump())
    batches = BATCHES[settings.batches](
        train_shards, model_config.context_length, training.batch_size, training.seed
    )
    parallelism = parallelism or OneProcess()
    if settings.depth is not None and parallelism.is_main:
        print(dial_line(settings.model, training, train_shards.num_tokens), flush=True)
    shards_hash = file_sha256(shards_folder)
    run = TrainingRun(
        model=new_model(settings, model_config),
        **losses_of(settings),
        batch_at=batches.batch_at,
        validate=partial(_validation_figures, validation_shards, settings, parallelism),
        settings=training,
        checkpoint_folder=checkpoint_folder,
        metric_log=metric_log,
        fingerprint=_fingerprint(settings, model_config, shards_hash, code),
        also_continues=_fingerprint(settings, model_config, shards_hash, None),
        companion_files=companion_files or {},
        special_token_ids=special_token_ids or {},
        device=pick_device(settings.device),
        description=metric_log.stage,
        parallelism=parallelism,
        name_batch=lambda step: _named(settings.batches, batches.sampler.indices_at(step)),
    )
    return train(run)
