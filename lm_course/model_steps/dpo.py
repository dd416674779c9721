"""The step `dpo`: the fine-tuned model learns which of two answers is right."""

from typing import Any

from alignment.preference_optimization import DPOSettings, run_dpo
from lm_course.model_steps.aligning import align
from lm_course.pipeline.step import Step, StepContext


def run_preference(context: StepContext) -> dict[str, Any]:
    """Continue training from the last fine-tuned checkpoint."""
    return align(context, "sft", run_dpo)


STEP = Step(
    name="dpo",
    command="lm dpo",
    help="Train by direct preference optimization against the SFT model.",
    run=run_preference,
    describe=lambda s: (
        f"held-out pairs ranked correctly {s['heldout_ranking_before']:.1%} → "
        f"{s['heldout_ranking_after']:.1%}"
    ),
    settings={"dpo": DPOSettings},
    reads=("instructions", "tokenizer", "checkpoints/sft"),
    writes=("checkpoints/dpo",),
)
