"""fastText models in files: written whole or not at all, read, and checked for their labels.

What this leaves out: models that were trained on text prepared in another way than by
`quality_classifier.prepare_text`; they load, but their probabilities are less reliable.
"""

import errno
import functools
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fasttext

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

LABEL_PREFIX = "__label__"
MAGIC = 793712314
HEADER = struct.Struct("<i60xi16xq")  # the magic number, settings, number of words, pruned n-grams
MATRIX = struct.Struct("<?qq")


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


def is_whole_model(path: Path) -> bool:
    """Return whether a file has the header, all words and, unless it is compressed, all vectors of
    a fastText model. fastText itself would never return from a file that ends inside a word.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < HEADER.size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            magic, num_words, pruned = HEADER.unpack_from(data)
            if magic != MAGIC:
                return False
            place = HEADER.size
            for _ in range(num_words):  # each: the word, a zero, its number (8 bytes), its kind (1)
                place = data.find(b"\0", place) + 1 + 9
                if place < 10 or place > size:
                    return False
            place += 8 * max(pruned, 0)  # pairs of 4-byte numbers
            for _ in range(2):  # the vectors of words and n-grams, and those of labels
                if place + MATRIX.size > size:
                    return False
                compressed, rows, columns = MATRIX.unpack_from(data, place)
                if compressed:
                    return True
                place += MATRIX.size + 4 * rows * columns
            return place == size


def load_classifier(path: Path, labels: Collection[str]) -> Any:
    """Return the model in a file.

    Raises:
        UserError: there is no such file, it is not a fastText classifier, or it lacks one of
            `labels`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; make a classifier with `lm data classifier`")
    if not is_whole_model(path):
        raise UserError(f"{path}: not a whole fastText model; make it again, or name another file")
    model = fasttext.load_model(str(path))
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
