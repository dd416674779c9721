"""Reading and writing WARC files: round trip, same bytes, and files broken in every way."""

import gzip
from io import BytesIO
from pathlib import Path

import pytest
from shared_data import REAL_CRAWL, needs_shared_data
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipeline.sources.warc_files import Page, read_warc, write_warc

PAGES = [
    Page("pydoc://json", "text/html", b"<p>one</p>" * 50, "utf-8"),
    Page("http://example.com/", "text/plain", "zwölf".encode("latin-1"), "latin-1"),
    Page("readme://x", "text/markdown", b"# no charset", ""),
]


def write_records(path: Path, records: list[tuple[str, str, str]], compress: bool = True) -> None:
    """Write records of (type, status line, content type) with warcio itself."""
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=compress)
        for number, (kind, status, content_type) in enumerate(records):
            headers = StatusAndHeaders(
                status, [("Content-Type", content_type)], protocol="HTTP/1.0"
            )
            record = writer.create_warc_record(
                f"http://example.com/{number}",
                kind,
                payload=BytesIO(b"text"),
                length=4,
                http_headers=headers,
            )
            writer.write_record(record)


def test_pages_come_back_as_they_were_written(tmp_path):
    assert write_warc(tmp_path / "a.warc.gz", PAGES) == 3
    assert list(read_warc([tmp_path / "a.warc.gz"])) == PAGES


def test_the_same_pages_give_the_same_bytes(tmp_path):
    for name in ("a.warc.gz", "b.warc.gz"):
        write_warc(tmp_path / name, PAGES)
    assert (tmp_path / "a.warc.gz").read_bytes() == (tmp_path / "b.warc.gz").read_bytes()


def test_only_answers_with_status_200_are_pages(tmp_path):
    path = tmp_path / "a.warc.gz"
    records = [
        ("request", "GET / HTTP/1.0", "text/html"),
        ("response", "404 Not Found", "text/html"),
        ("response", "200 OK", 'Text/HTML; Charset="ISO-8859-2"'),
        ("revisit", "200 OK", "text/html"),
    ]
    write_records(path, records)
    pages = list(read_warc([path]))
    assert [(p.url, p.content_type, p.charset) for p in pages] == [
        ("http://example.com/2", "text/html", "ISO-8859-2")
    ]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_cut_anywhere_raises_or_gives_whole_pages_only(tmp_path, compressed):
    whole, cut = tmp_path / "whole.warc.gz", tmp_path / "cut.warc.gz"
    write_warc(whole, PAGES)
    data = whole.read_bytes() if compressed else gzip.decompress(whole.read_bytes())
    whole_prefixes = 0
    for length in range(1, len(data), 5):
        cut.write_bytes(data[:length])
        try:
            pages = list(read_warc([cut]))
        except ValueError as error:
            assert str(cut) in str(error)
            assert "\n" not in str(error)
        else:  # cut between two records, or inside the blank lines that end one
            assert pages == PAGES[: len(pages)]
            whole_prefixes += 1
    assert whole_prefixes <= 4, "cuts inside a record went unnoticed"


def test_a_cut_file_is_reported_with_file_record_and_remedy(tmp_path):
    path = tmp_path / "a.warc.gz"
    write_warc(path, PAGES)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.warc\.gz: record 3 is cut off; fetch"):
        list(read_warc([path]))


def test_a_damaged_byte_is_reported(tmp_path):
    path = tmp_path / "a.warc.gz"
    write_warc(path, PAGES)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"record \d is (damaged|cut off)"):
        list(read_warc([path]))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such WARC file"), (b"", "is empty"), (b"hello, this is text\n", "no WARC record")],
)
def test_a_file_that_is_no_warc_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.warc.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_warc([path]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_pages_is_refused(tmp_path):
    path = tmp_path / "a.warc.gz"
    write_records(path, [("response", "404 Not Found", "text/html")])
    with pytest.raises(ValueError, match="none of its 1 records is a page"):
        list(read_warc([path]))


@needs_shared_data
def test_a_real_crawl_is_read():
    pages = list(read_warc([REAL_CRAWL]))
    home = next(page for page in pages if page.url == "http://www.iana.org/")
    assert home.content_type == "text/html"
    assert b"Internet Assigned Numbers Authority" in home.payload  # gzip and chunks undone
