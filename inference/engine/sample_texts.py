"""Write samples.json: the output of a run's checkpoints for a few prompts, for the report.

The pretrained model continues a few words; the aligned models answer the same questions. The file
depends on the checkpoints and the settings alone.

What this leaves out: judging the samples.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from inference.engine.engine import Engine
from inference.sampling import SamplingSettings
from lm_core.artifact_paths import write_json
from lm_core.random_state import derived_seed
from lm_core.settings import Settings


class SampleSettings(Settings):
    """The prompts and questions for a run, and the sampling settings.

    Attributes:
        prompts: texts to continue.
        questions: each the first message of a chat.
        max_new_tokens: the length of the longest sample.
        sampling: see SamplingSettings.
    """

    prompts: list[str] = pydantic.Field(default=["This module provides", "Return the"])
    questions: list[str] = pydantic.Field(default=["What does `textwrap.dedent` do?"])
    max_new_tokens: int = pydantic.Field(default=64, gt=0)
    sampling: SamplingSettings = SamplingSettings()


def write_samples(
    completing: Engine, answering: Mapping[str, Engine], settings: SampleSettings, path: Path
) -> dict[str, Any]:
    """Sample every prompt and question, write the file, and return its contents.

    {"completions": [{"prompt", "text"}], "chat": [{"question", "replies": [{"label", "text"}]}]}.
    `answering` maps a label such as "sft" to an engine; if it is empty, no question is asked. Each
    prompt has its own seed, derived from the settings' seed and the prompt's position; all engines
    answer a question with the same seed.
    """
    samples: dict[str, Any] = {"completions": [], "chat": []}
    for number, prompt in enumerate(settings.prompts):
        sampling = seeded(settings.sampling, "completion", number)
        text = completing.complete(prompt, sampling, settings.max_new_tokens)
        samples["completions"].append({"prompt": prompt, "text": text})
    for number, question in enumerate(settings.questions if answering else []):
        sampling = seeded(settings.sampling, "chat", number)
        messages = [{"role": "user", "content": question}]
        replies = [
            {"label": label, "text": engine.chat(messages, sampling, settings.max_new_tokens)}
            for label, engine in answering.items()
        ]
        samples["chat"].append({"question": question, "replies": replies})
    write_json(path, samples)
    return samples


def seeded(sampling: SamplingSettings, kind: str, number: int) -> SamplingSettings:
    """Return the settings of a sample: with a seed of its own.

    Args:
        sampling: those of all samples.
        kind: "completion" or "chat".
        number: its position among those of its kind, from 0.
    """
    return sampling.model_copy(update={"seed": derived_seed(sampling.seed, kind, number)})
