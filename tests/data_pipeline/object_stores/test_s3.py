"""The S3 protocol, against moto's server."""

import fsspec
import pytest

from data_pipeline.object_stores.store_files import staged, store_files
from data_pipeline.object_stores.upload import upload_folder
from lm_core.user_error import UserError

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of botocore and werkzeug


@pytest.fixture(scope="module")
def s3():
    """A store with the bucket `crawl`, at the address that AWS_ENDPOINT_URL names."""
    with pytest.MonkeyPatch.context() as patch:
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3")
        store.mkdir("crawl")
        yield store
        running.stop()


def test_files_are_found_staged_and_refused_if_they_changed(s3):
    for name in ("a.jsonl", "sub/b.txt", "c.pdf"):
        s3.pipe(f"crawl/{name}", name.encode())
    files = store_files(["s3://crawl/"])
    assert [(file.url, file.name) for file in files] == [
        ("s3://crawl/a.jsonl", "a.jsonl"),
        ("s3://crawl/sub/b.txt", "sub/b.txt"),
    ]
    assert [file.path.read_text() for file in staged(files)] == ["a.jsonl", "sub/b.txt"]
    assert [file.name for file in store_files(["s3://crawl/*.jsonl"])] == ["a.jsonl"]
    s3.pipe("crawl/a.jsonl", b"a.JSONL")
    with pytest.raises(UserError, match=r"s3://crawl/a\.jsonl: has changed since it was listed"):
        list(staged(files))
    with pytest.raises(UserError, match=r"s3://nosuch/x\.txt: no file there"):
        store_files(["s3://nosuch/x.txt"])


def test_a_folder_is_written(s3, tmp_path):
    for name in ("counts.json", "part-00000.parquet"):
        (tmp_path / name).write_text(name)
    s3.pipe("crawl/out/part-00001.parquet", b"old")
    upload_folder(tmp_path, "s3://crawl/out")
    assert s3.cat("crawl/out/counts.json") == b"counts.json"
    assert s3.find("crawl/out") == ["crawl/out/counts.json", "crawl/out/part-00000.parquet"]
    with pytest.raises(UserError, match=r"s3://nosuch/out: cannot be written \(\w+"):
        upload_folder(tmp_path, "s3://nosuch/out")
