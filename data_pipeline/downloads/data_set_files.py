"""Fetch the files of a registered data set into its folder, and check those that are there.

A file whose checksum nobody has computed is trusted at its first download: its hash is written to
SHA256SUMS in the same folder, and every later download must have the same. `sha256sum -c
SHA256SUMS` checks the files too.

What this leaves out: reading the files (`data_pipeline/sources/plain_text.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data_pipeline.downloads.http_download import (
    PATIENCE,
    Patience,
    Wanted,
    download,
    hash_of_first_download,
    say_on_stderr,
)
from data_pipeline.downloads.listed_files import LISTING, listed_files
from data_pipeline.downloads.registered_sets import DataSet, RegisteredFile
from lm_core.artifact_paths import atomic_file, file_sha256
from lm_core.user_error import UserError

SUMS = "SHA256SUMS"


class FetchedFile(NamedTuple):
    """A file of a data set that is there and right.

    Attributes:
        path: where it is.
        was_there: whether nothing had to be downloaded.
        checked: whether its hash was known before; otherwise it has been recorded.
    """

    path: Path
    was_there: bool
    checked: bool


def fetch_data_set(
    data_set: DataSet,
    folder: Path,
    patience: Patience = PATIENCE,
    say: Callable[[str], None] = say_on_stderr,
) -> list[FetchedFile]:
    """Download the files of a data set that are missing, and check the others.

    Args:
        data_set: see `registered_sets`.
        folder: of all data sets; the files go to the folder of this one in it.
        patience: how long to try.
        say: called with a line before each wait.

    Raises:
        UserError: a file cannot be downloaded, or is not what it should be.
    """
    data_set = _with_files(data_set, folder, patience, say)
    return [
        _fetch(file, path, patience, say)
        for file, path in zip(data_set.files, data_set.paths(folder), strict=True)
    ]


def is_downloaded(data_set: DataSet, folder: Path) -> bool:
    """Return whether all files of a data set are in the folder of all data sets, unchecked."""
    if data_set.listing and not (folder / data_set.name / LISTING).is_file():
        return False
    data_set = _with_files(data_set, folder, PATIENCE, say_on_stderr)
    return all(path.is_file() for path in data_set.paths(folder))


def _with_files(
    data_set: DataSet, folder: Path, patience: Patience, say: Callable[[str], None]
) -> DataSet:
    """Return the data set with the files that its publisher lists."""
    if not data_set.listing:
        return data_set
    files = listed_files(data_set, folder / data_set.name, patience, say)
    return data_set._replace(files=files)


def _fetch(
    file: RegisteredFile, path: Path, patience: Patience, say: Callable[[str], None]
) -> FetchedFile:
    sums = path.with_name(SUMS)
    recorded = read_sums(sums)
    wanted = file.sha256 or recorded.get(file.name)
    recorded_in = sums if file.sha256 is None and wanted is not None else None
    if path.is_dir():
        raise UserError(f"{path}: expected a file, found a folder; move it")
    was_there = path.exists()
    if was_there:
        found = file_sha256(path)
        if wanted not in (None, found):
            reason = (
                f"{path}: expected SHA-256 {wanted}, found {found}; delete the file, and the same "
                "command downloads it again"
            )
            if recorded_in is not None:
                reason += f"; {hash_of_first_download(recorded_in)}"
            raise UserError(reason)
    else:
        found = download(file.urls, path, Wanted(wanted, file.size, recorded_in), patience, say)
    if recorded.get(file.name) != found:
        write_sums(sums, recorded | {file.name: found})
    return FetchedFile(path, was_there, wanted is not None)


def read_sums(path: Path) -> dict[str, str]:
    """Return name -> SHA-256 of a SHA256SUMS file; nothing if there is none.

    Raises UserError for a line that is not "hash  name", and for bytes that are not UTF-8.
    """
    sums = {}
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8, from byte {error.start}; delete it") from None
    for line in text.splitlines():
        digest, separator, name = line.partition("  ")
        if len(digest) != 64 or not separator or not name:
            raise UserError(f"{path}: {line!r}, expected a hash, two spaces and a name; delete it")
        sums[name] = digest
    return sums


def write_sums(path: Path, sums: dict[str, str]) -> None:
    """Write name -> SHA-256 as a SHA256SUMS file."""
    with atomic_file(path, "w") as file:
        file.writelines(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
