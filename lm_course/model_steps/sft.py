"""The step `sft`: the pretrained model learns to answer."""

from typing import Any

from alignment.supervised_finetuning import SFTSettings, run_sft
from lm_course.model_steps.aligning import align
from lm_course.pipeline.step import Step, StepContext


def run_finetuning(context: StepContext) -> dict[str, Any]:
    """Continue training from the last pretrained checkpoint."""
    return align(context, "pretrain", run_sft)


STEP = Step(
    name="sft",
    command="lm sft",
    help="Fine-tune the model on questions and answers.",
    run=run_finetuning,
    describe=lambda s: (
        f"held-out answers {s['heldout_loss_before']:.2f} → {s['heldout_loss_after']:.2f} nats"
    ),
    settings={"sft": SFTSettings},
    reads=("instructions", "tokenizer", "checkpoints/pretrain"),
    writes=("checkpoints/sft",),
)
