"""The files of a data set whose publisher lists them: a folder of the Hugging Face Hub.

The list is downloaded once and kept in the data set's folder, so that a later command asks for the
same files. It gives the size of each, and the SHA-256 of each large one.

What this leaves out: folders in the folder, and a list of more than one answer (1,000 files).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_pipeline.downloads.http_download import Patience, download
from data_pipeline.downloads.registered_sets import DataSet, RegisteredFile
from lm_core.user_error import UserError

LISTING = ".files.json"  # hidden, so that it is not read as pages


def listed_files(
    data_set: DataSet, folder: Path, patience: Patience, say: Callable[[str], None]
) -> tuple[RegisteredFile, ...]:
    """Return the parquet files that `data_set.listing` lists.

    Args:
        data_set: one with a listing.
        folder: of this data set.
        patience: how long to try.
        say: called with a line before each wait.

    Raises:
        UserError: the list cannot be downloaded, or is not one.
    """
    path = folder / LISTING
    if not path.is_file():
        download((data_set.listing,), path, patience=patience, say=say)
    try:
        rows = json.loads(path.read_bytes())
        found = [_file(data_set.listing, row) for row in rows if _is_parquet(row)]
    except (ValueError, LookupError, TypeError) as error:
        path.unlink()
        raise UserError(
            f"{data_set.listing}: expected a list of files in JSON ({error}); try again later"
        ) from None
    if not found:
        path.unlink()
        raise UserError(f"{data_set.listing}: lists no parquet file")
    return tuple(found)


def _is_parquet(row: dict[str, Any]) -> bool:
    return row["type"] == "file" and row["path"].endswith(".parquet")


def _file(listing: str, row: dict[str, Any]) -> RegisteredFile:
    """Return a file of the list. https://HOST/api/datasets/OWNER/NAME/tree/REVISION/FOLDER lists
    what is at https://HOST/datasets/OWNER/NAME/resolve/REVISION/PATH.
    """
    parts = urlsplit(listing)
    _, _, kind, owner, name, _, revision, *_ = parts.path.split("/")
    url = f"{parts.scheme}://{parts.netloc}/{kind}/{owner}/{name}/resolve/{revision}/{row['path']}"
    sha256 = row.get("lfs", {}).get("oid")
    return RegisteredFile(Path(row["path"]).name, (url,), sha256, row["size"])
