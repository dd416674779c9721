"""A folder copied to a store in memory: whole, the counts last, and no part of an older version."""

import fsspec
import pytest

from data_pipeline.object_stores.upload import check_target, upload_folder
from lm_core.user_error import UserError

NAMES = ["counts.json", "examples.json", "part-00000.parquet"]


@pytest.fixture
def store():
    store = fsspec.filesystem("memory")
    if store.exists("/out"):  # the store belongs to the process, and other tests write there, too
        store.rm("/out", recursive=True)
    yield store
    store.rm("/out", recursive=True)


def test_the_new_version_replaces_the_old_one_and_the_counts_come_last(
    store, tmp_path, monkeypatch
):
    for name in NAMES:
        (tmp_path / name).write_text(name)
    for name in ("counts.json", "part-00000.parquet", "part-00001.parquet", "other.txt"):
        store.pipe(f"/out/documents/{name}", b"old")
    put, written = type(store).put_file, []

    def watched(self, local, path, **settings):
        assert not self.exists("/out/documents/counts.json")
        written.append(path.rsplit("/", 1)[-1])
        put(self, local, path, **settings)

    monkeypatch.setattr(type(store), "put_file", watched)
    assert upload_folder(tmp_path, "memory://out/documents/") == sum(map(len, NAMES))
    assert written == ["examples.json", "part-00000.parquet", "counts.json"]
    there = {path.rsplit("/", 1)[-1] for path in store.find("/out/documents")}
    assert there == {*NAMES, "other.txt"}
    assert store.cat("/out/documents/part-00000.parquet") == b"part-00000.parquet"


def test_a_store_that_refuses_is_one_line(store, tmp_path, monkeypatch):
    (tmp_path / "counts.json").write_text("")

    def refuse(*arguments, **settings):
        raise PermissionError("access denied")

    store.pipe("/out/a", b"")
    monkeypatch.setattr(type(store), "put_file", refuse)
    expected = r"memory://out/x: cannot be written \(PermissionError: access denied\)"
    with pytest.raises(UserError, match=expected):
        upload_folder(tmp_path, "memory://out/x")


def test_a_target_that_is_no_url_is_refused_before_anything_runs():
    with pytest.raises(UserError, match=r"--to out/: expected the URL of an object store"):
        check_target("out/")
