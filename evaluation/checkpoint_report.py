"""Bits per byte of every checkpoint on the validation documents, to show the effect of each stage.

What this leaves out: question-answering benchmarks, and evaluation by another model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch

from lm_core.artifact_paths import file_sha256
from lm_core.device import pick_device
from lm_core.formats.checkpoint_files import WEIGHTS, checkpoint_step, list_checkpoints
from lm_core.formats.token_shards import TokenShards
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.user_error import UserError
from training.runs.validation import ValidationResult, evaluate_bits_per_byte
from transformer_lm.weights.pretrained import load_model


class EvaluationSettings(Settings):
    """The `[evaluation]` section of a recipe.

    Attributes:
        max_tokens: how much of the validation split to read; None for all of it.
        batch_size: windows per batch; changes the speed only.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
    """

    max_tokens: int | None = pydantic.Field(default=None, gt=1)
    batch_size: int = pydantic.Field(default=16, gt=0)
    device: str = "auto"


def evaluate_checkpoints(
    folders: Mapping[str, Path],
    shards_folder: Path,
    *,
    tokenizer_hash: str | None = None,
    max_tokens: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Evaluate all checkpoints of the given stages, in float32.

    Args:
        folders: stage -> the folder of its checkpoints, such as {"pretrain": runs/demo/...}.
        shards_folder: its "validation" split is read.
        tokenizer_hash: hash of the checkpoints' tokenizer; None skips the check.
        max_tokens: number of tokens to read; None for the whole split.
        batch_size: windows per batch; changes the speed only.
        device: see `lm_core.device.pick_device`.

    Returns:
        One row for each checkpoint, in the order of `folders` and then by step: {"stage", "step",
        "bits_per_byte", "perplexity" (None if it exceeds the largest float)}.

    Raises:
        ValueError: a folder has no checkpoint, or a checkpoint's vocabulary differs from the
            shards'.
    """
    shards = TokenShards.open(shards_folder, "validation", tokenizer_hash)
    found = [
        (stage, path)
        for stage, folder in folders.items()
        for path in _checkpoints_of(stage, folder)
    ]
    rows = []
    done: dict[str, ValidationResult] = {}  # by weights: step 0 of a stage ends the one before
    with progress_bar("eval", len(found), "checkpoints") as bar:
        for stage, path in found:
            weights = file_sha256(path / WEIGHTS)
            if weights not in done:
                done[weights] = evaluate_checkpoint(
                    path, shards, max_tokens, batch_size, pick_device(device)
                )
            result = done[weights]
            rows.append(
                {
                    "stage": stage,
                    "step": checkpoint_step(path),
                    "bits_per_byte": result.bits_per_byte,
                    "perplexity": result.perplexity if result.nats_per_token < 700 else None,
                }
            )
            bar.advance(1, f"{stage} {path.name}: {result.bits_per_byte:.3f} bits per byte")
    return rows


def evaluate_checkpoint(
    path: Path, shards: TokenShards, max_tokens: int | None, batch_size: int, device: torch.device
) -> ValidationResult:
    """Load one checkpoint and evaluate it on the validation split."""
    model = load_model(path, device)
    config = model.config
    if config.vocab_size != shards.vocab_size:
        raise UserError(
            f"{path} has a vocabulary of {config.vocab_size}, {shards.folder} one of "
            f"{shards.vocab_size}; evaluate on shards made with the checkpoint's tokenizer"
        )
    return evaluate_bits_per_byte(model, shards, config.context_length, batch_size, max_tokens)


def _checkpoints_of(stage: str, folder: Path) -> list[Path]:
    found = list_checkpoints(folder)
    if not found:
        raise UserError(f"{folder} has no checkpoint; make one with `lm {stage} RECIPE`")
    return found
