"""The step `sft`: the pretrained model learns to answer."""

from typing import Any

from alignment.supervised_finetuning import SFTSettings, run_sft
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_course.model_steps.checkpoint_companions import check_tokenizer, companions_of_answers
from lm_course.pipeline.step import Step, StepContext
from tokenizer_bpe.tokenizer import Tokenizer


def run_finetuning(context: StepContext) -> dict[str, Any]:
    """Go on from the last pretrained checkpoint."""
    start = latest_checkpoint(context.input("checkpoints/pretrain"), "lm pretrain RECIPE")
    tokenizer = Tokenizer.from_hugging_face(context.input("tokenizer"))
    return run_sft(
        context.settings,
        context.input("instructions"),
        check_tokenizer(start, context.input("tokenizer")),
        tokenizer,
        context.output("checkpoints/sft"),
        context.metrics(),
        code=context.code,
        **companions_of_answers(tokenizer),
    )


STEP = Step(
    name="sft",
    command="lm sft",
    help="Supervised fine-tuning on questions and answers.",
    run=run_finetuning,
    describe=lambda s: (
        f"held-out answers {s['heldout_loss_before']:.2f} → {s['heldout_loss_after']:.2f} nats"
    ),
    settings={"sft": SFTSettings},
    reads=("instructions", "tokenizer", "checkpoints/pretrain"),
    writes=("checkpoints/sft",),
)
