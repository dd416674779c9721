"""A sweep: train a grid of small models on a grid of token counts, and record the loss of each.

Every run has a learning-rate schedule of its own length. A loss from the middle of a longer run
would be too high, because its learning rate has not decayed yet. Hoffmann et al. 2022 (arXiv
2203.15556, appendix B) name this as the reason why earlier laws recommended models that are too
large.

N counts the output head but not a separate token embedding: the head is multiplied, the embedding
is only looked up, and C = 6 N D must hold. With small models the head is most of N, and leaving it
out would bend the law (Pearce and Song 2024, arXiv 2406.12907). D counts the tokens trained on,
each seen once.

Each finished run has its own file, so a sweep that was stopped continues with the next run. The
learning rate falls as 1 / width: Adam moves every weight by about the rate, and a sum over twice as
many weights moves twice as far (Yang et al. 2022, arXiv 2203.03466, table 3). With one rate for
all, the largest model would be the worst trained.

What this leaves out: tuning the rate for each size, which a serious sweep needs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from lm_core.formats.token_shards import TokenShards
from lm_core.settings import Settings
from lm_core.user_error import UserError
from scaling_laws.compute_budget import multiplied_parameters
from scaling_laws.parametric_fit import BOOTSTRAPS
from scaling_laws.small_runs.runs_csv import FinishedRun, write_runs_csv
from training.runs.finished_runs import RunSeries
from training.runs.pretraining import PretrainSettings
from training.runs.training_settings import TrainingSettings
from transformer_lm.model_config import ModelConfig, ModelShape

FEWEST_VALIDATION_TOKENS = 2000  # a mean over fewer is too noisy to compare sizes


class SweepSize(Settings):
    """One model of the grid; see ModelConfig.

    Attributes:
        d_model, num_layers, num_heads, num_kv_heads, d_ff: as in ModelConfig.
    """

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_ff: int


DEFAULT_SIZES = [
    SweepSize(d_model=32, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=96),
    SweepSize(d_model=64, num_layers=3, num_heads=4, num_kv_heads=2, d_ff=176),
    SweepSize(d_model=128, num_layers=4, num_heads=4, num_kv_heads=2, d_ff=352),
]


class SweepSettings(Settings):
    """The `[scaling]` section of a recipe.

    Attributes:
        sizes: the models of the grid, without vocabulary and context length.
        token_budgets: training tokens; every size is trained on each, rounded down to whole steps;
            budgets with the same number of steps are one run.
        context_length: for all models; use that of the main run to predict its loss.
        tie_embeddings: for all models; also as in the main run.
        batch_size: windows of context_length tokens per step.
        learning_rate: the peak for the width `learning_rate_width`; for other widths it is
            multiplied by learning_rate_width / d_model. The rate rises over a tenth of the steps
            and falls to a tenth of the peak along a cosine that ends with the run.
        validation_tokens: how much of the validation split is read; None for all of it. Use that of
            the main run, so that both losses are of the same text.
        learning_rate_width: the d_model that `learning_rate` is for.
        precision: "auto" measures each model on this device and uses the faster one.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        seed: for the initial weights and the order of the data.
        bootstraps: refits to resampled runs, from which the intervals of the surface come.
    """

    sizes: list[SweepSize] = pydantic.Field(default=DEFAULT_SIZES, min_length=1)
    token_budgets: list[int] = pydantic.Field(default=[40_000, 100_000, 250_000], min_length=1)
    context_length: int = pydantic.Field(default=256, gt=0)
    tie_embeddings: bool = False
    batch_size: int = pydantic.Field(default=4, gt=0)
    learning_rate: float = pydantic.Field(default=6e-3, gt=0)
    learning_rate_width: int = pydantic.Field(default=64, gt=0)
    validation_tokens: int | None = pydantic.Field(default=None, gt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = 0
    bootstraps: int = pydantic.Field(default=BOOTSTRAPS, ge=2)


@dataclass(frozen=True)
class SweepResult:
    """The runs that reached a loss, with remarks in words."""

    runs: list[FinishedRun]
    remarks: list[str]


def run_sweep(
    shards_folder: Path,
    out_folder: Path,
    settings: SweepSettings,
    tokenizer_hash: str | None = None,
    code: dict[str, str] | None = None,
) -> SweepResult:
    """Train the unfinished part of the grid, write out_folder/runs.csv, and return its runs.

    Budgets larger than the training split are left out (the law is for tokens seen once), as are
    runs that diverge; a remark says so.

    Args:
        shards_folder: the folder that `lm data shard` wrote, with a train and a validation split.
        out_folder: where runs.csv, metrics.jsonl, and finished/NAME.json for each run are written.
        tokenizer_hash: checked against that of the shards; None skips the check.
        code: package -> hash of its code; runs finished by other code are trained again.

    Raises UserError if a budget is smaller than two steps, if all are larger than the training
    split, or if every run diverges.
    """
    shards = TokenShards.open(shards_folder, "train", tokenizer_hash)
    validation = TokenShards.open(shards_folder, "validation", tokenizer_hash)
    budgets, remarks = _usable_budgets(settings, shards.num_tokens)
    measured = min(validation.num_tokens, settings.validation_tokens or validation.num_tokens)
    if measured < FEWEST_VALIDATION_TOKENS:
        remarks.append(f"the losses are those of {measured:,} validation tokens only")
    tokens_per_step = settings.batch_size * settings.context_length
    step_counts = sorted({tokens // tokens_per_step for tokens in budgets})
    plan = [
        planned_run(settings, size, steps * tokens_per_step)
        for size in settings.sizes
        for steps in step_counts
    ]
    series = RunSeries(shards, out_folder, "lm scaling sweep RECIPE", code)
    runs = []
    for number, planned in enumerate(plan, start=1):
        description = f"sweep run {number} of {len(plan)}"
        done = series.train_unless_finished(
            planned, run_name(planned), description, keeps_diverged=True
        )
        if "diverged_at" in done:
            remarks.append(_divergence(planned, done))
        else:
            config = ModelConfig(vocab_size=shards.vocab_size, **planned.model.model_dump())
            runs.append(FinishedRun(multiplied_parameters(config), done["tokens"], done["loss"]))
    if not runs:
        raise UserError(
            f"all {len(plan)} runs of the sweep diverged; lower [scaling] learning_rate = "
            f"{settings.learning_rate:g}"
        )
    write_runs_csv(out_folder / "runs.csv", runs)
    return SweepResult(runs, remarks)


def _divergence(planned: PretrainSettings, done: dict[str, Any]) -> str:
    steps, rate = planned.training.steps, planned.training.learning_rate
    return (
        f"the run of {done['parameters']:,} parameters diverged at step {done['diverged_at']} of "
        f"{steps} (learning rate {rate:.2g}) and is left out"
    )


def planned_run(settings: SweepSettings, size: SweepSize, tokens: int) -> PretrainSettings:
    """Return the pretraining settings of one point of the grid."""
    model = ModelShape(
        context_length=settings.context_length,
        tie_embeddings=settings.tie_embeddings,
        **size.model_dump(),
    )
    steps = tokens // (settings.batch_size * settings.context_length)
    scale = settings.learning_rate_width / size.d_model
    training = TrainingSettings(
        steps=steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate * scale,
        min_learning_rate=settings.learning_rate * scale / 10,
        warmup_steps=steps // 10,
        checkpoint_every=steps,
        validate_every=steps,
        keep_checkpoints=1,
        precision=settings.precision,
        seed=settings.seed,
    )
    return PretrainSettings(
        model=model,
        training=training,
        validation_tokens=settings.validation_tokens,
        device=settings.device,
    )


def run_name(planned: PretrainSettings) -> str:
    """Return a name with the shape, as two shapes can have equally many parameters (four heads or
    two).
    """
    model, training = planned.model, planned.training
    tokens = training.steps * training.batch_size * model.context_length
    shape = f"{model.d_model}x{model.num_layers}_{model.num_heads}_{model.num_kv_heads}"
    return f"{shape}_{model.d_ff}_{tokens}_tokens"


def _usable_budgets(settings: SweepSettings, num_train_tokens: int) -> tuple[list[int], list[str]]:
    """Return the token budgets that the training split can fill, and a remark on the others."""
    tokens_per_step = settings.batch_size * settings.context_length
    for budget in settings.token_budgets:
        if budget < 2 * tokens_per_step:
            raise UserError(
                f"a token budget of {budget:,} is less than two steps of {tokens_per_step:,} "
                "tokens; raise it or lower batch_size"
            )
    usable = [budget for budget in settings.token_budgets if budget <= num_train_tokens]
    left_out = [f"{budget:,}" for budget in settings.token_budgets if budget > num_train_tokens]
    reason = (
        f"more than the {num_train_tokens:,} training tokens, and the law is for tokens seen once"
    )
    if not usable:
        raise UserError(
            f"every token budget of the sweep ({', '.join(left_out)}) is {reason}; lower [scaling] "
            "token_budgets or add text"
        )
    remark = f"no run was trained on {' or '.join(left_out)} tokens: {reason}"
    return usable, [remark] if left_out else []
