"""The checkpoint to load; if none is named, the most aligned one of runs/demo."""

from pathlib import Path
from typing import Annotated

import typer

from lm_core.artifact_paths import RunPaths
from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.user_error import UserError
from lm_course.commands.named_models import named_model
from lm_course.locations import in_home

STAGES = ("dpo", "sft", "pretrain")
DEFAULT_RUN = "runs/demo"
CheckpointPath = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="A checkpoint folder; by default the last in runs/demo."),
]
ModelPath = Annotated[
    Path | None,
    typer.Option(
        "--model", help="A model of another program: a folder, a GGUF file, or the name smollm2."
    ),
]


def chosen_checkpoint(given: Path | None) -> Path:
    """Return the checkpoint folder to load.

    Args:
        given: a checkpoint folder (step_000600), or a stage's or a run's folder, whose last
            checkpoint is taken; None for the last checkpoint of runs/demo.

    Raises:
        ValueError: there is no checkpoint.
    """
    folder = given or in_home(DEFAULT_RUN)
    if (folder / "config.json").is_file():
        return folder
    for candidate in [*(RunPaths(folder).checkpoints(stage) for stage in STAGES), folder]:
        found = list_checkpoints(candidate)
        if found:
            return found[-1]
    if folder.suffix.lower() == ".gguf" or named_model(folder) is not None:
        raise UserError(
            f"{folder}: another program's model, not a checkpoint; name it with --model, or make a "
            f"checkpoint of it: lm import {folder} FOLDER"
        )
    option = " with --checkpoint" if given is None else ""
    raise UserError(
        f"{folder}: no checkpoint there; make one with `lm run`, change to the folder that holds "
        f"your runs/, or name another{option}"
    )
