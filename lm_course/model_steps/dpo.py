"""The step `dpo`: the fine-tuned model learns which of two answers is right."""

from typing import Any

from alignment.preference_optimization import DPOSettings, run_dpo
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_course.model_steps.checkpoint_companions import check_tokenizer, companions_of_answers
from lm_course.pipeline.step import Step, StepContext
from tokenizer_bpe.tokenizer import Tokenizer


def run_preference(context: StepContext) -> dict[str, Any]:
    """Go on from the last fine-tuned checkpoint."""
    start = latest_checkpoint(context.input("checkpoints/sft"), "lm sft RECIPE")
    tokenizer = Tokenizer.from_hugging_face(context.input("tokenizer"))
    return run_dpo(
        context.settings,
        context.input("instructions"),
        check_tokenizer(start, context.input("tokenizer")),
        tokenizer,
        context.output("checkpoints/dpo"),
        context.metrics(),
        code=context.code,
        **companions_of_answers(tokenizer),
    )


STEP = Step(
    name="dpo",
    command="lm dpo",
    help="Direct preference optimisation against the SFT model.",
    run=run_preference,
    describe=lambda s: (
        f"held-out pairs ranked rightly {s['heldout_ranking_before']:.1%} → "
        f"{s['heldout_ranking_after']:.1%}"
    ),
    settings={"dpo": DPOSettings},
    reads=("instructions", "tokenizer", "checkpoints/sft"),
    writes=("checkpoints/dpo",),
)
