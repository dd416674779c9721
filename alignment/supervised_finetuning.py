"""Supervised fine-tuning: the model reads conversations and is trained on the assistant's tokens
only.

The loss is the mean, over the assistant's tokens of a batch, of -log p(token | all before it). The
user's tokens and the template are read but not learned, because the model should answer questions,
not ask them. The end of the message is learned, because otherwise replies would never stop. See
Ouyang et al. 2022 ("Training language models to follow instructions", arXiv 2203.02155, step 1).

What this leaves out: low-rank adapters, and mixing in pretraining text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from alignment.instruction_data.instruction_files import encode_rows, read_conversations
from alignment.instruction_data.padded_batches import (
    LengthGroupedOrder,
    MaskedText,
    by_length,
    encode_conversation,
    pad,
)
from alignment.token_log_probs import fused_token_log_probs, mean_over_tokens
from lm_core.artifact_paths import file_sha256
from lm_core.device import pick_device
from lm_core.formats.metric_log import MetricLog
from lm_core.settings import Settings
from lm_core.user_error import UserError
from tokenizer_bpe.tokenizer import Tokenizer
from training.batching import Batch
from training.runs.run_checkpoints import run_fingerprint
from training.runs.training_settings import TrainingSettings
from training.training_loop import TrainingRun, TrainingState, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.token_id_check import check_token_ids
from transformer_lm.weights.pretrained import load_model

VALIDATION_BATCH = 32


class SFTSettings(Settings):
    """The `[sft]` section of a recipe.

    Attributes:
        training: settings of the training loop; batch_size counts conversations.
        max_tokens: longer conversations are skipped and counted.
        max_heldout: number of held-out conversations to score each time.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
    """

    training: TrainingSettings
    max_tokens: int = pydantic.Field(default=256, gt=1)
    max_heldout: int = pydantic.Field(default=256, gt=0)
    device: str = "auto"


def sft_loss(model: TransformerLM, batch: Batch) -> Float[Tensor, ""]:
    """Return the mean of -log p over all assistant's tokens of the batch, in nats."""
    log_probs = fused_token_log_probs(model(batch["token_ids"]), batch["token_ids"])
    # Column t holds the log-probability of token t + 1, so the mask is shifted by one.
    return -mean_over_tokens(log_probs, batch["mask"][:, 1:])


def sft_loss_sum(model: TransformerLM, batch: Batch) -> tuple[Float[Tensor, ""], Tensor]:
    """Return the sum of -log p over those tokens, and their number."""
    log_probs = fused_token_log_probs(model(batch["token_ids"]), batch["token_ids"])
    mask = batch["mask"][:, 1:]
    return -torch.where(mask, log_probs, 0.0).sum(), mask.sum()


@torch.no_grad()
def answer_loss(model: TransformerLM, texts: Sequence[MaskedText]) -> float:
    """Return the mean of -log p over the assistant's tokens of all texts, in nats per token."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for numbers in by_length([len(text) for text in texts], VALIDATION_BATCH):
        ids, mask = pad([texts[n] for n in numbers])
        check_token_ids(ids, model.config.vocab_size)
        ids, mask = ids.to(device), mask.to(device)
        log_probs = fused_token_log_probs(model(ids), ids)
        total -= torch.where(mask[:, 1:], log_probs, 0.0).double().sum().item()
        count += int(mask[:, 1:].sum())
    return total / count


class ConversationBatches:
    """Padded batches of conversations: `batch_at(step)` gives "token_ids" and "mask"."""

    def __init__(self, texts: Sequence[MaskedText], batch_size: int, seed: int) -> None:
        self.texts = texts
        self.order = LengthGroupedOrder([len(text) for text in texts], batch_size, seed)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, counted from 0; its num_tokens leaves the padding out."""
        chosen = [self.texts[number] for number in self.order.indices_at(step)]
        ids, mask = pad(chosen)
        return Batch({"token_ids": ids, "mask": mask}, sum(len(text) for text in chosen))


def run_sft(
    settings: SFTSettings,
    instructions_folder: Path,
    pretrained: Path,
    tokenizer: Tokenizer,
    checkpoint_folder: Path,
    metric_log: MetricLog,
    *,
    companion_files: dict[str, bytes] | None = None,
    special_token_ids: dict[str, Any] | None = None,
    code: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Fine-tune the checkpoint `pretrained` on sft_train.jsonl, and return figures for the report.

    Resumes exactly from `checkpoint_folder`. `companion_files` and `special_token_ids` go into each
    checkpoint (see TrainingRun); a run under another `code` is not resumed (see pretrain). Raises
    ValueError if the checkpoint or the conversations cannot be used, for example if all
    conversations are longer than max_tokens.
    """
    training = settings.training
    model = load_model(pretrained)
    check_max_tokens(settings.max_tokens, model.config.context_length)
    files = [instructions_folder / f"sft_{part}.jsonl" for part in ("train", "heldout")]
    (train_texts, num_too_long), (heldout, _) = (
        _encode_all(tokenizer, file, settings.max_tokens) for file in files
    )
    heldout = heldout[: settings.max_heldout]
    run = TrainingRun(
        model=model,
        loss_of_batch=sft_loss,
        loss_sum_of_batch=sft_loss_sum,
        batch_at=ConversationBatches(train_texts, training.batch_size, training.seed).batch_at,
        validate=lambda model: {"heldout_loss": answer_loss(model, heldout)},
        settings=training,
        checkpoint_folder=checkpoint_folder,
        metric_log=metric_log,
        fingerprint=run_fingerprint(
            stage="sft",
            code=code,
            settings=settings.model_dump(exclude={"training"}) | {"training": training.deciding()},
            pretrained=file_sha256(pretrained / "model.safetensors"),
            instructions=[file_sha256(file) for file in files],
        ),
        companion_files=companion_files or {},
        special_token_ids=special_token_ids or {},
        device=pick_device(settings.device),
        description="sft",
    )
    counts = {"conversations": len(train_texts), "conversations_too_long": num_too_long}
    return counts | training_figures(train(run))


def training_figures(done: TrainingState) -> dict[str, Any]:
    """Return a report's figures for a finished run, each held-out one as NAME_before and
    NAME_after.
    """
    before, after = done.validation_before, done.validation_after
    return {
        "steps": done.step,
        "tokens": done.tokens,
        "seconds": done.seconds,
        "tokens_per_second": done.tokens / done.update_seconds,
        "precision": done.precision,
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
    }


def check_max_tokens(max_tokens: int, context_length: int) -> None:
    """Raise ValueError if texts of `max_tokens` tokens would not fit the model."""
    if max_tokens > context_length:
        raise UserError(
            f"max_tokens = {max_tokens} is more than the model's context length of "
            f"{context_length}; lower max_tokens"
        )


def _encode_all(tokenizer: Tokenizer, file: Path, max_tokens: int) -> tuple[list[MaskedText], int]:
    """Return the conversations of a file that fit, and the number that do not; ValueError if none
    fits.
    """
    rows = read_conversations(file)
    whole, _ = encode_rows(file, rows, lambda row: encode_conversation(tokenizer, row, max_tokens))
    texts = [text for text in whole if any(text.mask[1:])]
    if not texts:
        raise UserError(
            f"{file}: none of its {len(rows)} conversations has an answer and fits into "
            f"max_tokens = {max_tokens}; raise it, up to the model's context length"
        )
    return texts, len(rows) - len(texts)
