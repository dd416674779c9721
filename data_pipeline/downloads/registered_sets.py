"""The data sets that have a name: their files, where to download them, and what they must contain.

A checksum is given only if somebody has computed it from the file. Where none is given,
`lm data get` keeps that of the first download beside the file (see `data_set_files.py`).

What this leaves out: data sets in formats other than text files.
"""

from pathlib import Path
from typing import NamedTuple

from lm_core.user_error import UserError


class RegisteredFile(NamedTuple):
    """A file of a data set.

    Attributes:
        name: in the data set's folder.
        urls: where it can be downloaded; the later ones are tried if the earlier ones fail.
        sha256: of its bytes, as 64 hex digits; None if nobody has computed it.
        size: in bytes; None if not known.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None


class DataSet(NamedTuple):
    """A data set.

    Attributes:
        name: for `lm data get NAME`, and for `dataset` in a recipe.
        title: what it is, in one line.
        licence: under which it is published.
        files: in the order in which they are read.
        is_text: whether it is text for training, which `text.dataset` may name.
    """

    name: str
    title: str
    licence: str
    files: tuple[RegisteredFile, ...]
    is_text: bool = True

    def paths(self, folder: Path) -> tuple[Path, ...]:
        """Return where its files are, below the folder of all data sets."""
        return tuple(folder / self.name / file.name for file in self.files)


OPENAI = "https://openaipublic.blob.core.windows.net/encodings"
TINY_STORIES = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main"

DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "shakespeare",
            "40,000 lines of Shakespeare's plays (tinyshakespeare), 1.1 MB",
            "public domain",
            (
                RegisteredFile(
                    "input.txt",
                    (
                        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                        "tinyshakespeare/input.txt",
                    ),
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    1_115_394,
                ),
            ),
        ),
        DataSet(
            "openai_tokenizers",
            "the vocabularies of GPT-4 (cl100k_base) and GPT-4o (o200k_base), to compare with",
            "MIT",
            (
                RegisteredFile(
                    "cl100k_base.tiktoken",
                    (f"{OPENAI}/cl100k_base.tiktoken",),
                    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
                    1_681_126,
                ),
                RegisteredFile(
                    "o200k_base.tiktoken",
                    (f"{OPENAI}/o200k_base.tiktoken",),
                    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
                    3_613_922,
                ),
            ),
            is_text=False,
        ),
        DataSet(
            "tinystories",
            "stories for small children, written by GPT-4 (Eldan and Li, 2023), about 2.2 GB",
            "CDLA-Sharing-1.0",
            (
                RegisteredFile(
                    "TinyStoriesV2-GPT4-train.txt",
                    (f"{TINY_STORIES}/TinyStoriesV2-GPT4-train.txt",),
                ),
                RegisteredFile(
                    "TinyStoriesV2-GPT4-valid.txt",
                    (f"{TINY_STORIES}/TinyStoriesV2-GPT4-valid.txt",),
                ),
            ),
        ),
    )
}


def data_set_named(name: str) -> DataSet:
    """Return the data set of this name; UserError lists the names if there is none."""
    if name not in DATA_SETS:
        raise UserError(f"no data set {name!r}; the names are {', '.join(DATA_SETS)}")
    return DATA_SETS[name]
