"""A data set whose publisher lists its files: the list is fetched once, and its checksums hold."""

import hashlib
import json
from pathlib import Path

import pytest
from unreliable_server import Handler, honest, serving

from data_pipeline.downloads.data_set_files import fetch_data_set, is_downloaded
from data_pipeline.downloads.listed_files import LISTING
from data_pipeline.downloads.registered_sets import DataSet
from lm_core.user_error import UserError

LIST_PATH = "/api/datasets/wikimedia/wikipedia/tree/main/20231101.ko"
FILES = {f"20231101.ko/train-0000{number}-of-00002.parquet": b"rows" * number for number in (1, 2)}
ROWS = [
    {"type": "directory", "path": "20231101.ko/old", "size": 0},
    {"type": "file", "path": "20231101.ko/README.md", "size": 5},
    *[
        {
            "type": "file",
            "path": path,
            "size": len(content),
            "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)},
        }
        for path, content in FILES.items()
    ],
]


def hub(listing: bytes = json.dumps(ROWS).encode()):
    """Answer as the Hub does: the list, and the files at their own URLs."""

    def answer(handler: Handler) -> None:
        path = handler.path.removeprefix("/datasets/wikimedia/wikipedia/resolve/main/")
        content = listing if handler.path == LIST_PATH else FILES[path]
        handler.server_of_test.content = content
        honest(handler)

    return answer


def wikipedia(url: str) -> DataSet:
    return DataSet("wikipedia_ko", "a test", "none", (), "pages", url + LIST_PATH)


def test_each_listed_file_is_downloaded_and_checked_once(tmp_path: Path) -> None:
    with serving(b"", hub()) as server:
        assert not is_downloaded(wikipedia(server.url), tmp_path)
        fetched = fetch_data_set(wikipedia(server.url), tmp_path)
        assert [file.path.read_bytes() for file in fetched] == list(FILES.values())
        assert [(file.was_there, file.checked) for file in fetched] == [(False, True)] * 2
        assert is_downloaded(wikipedia(server.url), tmp_path)
        fetched[0].path.unlink()
        assert not is_downloaded(wikipedia(server.url), tmp_path)
        again = fetch_data_set(wikipedia(server.url), tmp_path)
        assert [file.was_there for file in again] == [False, True]
    asked = [request["path"].rpartition("/")[2] for request in server.asked]
    assert asked == ["20231101.ko", *[file.path.name for file in fetched], fetched[0].path.name]


def test_a_file_with_other_bytes_than_listed_is_not_kept(tmp_path: Path) -> None:
    rows = [row | {"lfs": {"oid": "0" * 64}} if "lfs" in row else row for row in ROWS]
    refused = pytest.raises(UserError, match=f"expected SHA-256 {'0' * 64}")
    with serving(b"", hub(json.dumps(rows).encode())) as server, refused:
        fetch_data_set(wikipedia(server.url), tmp_path)
    assert [path.name for path in (tmp_path / "wikipedia_ko").iterdir()] == [LISTING]


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (b"<html>busy</html>", "expected a list of files in JSON"),
        (b'{"error": "no such folder"}', "expected a list of files in JSON"),
        (b"[{}]", "expected a list of files in JSON"),
        (json.dumps(ROWS[:2]).encode(), "lists no parquet file"),
    ],
)
def test_what_is_no_list_is_named_and_not_kept(
    tmp_path: Path, listing: bytes, message: str
) -> None:
    refused = pytest.raises(UserError, match=f"{LIST_PATH}: {message}")
    with serving(b"", hub(listing)) as server, refused:
        fetch_data_set(wikipedia(server.url), tmp_path)
    assert list((tmp_path / "wikipedia_ko").iterdir()) == []
