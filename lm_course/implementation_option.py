"""The option `--impl`: a command uses the files in a folder of yours instead of the project's.

What this leaves out: how they take the place of the reference (lm_core/stand_ins.py).
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from lm_core.stand_ins import STAND_INS_VARIABLE, stand_ins_folder
from lm_course.locations import WORKSPACE, in_home

Implementation = Annotated[
    str | None,
    typer.Option(
        "--impl",
        metavar="FOLDER",
        help="Use your files in FOLDER (such as workspace) instead of the project's.",
    ),
]


def set_stand_ins(folder: str | None) -> None:
    """Set LM_STAND_INS for this process and its children. Call it before any stage is imported."""
    if folder is None:
        return
    if folder == "reference":
        os.environ.pop(STAND_INS_VARIABLE, None)
        return
    chosen = in_home(WORKSPACE) if folder == WORKSPACE else Path(folder)
    os.environ[STAND_INS_VARIABLE] = str(chosen.absolute())
    stand_ins_folder()
