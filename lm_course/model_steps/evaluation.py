"""The step `evaluation`: bits per byte of every checkpoint."""

from typing import Any

from evaluation.checkpoint_report import EvaluationSettings, evaluate_checkpoints
from lm_core.artifact_paths import write_json
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_course.model_steps.checkpoint_companions import check_tokenizer
from lm_course.pipeline.step import Step, StepContext
from tokenizer_bpe.characters.either_kind import tokenizer_hash

STAGES = ("pretrain", "sft", "dpo")


def evaluate(context: StepContext) -> dict[str, Any]:
    """Evaluate the checkpoints of the stages that have a result."""
    found = [stage for stage in STAGES if f"checkpoints/{stage}" in context.inputs]
    folders = {stage: context.input(f"checkpoints/{stage}") for stage in found}
    tokenizer = context.input("tokenizer")
    for folder in folders.values():
        check_tokenizer(latest_checkpoint(folder), tokenizer)
    rows = evaluate_checkpoints(
        folders,
        context.input("shards"),
        tokenizer_hash=tokenizer_hash(tokenizer),
        **context.settings.model_dump(),
    )
    write_json(context.output("evaluation"), rows)
    return {"checkpoints": len(rows), "best": min(row["bits_per_byte"] for row in rows)}


STEP = Step(
    name="evaluation",
    command="lm eval",
    help="Measure bits per byte of every checkpoint.",
    run=evaluate,
    describe=lambda s: f"{s['checkpoints']} checkpoints, best {s['best']:.3f} bits per byte",
    settings={"evaluation": EvaluationSettings},
    reads=("tokenizer", "shards", "checkpoints/pretrain"),
    may_read=("checkpoints/sft", "checkpoints/dpo"),
    writes=("evaluation",),
)
