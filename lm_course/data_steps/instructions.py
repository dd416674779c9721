"""The step `instructions`: questions, answers and preference pairs from docstrings."""

from typing import Any

from data_pipeline.instructions.instruction_mining import InstructionSettings, mine_instructions
from lm_course.pipeline.step import Step, StepContext


def instructions(context: StepContext) -> dict[str, Any]:
    """Mine questions, answers and preference pairs."""
    return mine_instructions(context.output("instructions"), context.settings)


STEP = Step(
    name="instructions",
    command="lm data instructions",
    help="Mine questions and answers from docstrings.",
    run=instructions,
    describe=lambda s: f"{s['sft_train']:,} answers, {s['preference_train']:,} preference pairs",
    settings={"instructions": InstructionSettings},
    writes=("instructions",),
)
