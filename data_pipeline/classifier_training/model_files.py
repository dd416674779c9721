"""fastText models in files: written whole or not at all, read, and checked for their labels.

What this leaves out: models that were trained on text prepared in another way than by
`quality_classifier.prepare_text`; they load, but their probabilities are less reliable.
"""

import errno
import functools
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fasttext

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

LABEL_PREFIX = "__label__"


def save_model(model: Any, path: Path) -> None:
    """Write a model to `path`, whole or not at all.

    Raises:
        OSError: from the file system; `path` is then unchanged.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model.bin")  # fastText writes to a name, not to an open file
        model.save_model(str(saved))
        if saved.stat().st_size < model.get_input_matrix().nbytes:  # it does not say so
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(saved))
        with saved.open("rb") as source, atomic_file(path) as file:
            shutil.copyfileobj(source, file)


def load_classifier(path: Path, labels: Collection[str]) -> Any:
    """Return the model in a file.

    Raises:
        UserError: there is no such file, it is not a fastText classifier, or it lacks one of
            `labels`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; make a classifier with `lm data classifier`")
    try:
        model = fasttext.load_model(str(path))
    except ValueError as error:
        raise UserError(f"{path}: not a fastText model ({error})") from None
    found = {label.removeprefix(LABEL_PREFIX) for label in model.get_labels()}
    if not set(labels) <= found:
        shown = sorted(found)[:5]
        raise UserError(
            f"{path}: expected a classifier with the labels {', '.join(sorted(labels))}, "
            f"found {', '.join(shown)}{', ...' if len(found) > len(shown) else ''}"
        )
    return model


@functools.lru_cache(maxsize=4)
def _model_in(path: str, labels: tuple[str, ...], changed: tuple[int, int]) -> Any:
    return load_classifier(Path(path), labels)


def named_model(variable: str, labels: tuple[str, ...]) -> Any | None:
    """Return the model in the file that an environment variable names, or None if it is not set.

    A model stays in memory until its file changes.

    Raises:
        UserError: no such file, or see `load_classifier`.
    """
    named = os.environ.get(variable, "")
    if not named:
        return None
    if not Path(named).is_file():
        raise UserError(f"{variable}={named}: no such file; name a classifier, or unset it")
    status = Path(named).stat()
    return _model_in(named, labels, (status.st_mtime_ns, status.st_size))
