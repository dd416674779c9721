"""Files at URLs such as s3://bucket/crawl/*.warc.gz -> local files, one at a time.

fsspec opens the stores. It finds credentials and endpoints in its own configuration and in the
environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `FSSPEC_S3_ENDPOINT_URL`, ...), so they are
never in a recipe. A file is copied to a temporary folder, read, and deleted.

What this leaves out: reading a file while it is being copied.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec

from data_pipeline.sources.page_files import READERS, URL, PageFile
from data_pipeline.sources.plain_text import OPENERS
from lm_core.user_error import UserError

PATTERN = re.compile(r"[*?\[]")
DRIVERS = {  # the packages to install, by what stands before ://
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "hf": "huggingface_hub",
}  # fmt: skip
VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")  # of fsspec's info


class StoreFile(NamedTuple):
    """A file of a store.

    Attributes:
        url: its whole address.
        name: for people, its path below the given folder or before the first `*`.
        size: bytes.
        version: changes when the file does; "" if the store has nothing of that kind.
    """

    url: str
    name: str
    size: int
    version: str


def is_url(path: str) -> bool:
    """Return whether a path is one of an object store.

    >>> is_url("s3://bucket/a.warc.gz"), is_url("crawl/a.warc.gz"), is_url("C:\\\\a.txt")
    (True, False, False)
    """
    return URL.match(path) is not None


def opened_store(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises UserError if its driver is not installed, or the kind of URL is not known.
    """
    kind = url.partition("://")[0].lower()
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        line = f"run `pip install {DRIVERS[kind]}`" if kind in DRIVERS else _words(error)
        raise UserError(f"{url}: the driver of {kind}:// is not installed; {line}") from None
    except Exception as error:  # of a driver, which may be of any class
        raise UserError(f"{url}: cannot be opened ({_words(error)})") from None


def _words(error: Exception) -> str:
    words = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def store_files(urls: Iterable[str]) -> list[StoreFile]:
    """Return the files that URLs name: a file, a pattern with `*`, `?` or `**/`, or a folder, of
    which the files of a known kind count. They are in the order of the URLs, then of their names.

    Raises:
        UserError: a store cannot be reached, or a URL names no file.
    """
    found: list[StoreFile] = []
    for url in urls:
        store, path = opened_store(url)
        try:
            store.invalidate_cache()
            files = _files_of(store, path)
        except FileNotFoundError:
            files = []
        except Exception as error:
            raise UserError(f"{url}: cannot be listed ({_words(error)})") from None
        if not files:
            raise UserError(f"{url}: no file there; correct pages.paths, or --from")
        found += files
    return found


def _files_of(store: Any, path: str) -> list[StoreFile]:
    above: PurePosixPath = PurePosixPath(path)
    if PATTERN.search(path):
        infos = store.glob(path, detail=True).values()
        while PATTERN.search(str(above)):
            above = above.parent
    elif store.isdir(path):
        infos = [i for i in store.find(path, detail=True).values() if _is_known(i["name"])]
    else:
        infos = [store.info(path)]
        above = above.parent
    files = [info for info in infos if info["type"] == "file"]
    return [
        StoreFile(
            store.unstrip_protocol(info["name"]),
            info["name"].strip("/").removeprefix(str(above).strip("/")).strip("/"),
            int(info["size"] or 0),
            next((_version(info[key]) for key in VERSIONS if info.get(key)), ""),
        )
        for info in sorted(files, key=lambda info: info["name"])
    ]


def _version(value: Any) -> str:
    """Return a value as text; stores give a time as a datetime or as seconds."""
    return str(value.timestamp() if isinstance(value, datetime) else value)


def _is_known(name: str) -> bool:
    """Return whether the ending of a name says what a file holds; hidden files do not count."""
    path = PurePosixPath(name.lower())
    inner = PurePosixPath(path.stem) if path.suffix in OPENERS else path
    return inner.suffix in READERS and not path.name.startswith(".")


def staged(files: Iterable[StoreFile]) -> Iterator[PageFile]:
    """Yield the files as local ones. Each is deleted when the next is asked for.

    Raises:
        UserError: a file cannot be copied, or is not the one that was listed.
    """
    for file in files:
        store, path = opened_store(file.url)
        with tempfile.TemporaryDirectory(prefix="lm-staged-") as folder:
            local = Path(folder, PurePosixPath(path).name)
            try:
                [now] = _files_of(store, path)
                if now.version == file.version and now.size == file.size:
                    store.get_file(path, str(local))
            except Exception as error:
                raise UserError(f"{file.url}: cannot be read ({_words(error)})") from None
            if not local.exists() or local.stat().st_size != file.size:
                raise UserError(
                    f"{file.url}: has changed since it was listed; list it again with "
                    "`lm data collect --force`"
                )
            yield PageFile(local, file.name)
