"""Files of a store in memory: found, staged one at a time, deleted, and refused if they changed."""

import sys

import fsspec
import pytest

from data_pipeline.object_stores import store_files as module
from data_pipeline.object_stores.listing import read_listing, write_listing
from data_pipeline.object_stores.store_files import is_url, staged, store_files
from lm_core.user_error import UserError

FILES = {"a.warc.gz": b"first", "sub/b.jsonl": b"second", "c.pdf": b"third", ".d.txt": b"hidden"}


@pytest.fixture
def bucket():
    """A folder of a store in memory with four files."""
    store = fsspec.filesystem("memory")
    for name, data in FILES.items():
        store.pipe(f"/bucket/{name}", data)
    yield store
    store.rm("/bucket", recursive=True)


def names(*urls):
    return [(file.url, file.name, file.size) for file in store_files(urls)]


def test_a_folder_gives_the_files_of_known_kinds_and_names_below_it(bucket):
    assert names("memory://bucket") == [
        ("memory:///bucket/a.warc.gz", "a.warc.gz", 5),
        ("memory:///bucket/sub/b.jsonl", "sub/b.jsonl", 6),
    ]


def test_a_file_and_a_pattern_are_taken_as_they_are_given(bucket):
    assert names("memory://bucket/c.pdf", "memory://bucket/*/b.*") == [
        ("memory:///bucket/c.pdf", "c.pdf", 5),
        ("memory:///bucket/sub/b.jsonl", "sub/b.jsonl", 6),
    ]
    assert [name for _, name, _ in names("memory://bucket/**/*.jsonl")] == ["sub/b.jsonl"]


@pytest.mark.parametrize("url", ["memory://bucket/none.txt", "memory://bucket/*.none"])
def test_a_url_without_a_file_is_refused(bucket, url):
    with pytest.raises(UserError, match=r"no file there; correct pages\.paths, or --from"):
        store_files([url])


def test_one_file_is_staged_at_a_time_and_then_deleted(bucket):
    before = None
    for file, data in zip(staged(store_files(["memory://bucket"])), FILES.values(), strict=False):
        assert before is None or not before.parent.exists()
        assert file.path.read_bytes() == data
        before = file.path
    assert not before.parent.exists()


def test_a_file_that_changed_or_went_after_the_listing_is_refused(bucket):
    files = store_files(["memory://bucket/a.warc.gz"])
    bucket.pipe("/bucket/a.warc.gz", b"other")
    with pytest.raises(UserError, match=r"a\.warc\.gz: has changed since it was listed; list it"):
        list(staged(files))
    bucket.rm("/bucket/a.warc.gz")
    with pytest.raises(UserError, match=r"a\.warc\.gz: cannot be read \(FileNotFoundError"):
        list(staged(files))


def test_a_listing_is_read_as_it_was_written(bucket, tmp_path):
    files = store_files(["memory://bucket"])
    files[0] = files[0]._replace(url="memory:///bucket/한국 a.warc.gz")
    for name in ("one", "two"):
        write_listing(tmp_path / name, files)
    assert read_listing(tmp_path / "one") == files
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    (tmp_path / "one").write_bytes(b"no listing")
    with pytest.raises(UserError, match=r"one: .*WARC"):
        read_listing(tmp_path / "one")


def test_a_driver_that_is_missing_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # importing it fails
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"the driver of s3:// is not installed; run `pip install "):
        store_files(["s3://bucket/a.warc.gz"])
    with pytest.raises(UserError, match=r"^nosuch://x: cannot be opened \(ValueError: Protocol"):
        store_files(["nosuch://x"])


def test_an_error_of_a_driver_is_one_line(bucket, monkeypatch):
    def refuse(store, path):
        raise RuntimeError("no\ncredentials")

    monkeypatch.setattr(module, "_files_of", refuse)
    expected = r"memory://bucket: cannot be listed \(RuntimeError: no credentials\)"
    with pytest.raises(UserError, match=expected):
        store_files(["memory://bucket"])


def test_what_is_a_url():
    assert is_url("s3://bucket/a") and is_url("memory://a")
    assert not any(map(is_url, ["a", "/a//b", "C://a", "s3://", "://a"]))
