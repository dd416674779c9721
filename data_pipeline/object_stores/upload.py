"""A finished folder -> an object store.

The file that says that a folder is whole (`counts.json`) is removed first and written last, so
that a reader who waits for it never sees a part of two versions.
"""

from pathlib import Path

from data_pipeline.object_stores.store_files import is_url, opened_store
from lm_core.formats.documents import COUNTS_FILE
from lm_core.user_error import UserError


def check_target(url: str) -> None:
    """Raise UserError unless this is the URL of a store that can be opened."""
    if not is_url(url):
        raise UserError(
            f"--to {url}: expected the URL of an object store, such as s3://bucket/documents; "
            "runs/NAME/documents is written in any case"
        )
    opened_store(url)


def upload_folder(folder: Path, url: str) -> int:
    """Copy the files of `folder` to below `url`, delete older files of the same kinds there, and
    return the number of bytes.

    Raises UserError if the store refuses.
    """
    store, root = opened_store(url)
    root = root.rstrip("/")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    names.sort(key=lambda name: name == COUNTS_FILE)
    assert names[-1] == COUNTS_FILE, f"{folder} has no {COUNTS_FILE}"
    try:
        if store.exists(f"{root}/{COUNTS_FILE}"):
            store.rm_file(f"{root}/{COUNTS_FILE}")
        for name in names[:-1]:
            store.put_file(str(folder / name), f"{root}/{name}")
        store.invalidate_cache()
        for path in store.glob(f"{root}/part-*.parquet"):
            if path.rsplit("/", 1)[-1] not in names:
                store.rm_file(path)
        store.put_file(str(folder / COUNTS_FILE), f"{root}/{COUNTS_FILE}")
    except Exception as error:  # of a driver, which may be of any class
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{url}: cannot be written ({type(error).__name__}: {words})") from None
    return sum((folder / name).stat().st_size for name in names)
