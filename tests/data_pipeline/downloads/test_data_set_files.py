"""The files of a data set: fetched once, checked ever after."""

import hashlib
from pathlib import Path

import pytest
from unreliable_server import Server, honest, serving

from data_pipeline.downloads.data_set_files import SUMS, fetch_data_set, read_sums
from data_pipeline.downloads.registered_sets import DataSet, RegisteredFile
from lm_core.user_error import UserError

CONTENT = b"To be, or not to be"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def data_set(server: Server, sha256: str | None = None) -> DataSet:
    files = (RegisteredFile("a.txt", (f"{server.url}/a",), sha256),)
    return DataSet("set", "a test", "none", files)


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(tmp_path: Path) -> None:
    with serving(CONTENT, honest) as server:
        [first] = fetch_data_set(data_set(server), tmp_path)
        assert first == (tmp_path / "set" / "a.txt", False, False)
        assert (tmp_path / "set" / SUMS).read_text() == f"{SHA256}  a.txt\n"
        [second] = fetch_data_set(data_set(server), tmp_path)
        assert (second.was_there, second.checked) == (True, True)
        assert len(server.asked) == 1
        first.path.unlink()
        server.content = b"something else"
        message = (
            f"expected SHA-256 {SHA256}.*not kept; .*set/{SUMS} has the expected hash, of the "
            "first download: delete it to accept another file$"
        )
        with pytest.raises(UserError, match=message):
            fetch_data_set(data_set(server), tmp_path)
        assert not first.path.exists()
        first.path.write_bytes(b"something else")
        with pytest.raises(UserError, match=rf"delete the file, and .*again; .*{SUMS} has the"):
            fetch_data_set(data_set(server), tmp_path)
        first.path.with_name(SUMS).unlink()
        [third] = fetch_data_set(data_set(server), tmp_path)
        assert third == (first.path, True, False)


def test_a_registered_checksum_is_not_blamed_on_the_sums(tmp_path: Path) -> None:
    with serving(CONTENT, honest) as server, pytest.raises(UserError, match=r"not kept$"):
        fetch_data_set(data_set(server, "0" * 64), tmp_path)


def test_a_registered_checksum_is_above_the_recorded_one(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / SUMS).write_text(f"{'0' * 64}  a.txt\n{'1' * 64}  other.txt\n")
    with serving(CONTENT, honest) as server:
        [fetched] = fetch_data_set(data_set(server, SHA256), tmp_path)
    assert fetched.checked
    assert read_sums(folder / SUMS) == {"a.txt": SHA256, "other.txt": "1" * 64}


def test_a_file_of_the_user_s_is_refused_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"mine")
    message = r"a.txt: expected SHA-256 .* delete the file, and"
    with serving(CONTENT, honest) as server, pytest.raises(UserError, match=message):
        fetch_data_set(data_set(server, SHA256), tmp_path)
    assert (folder / "a.txt").read_bytes() == b"mine"
    assert server.asked == []


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "set" / "a.txt").mkdir(parents=True)
    message = r"set/a.txt: expected a file, found a folder; move it"
    with serving(CONTENT, honest) as server, pytest.raises(UserError, match=message):
        fetch_data_set(data_set(server), tmp_path)
    assert not (tmp_path / "set" / SUMS).exists()


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        (b"abc  a.txt\n", r"SHA256SUMS: 'abc  a.txt', expected a hash, two spaces and a name; del"),
        (b"\xff\xfe\n", r"SHA256SUMS: not text in UTF-8, .*; delete it"),
    ],
)
def test_damaged_sums_are_named(tmp_path: Path, sums: bytes, message: str) -> None:
    (tmp_path / SUMS).write_bytes(sums)
    with pytest.raises(UserError, match=message):
        read_sums(tmp_path / SUMS)
