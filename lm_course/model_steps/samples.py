"""The step `samples`: the checkpoints' replies to a few prompts."""

from collections.abc import Sequence
from typing import Any

from inference.engine.engine import Engine
from inference.engine.sample_texts import SampleSettings, write_samples
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext

ANSWERING = {"sft": "after fine-tuning", "dpo": "after preference optimization"}


def sample(context: StepContext) -> dict[str, Any]:
    """Write continuations by the pretrained model, and answers by the aligned ones."""

    def engine(stage: str) -> Engine:
        return Engine.from_checkpoint(latest_checkpoint(context.input(f"checkpoints/{stage}")))

    answering = {
        label: engine(stage)
        for stage, label in ANSWERING.items()
        if f"checkpoints/{stage}" in context.inputs
    }
    pretrained = engine("pretrain")
    check_prompts(pretrained, context.settings.prompts)
    samples = write_samples(pretrained, answering, context.settings, context.output("samples"))
    return {"completions": len(samples["completions"]), "questions": len(samples["chat"])}


def check_prompts(engine: Engine, prompts: Sequence[str]) -> None:
    """Raise UserError if a prompt holds a character that the tokenizer does not know."""
    for prompt in prompts:
        try:
            engine.tokenizer.encode(prompt)
        except UserError as error:
            raise UserError(
                f"samples.prompts has {prompt!r}, which this tokenizer cannot encode ({error}); "
                "give prompts that begin as the text does, such as --set "
                "'samples.prompts=[\"the \"]'; nothing is trained again"
            ) from None


STEP = Step(
    name="samples",
    command="lm samples",
    help="Write the checkpoints' replies to a few prompts.",
    run=sample,
    describe=lambda s: f"{s['completions']} continuations, {s['questions']} questions answered",
    settings={"samples": SampleSettings},
    reads=("checkpoints/pretrain",),
    may_read=("checkpoints/sft", "checkpoints/dpo"),
    writes=("samples",),
)
