"""A learner's file replaces the reference file, through nothing but Python's own package search
path.

Each stage's `__init__.py` holds one line, `__path__ = stand_ins_first(__name__, __path__)`. The
environment variable LM_STAND_INS names a folder. `<folder>/tokenizer_bpe/merge_training.py` is then
found before the reference's file, and a module that the folder lacks comes from the reference. An
environment variable reaches `python -m`, spawned workers and torchrun ranks without extra code.

What this leaves out: reloading modules that are already imported, and replacing single functions
instead of whole modules.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from lm_core.user_error import UserError

STAND_INS_VARIABLE = "LM_STAND_INS"


def stand_ins_folder() -> Path | None:
    """Return the folder that LM_STAND_INS names, or None if it is unset or empty.

    Raises ValueError if it names a folder that does not exist: falling back to the reference would
    grade and run code that the learner did not write.
    """
    value = os.environ.get(STAND_INS_VARIABLE, "")
    if not value:
        return None
    folder = Path(value).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(
            f"{value}: no such folder for your own files; `lm start a1` creates workspace/ (--impl "
            f"or {STAND_INS_VARIABLE} names this folder; without either, the reference runs)"
        )
    return folder


def stand_ins_first(package: str, search_path: Iterable[str]) -> list[str]:
    """Return the package's search path, with the stand-in folder in front if it has files for this
    package.
    """
    folder = stand_ins_folder()
    if folder is None or not (folder / package).is_dir():
        return list(search_path)
    return [str(folder / package), *search_path]


def stand_in_files(package: str) -> list[Path]:
    """Return the files that replace reference files of this package, sorted; empty if none do."""
    folder = stand_ins_folder()
    return [] if folder is None else sorted((folder / package).rglob("*.py"))
