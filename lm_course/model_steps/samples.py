"""The step `samples`: the checkpoints' replies to a few prompts."""

from typing import Any

from inference.engine.engine import Engine
from inference.engine.sample_texts import SampleSettings, write_samples
from lm_core.formats.checkpoint_files import latest_checkpoint
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
    samples = write_samples(
        engine("pretrain"), answering, context.settings, context.output("samples")
    )
    return {"completions": len(samples["completions"]), "questions": len(samples["chat"])}


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
