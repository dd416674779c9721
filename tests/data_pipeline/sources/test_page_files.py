"""Files and folders of any kind as pages: what is chosen, what is lost, what is refused."""

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.sources.http_responses import TOO_LARGE
from data_pipeline.sources.page_files import (
    REST_LOST,
    UNREADABLE,
    PagesSettings,
    page_files,
    read_every_page,
)
from data_pipeline.sources.page_rows import RowKeys
from data_pipeline.sources.warc_files import LostPage, Page, write_warc
from lm_core.user_error import UserError

LIMIT = 1000
WORDS = "words of a page"
JSON = b'{"text": "words of a page"}\n'
HTML = b"<!DOCTYPE html><p>words of a page"
PART = b"<p>words of a page"  # nothing to recognize it by


def made(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(*paths: Path) -> list[tuple[Page | LostPage, str]]:
    return list(read_every_page(paths, LIMIT, RowKeys()))


def contents() -> dict[str, bytes]:
    """A file's name -> its bytes, for every kind; each has one page."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [WORDS]}), sink)
    packed = pa.compress(JSON, codec="zstd", asbytes=True)
    return {
        "page.html": HTML, "PAGE.HTM": PART, "page.xhtml": PART,
        "page.html.gz": gzip.compress(HTML),
        "rows.jsonl": JSON, "rows.ndjson": JSON, "rows.json.gz": gzip.compress(JSON),
        "rows.jsonl.zst": packed, "rows.parquet": sink.getvalue().to_pybytes(),
        "text.txt": WORDS.encode(), "text.txt.gz": gzip.compress(WORDS.encode()),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(contents()))
def test_the_ending_of_a_name_says_how_a_file_is_read(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name, contents()[name])
    [(page, source)] = found(path)
    assert isinstance(page, Page)
    assert source == name
    assert WORDS in page.payload.decode()
    assert (page.content_type, page.charset) == (
        ("text/html", "") if "htm" in name.lower() else ("text/plain", "utf-8")
    )
    assert [file.path for file in page_files([tmp_path])] == [path]


@pytest.mark.parametrize("name", ["page.html", "rows.jsonl", "rows.jsonl.zst", "rows.parquet"])
def test_a_name_that_says_nothing_leaves_it_to_the_first_bytes(tmp_path: Path, name: str) -> None:
    expected, _ = found(made(tmp_path / "named", name, contents()[name]))[0]
    path = made(tmp_path / "unnamed", "pages.v2", contents()[name])
    [(page, _)] = found(path)
    assert (page.content_type, page.payload) == (expected.content_type, expected.payload)
    assert [file.path for file in page_files([path.parent])] == [path]


def test_a_crawl_is_recognized_and_read(tmp_path: Path) -> None:
    page = Page("http://x/", "text/html", HTML, "utf-8")
    write_warc(tmp_path / "in" / "crawl.warc.gz", [page])
    write_warc(tmp_path / "in" / "more" / "crawl", [page])
    assert found(tmp_path / "in") == [(page, "crawl.warc.gz"), (page, "more/crawl")]


def test_other_files_are_text_only_if_they_are_named_themselves(tmp_path: Path) -> None:
    notes = made(tmp_path, "NOTES", b"one<|endoftext|>two")
    others = {
        "style.css": b"p {}",
        "a.json": b'{\n"a": 1}',
        "b.json": b"[1]",
        "c.json.gz": gzip.compress(b'{"a": 1,\n"text": "b"}'),
        "damaged.gz": b"\x1f\x8bno",
    }
    for name, content in others.items():
        made(tmp_path, name, content)
    assert [(page.url, page.payload) for page, _ in found(notes)] == [
        ("NOTES:1", b"one"),
        ("NOTES:2", b"two"),
    ]
    endings = r"expected files whose names end in \.warc, .*\.txt, also packed \(\.gz, .*\.zst\)$"
    with pytest.raises(UserError, match=f"no page in this folder; {endings}"):
        found(tmp_path)
    picture = made(tmp_path, "picture.png", b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=f"picture.png: begins with .*PNG.*; {endings}"):
        found(picture)


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/z.html", "b/a.txt", "a.html", "c.jsonl", ".git/x.html", ".hidden.html"):
        made(tmp_path, name, JSON if name == "c.jsonl" else HTML)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    pages = found(tmp_path, tmp_path / "a.html")
    assert [(page.url, source) for page, source in pages] == [
        ("a.html", "a.html"),
        ("b/a.txt:1", "b/a.txt"),
        ("b/z.html", "b/z.html"),
        ("c.jsonl:1", "c.jsonl"),
        ("a.html", "a.html"),
    ]


def test_what_cannot_be_read_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    made(tmp_path, "good.html", HTML)
    made(tmp_path, "empty.html", b"")
    made(tmp_path, "large.html", b"a" * (LIMIT + 1))
    made(tmp_path, "latin.txt", b"good<|endoftext|>caf\xe9")
    made(tmp_path, "large.txt", b"b" * (LIMIT + 1) + b"<|endoftext|>good")
    made(tmp_path, "cut.jsonl.gz", gzip.compress(JSON + os.urandom(9999))[:-99])
    made(tmp_path, "keys.jsonl", b'{"a": 1}\n')
    made(tmp_path, "start.json.gz", b"\x1f\x8bno")
    made(tmp_path, "foot.parquet", b"PAR1")
    made(tmp_path, "not.warc.gz", b"no record")
    (tmp_path / "link.html").symlink_to(tmp_path / "nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.html")
        os.mkfifo(tmp_path / "other")
    pages = found(tmp_path)
    lost = {source: (p.reason, p.detail) for p, source in pages if isinstance(p, LostPage)}
    kept = sorted(source for page, source in pages if isinstance(page, Page))
    assert kept == ["cut.jsonl.gz", "good.html", "large.txt", "latin.txt"]
    expected = {
        "empty.html": (UNREADABLE, "the file is empty"),
        "large.html": (TOO_LARGE, "has more than 1,000 bytes"),
        "latin.txt": (REST_LOST, "not UTF-8: byte 0xe9 at offset 20; convert the file to UTF-8"),
        "large.txt": (TOO_LARGE, "document 1 has 1,001 bytes"),
        "cut.jsonl.gz": (REST_LOST, "cannot be read (Compressed file ended before"),
        "keys.jsonl": (UNREADABLE, "no text there: expected a key or column named text or"),
        "start.json.gz": (UNREADABLE, "cannot be read ("),
        "foot.parquet": (UNREADABLE, "cannot be read as parquet (Parquet file size is 4 bytes"),
        "not.warc.gz": (UNREADABLE, "contains no WARC record"),
        "link.html": (UNREADABLE, "cannot be read (a symbolic link that leads to no file)"),
        "fifo.html": (UNREADABLE, "a pipe, socket or device; expected a file"),
    }
    if not hasattr(os, "mkfifo"):
        del expected["fifo.html"]
    assert {name: reason for name, (reason, _) in lost.items()} == {
        name: reason for name, (reason, _) in expected.items()
    }
    for name, (_, detail) in expected.items():
        assert lost[name][1].startswith(detail), name


@pytest.mark.parametrize("name", ["page.html", "rows.jsonl", "crawl.warc.gz", "text.txt"])
def test_a_file_without_permission_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made(tmp_path, "good.html", HTML)
    secret = made(tmp_path, name, HTML)
    as_it_was = Path.open

    def refusing(path: Path, *arguments, **settings):
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return as_it_was(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refusing)
    pages = {source: page for page, source in found(tmp_path)}
    assert isinstance(pages["good.html"], Page)
    assert (pages[name].reason, pages[name].detail) == (
        UNREADABLE,
        "cannot be read (Permission denied)",
    )


def test_a_folder_that_cannot_be_listed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, "good.html", HTML)
    made(tmp_path, "secret/page.html", HTML)
    as_it_was = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return as_it_was(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (_, good), (lost, source) = found(tmp_path)
    assert (good, source) == ("good.html", "secret")
    assert lost.detail == "a folder whose files cannot be listed"


def test_files_without_any_page_are_refused_with_the_first_reason(tmp_path: Path) -> None:
    empty = made(tmp_path, "a.html", b"")
    made(tmp_path, "b.parquet", b"PAR1")
    with pytest.raises(UserError, match=r"a.html: the file is empty$"):
        found(empty)
    with pytest.raises(
        UserError, match=r"a.html: the file is empty; nor is there a page in the other 1$"
    ):
        found(tmp_path)
    blank = made(tmp_path, "blank.jsonl", b"\n\n")
    with pytest.raises(UserError, match=r"blank.jsonl: no page there; give a file with pages"):
        found(blank)
    with pytest.raises(UserError, match=r"gone: no such file or folder; correct pages.paths in"):
        found(tmp_path / "gone")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    try:
        made(tmp_path, os.fsdecode(b"caf\xe9.html"), HTML)
    except OSError:
        pytest.skip("this file system takes no such name")
    [(page, source)] = found(tmp_path)
    assert (page.url, source) == ("caf\ufffd.html", "caf\ufffd.html")


def test_paths_have_an_earlier_name() -> None:
    def paths(**given) -> tuple[Path, ...]:
        return PagesSettings.model_validate(given).own_paths

    assert paths(paths="a") == paths(paths=["a"]) == paths(warc_files=["a"]) == (Path("a"),)
    assert paths(warc_files=[], paths=["b"]) == (Path("b"),)
    assert paths() == ()
    assert PagesSettings(warc_files=["a"]).model_dump()["paths"] == ["a"]
    assert paths(paths="~/a") == (Path.home() / "a",)
    with pytest.raises(ValueError, match="paths and warc_files are both given"):
        paths(warc_files=["a"], paths=["b"])
    with pytest.raises(ValueError, match="at least 1 character"):
        paths(paths="")


@pytest.mark.parametrize(
    "start", [b'\xef\xbb\xbf{"text": ', b'{ "text": ', b'  {"text": ', b'{\t"text": ']
)
def test_json_lines_are_recognized_with_blanks_and_a_byte_order_mark(
    tmp_path: Path, start: bytes
) -> None:
    made(
        tmp_path, "rows", start + b'"words of a page"}\n' + start.strip(b"\xef\xbb\xbf") + b'"b"}\n'
    )
    [(first, _), (second, _)] = found(tmp_path)
    assert (first.payload, second.payload) == (b"words of a page", b"b")


@pytest.mark.parametrize("text", [b'[\n {\n  "text": "words"\n }\n]\n', b'[{"text": "words"}]'])
def test_a_json_file_that_is_one_array_is_refused_and_not_read_as_text(
    tmp_path: Path, text: bytes
) -> None:
    made(tmp_path, "array.json", text)
    with pytest.raises(UserError, match=r"array\.json: not JSON lines: .* object in each line"):
        found(tmp_path / "array.json")


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("one/en", "one/web", "two/web"):
        made(tmp_path, f"{folder}/a.jsonl", JSON)
    en, web, other = (tmp_path / name for name in ("one/en", "one/web", "two/web"))
    assert [source for _, source in found(en)] == ["a.jsonl"]
    assert [source for _, source in found(en, web)] == ["en/a.jsonl", "web/a.jsonl"]
    assert [page.url for page, _ in found(en / "a.jsonl", web)] == ["en/a.jsonl:1", "web/a.jsonl:1"]
    whole = [f"{folder.as_posix()}/a.jsonl" for folder in (en, web, other)]
    assert [source for _, source in found(en, web, other)] == whole
