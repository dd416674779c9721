"""The data sets that have a name: their files, where to download them, and what they must contain.

A checksum is given only if somebody has computed it from the file. Where none is given,
`lm data get` keeps that of the first download beside the file (see `data_set_files.py`).

Besides those of the list, `wikipedia_` and the code of a language names an edition of Wikipedia,
and a URL names the data set of its one file, such as a segment of Common Crawl.

What this leaves out: data sets that one must log in for.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

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
        use: "text" for training, which `text.dataset` may name; "pages" for `lm data build`;
            "vocabularies" to compare tokenizers with.
        listing: URL of the list of its files, if they are not known before; see `listed_files.py`.
    """

    name: str
    title: str
    licence: str
    files: tuple[RegisteredFile, ...]
    use: Literal["text", "pages", "vocabularies"] = "text"
    listing: str = ""

    def paths(self, folder: Path) -> tuple[Path, ...]:
        """Return where its files are, below the folder of all data sets."""
        return tuple(folder / self.name / file.name for file in self.files)


OPENAI = "https://openaipublic.blob.core.windows.net/encodings"
HUB = "https://huggingface.co"
TINY_STORIES = f"{HUB}/datasets/roneneldan/TinyStories/resolve/main"
FINEWEB_EDU = f"{HUB}/datasets/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT"
WIKIPEDIA_DUMP = "20231101"
WIKIPEDIA = f"{HUB}/api/datasets/wikimedia/wikipedia/tree/main/{WIKIPEDIA_DUMP}"
WIKIPEDIA_NAME = re.compile(r"wikipedia_([a-z]+(?:-[a-z]+)*)")

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
            use="vocabularies",
        ),
        DataSet(
            "fineweb_edu",
            "pages that teach (Penedo et al., 2024): the first of 14 files of the sample of 10 "
            "billion tokens, about 2.2 GB",
            "ODC-By 1.0",
            (RegisteredFile("000_00000.parquet", (f"{FINEWEB_EDU}/000_00000.parquet",)),),
            use="pages",
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
    """Return the data set of this name or URL; UserError lists the names if there is none."""
    if "://" in name:
        return data_set_at(name)
    if wikipedia := WIKIPEDIA_NAME.fullmatch(name):
        language = wikipedia[1]
        title = f'articles of Wikipedia in the language "{language}", as of {WIKIPEDIA_DUMP}'
        return DataSet(name, title, "CC BY-SA 4.0", (), "pages", f"{WIKIPEDIA}.{language}")
    if name not in DATA_SETS:
        names = ", ".join([*DATA_SETS, "wikipedia_LANGUAGE (such as wikipedia_ko)", "or a URL"])
        raise UserError(f"no data set {name!r}; the names are {names}")
    return DATA_SETS[name]


def data_set_at(url: str) -> DataSet:
    """Return the data set whose one file is at a URL; its name is the host and the path.

    Raises:
        UserError: the URL is not of HTTP, or its path does not name a file.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: expected a URL that begins with https:// or http://")
    *folders, file = unquote(parts.path).split("/")
    steps = [step for step in folders if step]
    if not file or parts.query or any(step in (".", "..") for step in [*steps, file]):
        raise UserError(
            f"{url}: expected a URL that ends with the name of a file, without '?'; "
            "download it yourself, and give the file to `lm data build --from`"
        )
    name = "/".join([parts.hostname, *steps])
    title, licence = f"the file {file}", "see the page of whoever publishes it"
    return DataSet(name, title, licence, (RegisteredFile(file, (url,)),), "pages")
