"""The common part of `sft` and `dpo`: both start from another stage's last checkpoint, with its
tokenizer.
"""

from collections.abc import Callable
from typing import Any

from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.special_tokens import MESSAGE_END
from lm_course.model_steps.checkpoint_companions import check_tokenizer, companions
from lm_course.pipeline.step import StepContext
from tokenizer_bpe.characters.either_kind import read_tokenizer


def align(context: StepContext, before: str, run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Run `run_sft` or `run_dpo` on the last checkpoint of the stage `before`."""
    start = latest_checkpoint(context.input(f"checkpoints/{before}"), f"lm {before} RECIPE")
    tokenizer = read_tokenizer(context.input("tokenizer"))
    return run(
        context.settings,
        context.input("instructions"),
        check_tokenizer(start, context.input("tokenizer")),
        tokenizer,
        context.output(f"checkpoints/{context.step}"),
        context.metrics(),
        code=context.code,
        **companions(tokenizer, MESSAGE_END),
    )
