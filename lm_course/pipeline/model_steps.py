"""The steps from pretraining to the report: each calls its stage with the paths of the run and
returns figures.
"""

from pathlib import Path
from typing import Any

from alignment.preference_optimization import run_dpo
from alignment.supervised_finetuning import run_sft, training_figures
from evaluation.checkpoint_report import evaluate_checkpoints
from inference.engine.engine import Engine
from inference.engine.sample_texts import write_samples
from lm_core.artifact_paths import write_json
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import MetricLog
from lm_core.special_tokens import END_OF_TEXT, MESSAGE_END
from lm_core.user_error import UserError
from lm_course.pipeline.recipe_runner import StepContext, read_record
from lm_course.pipeline.step_failures import read_failure
from lm_course.report.report_page import write_report
from scaling_laws.compute_budget import multiplied_parameters
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, tokenizer_hash
from training.runs.pretraining import pretrain
from transformer_lm.model_cost import count_parameters
from transformer_lm.weights.pretrained import load_model

TOKENIZER_NAME = "tokenizer.json"
ANSWERING = {"sft": "after fine-tuning", "dpo": "after preference optimisation"}


def _companions(tokenizer: Tokenizer, stage: str) -> dict[str, Any]:
    """What goes beside the weights: the tokenizer's files, and the ids that end a text."""
    ids = tokenizer.special_tokens
    end = END_OF_TEXT if stage == "pretrain" else MESSAGE_END
    return {
        "companion_files": hugging_face_files(tokenizer),
        "special_token_ids": {"eos_token_id": ids[end], "pad_token_id": ids[END_OF_TEXT]},
    }


def run_pretrain(context: StepContext) -> dict[str, Any]:
    """Shards to a language model."""
    paths = context.paths
    tokenizer = Tokenizer.from_hugging_face(paths.tokenizer)
    summary = pretrain(
        context.recipe.pretrain,
        paths.shards,
        paths.checkpoints("pretrain"),
        MetricLog(paths.metrics, "pretrain", context.mirror),
        tokenizer_hash=tokenizer_hash(paths.tokenizer),
        code=context.code,
        **_companions(tokenizer, "pretrain"),
    )
    config = load_model(latest_checkpoint(paths.checkpoints("pretrain"))).config
    return {
        "parameters": count_parameters(config),
        "multiplied_parameters": multiplied_parameters(config),
        **training_figures(summary),
    }


def run_finetuning(context: StepContext) -> dict[str, Any]:
    """The pretrained model learns to answer."""
    return _align(context, run_sft, "sft", "pretrain")


def run_preference(context: StepContext) -> dict[str, Any]:
    """The fine-tuned model learns which of two answers is right."""
    return _align(context, run_dpo, "dpo", "sft")


def check_tokenizer(checkpoint: Path, tokenizer: Path) -> Path:
    """The checkpoint, if it was trained with this tokenizer; ValueError that names both if not."""
    theirs, ours = (tokenizer_hash(path) for path in (checkpoint / TOKENIZER_NAME, tokenizer))
    if theirs != ours:
        raise UserError(
            f"{checkpoint}: trained with tokenizer {theirs[:12]}, but {tokenizer} is {ours[:12]}; "
            "run the steps from `lm data shard RECIPE` on again"
        )
    return checkpoint


def _align(context: StepContext, run: Any, stage: str, before: str) -> dict[str, Any]:
    paths = context.paths
    start = latest_checkpoint(paths.checkpoints(before), f"lm {before} RECIPE")
    tokenizer = Tokenizer.from_hugging_face(paths.tokenizer)
    return run(
        getattr(context.recipe, stage),
        paths.instructions,
        check_tokenizer(start, paths.tokenizer),
        tokenizer,
        paths.checkpoints(stage),
        MetricLog(paths.metrics, stage, context.mirror),
        code=context.code,
        **_companions(tokenizer, stage),
    )


def evaluate(context: StepContext) -> dict[str, Any]:
    """Bits per byte of every checkpoint."""
    paths = context.paths
    stages = [stage for stage in ("pretrain", "sft", "dpo") if stage in context.ready]
    folders = {stage: paths.checkpoints(stage) for stage in stages}
    for folder in folders.values():
        check_tokenizer(latest_checkpoint(folder), paths.tokenizer)
    rows = evaluate_checkpoints(
        folders,
        paths.shards,
        tokenizer_hash=tokenizer_hash(paths.tokenizer),
        **context.recipe.evaluation.model_dump(),
    )
    write_json(paths.evaluation, rows)
    return {"checkpoints": len(rows), "best": min(row["bits_per_byte"] for row in rows)}


def sample(context: StepContext) -> dict[str, Any]:
    """What the checkpoints say."""
    paths = context.paths
    engines = {
        stage: Engine.from_checkpoint(latest_checkpoint(paths.checkpoints(stage)))
        for stage in ("pretrain", *ANSWERING)
        if stage in context.ready
    }
    completing = engines.pop("pretrain")
    answering = {ANSWERING[stage]: engine for stage, engine in engines.items()}
    samples = write_samples(completing, answering, context.recipe.samples, paths.samples)
    return {"completions": len(samples["completions"]), "questions": len(samples["chat"])}


def report(context: StepContext) -> dict[str, Any]:
    """The page with all of it."""
    paths = context.paths
    records = {name: read_record(paths, name) for name in context.inputs if name in context.ready}
    failures = [read_failure(paths, name) for name in context.inputs]
    found = [failure for failure in failures if failure is not None]
    if not records and not found:
        raise UserError(
            f"{paths.root}: no step of this run has been run, so there is nothing to report; "
            "run `lm run RECIPE`"
        )
    summary = write_report(paths, records, found)
    return {"path": str(paths.report), **summary}
