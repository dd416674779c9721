"""Reading and writing WARC files: round trip, same bytes, WET and WAT files, and files broken in
every way.
"""

import base64
import gzip
import hashlib
import tracemalloc
from io import BytesIO
from pathlib import Path

import pytest
from shared_data import REAL_CRAWL, needs_shared_data
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipeline.sources.warc_files import (
    MAX_HTTP_HEADER_BYTES,
    LostPage,
    Page,
    has_right_digest,
    read_answers,
    read_warc,
    write_warc,
)
from lm_core.user_error import UserError

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


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_record_whose_bytes_do_not_have_its_digest_is_lost(tmp_path, name):
    write_warc(tmp_path / "good.warc.gz", PAGES)
    stored = gzip.decompress((tmp_path / "good.warc.gz").read_bytes())
    changed = stored.replace(b"<p>one</p>", b"<p>own</p>", 1)
    (tmp_path / name).write_bytes(gzip.compress(changed) if name.endswith("z") else changed)
    lost, *others = read_answers(tmp_path / name)
    assert isinstance(lost, LostPage) and lost.reason == "damaged"
    assert lost.detail == "record 1 (pydoc://json): its bytes do not have its WARC-Block-Digest"
    assert others == PAGES[1:]


@pytest.mark.parametrize("digest", ["", "sha1", "sha1:abc", "crc32:AAAAAAA", "sha1:" + "A" * 33])
def test_digests_that_cannot_be_checked_are_passed_over(digest):
    assert has_right_digest(b"block", digest)
    assert not has_right_digest(b"block", "sha1:" + "A" * 32)


@pytest.mark.parametrize("name", ["sha1", "sha256", "md5"])
def test_digests_in_both_ways_to_write_them(name):
    found = hashlib.new(name, b"block").digest()
    for written in (base64.b32encode(found).decode(), found.hex(), found.hex().upper()):
        for label in (name, name.upper(), name.replace("sha", "SHA-")):
            assert has_right_digest(b"block", f" {label}:{written}\n")
            assert has_right_digest(b"block", f"{label}:{written.rstrip('=')}")
            assert not has_right_digest(b"blocK", f"{label}:{written}")


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
def test_a_file_cut_anywhere_gives_whole_pages_and_names_the_cut(tmp_path, compressed):
    whole, cut = tmp_path / "whole.warc.gz", tmp_path / "cut.warc.gz"
    write_warc(whole, PAGES)
    data = whole.read_bytes() if compressed else gzip.decompress(whole.read_bytes())
    unnoticed = 0
    for length in range(300 if compressed else 40, len(data), 5):
        cut.write_bytes(data[:length])
        *pages, last = read_answers(cut)
        if isinstance(last, LostPage):
            assert last.reason == "cut off"
            assert f"record {len(pages) + 1} is cut off" in last.detail
        else:  # cut between two records, or inside the blank lines that end one
            pages.append(last)
            unnoticed += 1
        assert pages == PAGES[: len(pages)]
    assert unnoticed <= 4, "cuts inside a record went unnoticed"


def test_damage_is_named_by_record_and_place(tmp_path):
    path = tmp_path / "a.warc.gz"
    write_warc(path, PAGES)
    data = bytearray(path.read_bytes())
    second = data.index(b"\x1f\x8b\x08", 10)
    data[second + 100] ^= 0xFF
    path.write_bytes(data[:-20])
    page, damaged, cut = read_answers(path)
    assert page == PAGES[0]
    assert damaged.reason == "damaged"
    assert damaged.detail.startswith(
        f"record 2 is damaged: the gzip member at byte {second} (Error -3 while decompressing"
    )
    assert cut.detail.startswith("record 3 is cut off: the gzip member at byte ")
    assert list(read_warc([path])) == [page]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such WARC file"),
        (b"", "is empty"),
        (b"hello, this is text\n", "no WARC record"),
        (b"\x1f\x8b\x08", "off"),
    ],
    ids=["missing", "empty", "text", "cut"],
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
    with pytest.raises(ValueError, match=r"none of its 1 records \(1 response\) is a page"):
        list(read_warc([path]))


def warc(kind: bytes, content_type: bytes, block: bytes, url: bytes = b"http://e.org/") -> bytes:
    """Return a record as text, with one line for each header."""
    head = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: %s\r\n" % (kind, url)
    more = b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (content_type, len(block))
    return (head + more).replace(b"WARC-Target-URI: \r\n", b"") + block + b"\r\n\r\n"


TEXT = "Zwei Zeilen.\n다음 줄.\n".encode()
WET = [
    warc(b"warcinfo", b"application/warc-fields", b"Software-Info: x", b""),
    warc(b"conversion", b"text/plain", TEXT),
]
WAT = [WET[0], warc(b"metadata", b"application/json", b"{}"), warc(b"metadata", b"a/b", b"{}")]
HTTP = b"application/http; msgtype=response"


def response(head: bytes, body: bytes) -> bytes:
    return warc(b"response", HTTP, b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)


def found(path: Path, records: list[bytes], max_bytes: int = 1000) -> list[Page | LostPage]:
    path.write_bytes(b"".join(map(gzip.compress, records)))
    return list(read_answers(path, max_bytes))


def test_the_text_of_a_wet_file_is_a_page(tmp_path):
    text = Page("http://e.org/", "text/plain", TEXT, "utf-8")
    assert found(tmp_path / "a", WET) == [text]
    with_charset = warc(b"conversion", b"text/plain; charset=utf-8", TEXT)
    html = response(b"Content-Type: text/html\r\n", b"<p>")
    page = Page("http://e.org/", "text/html", b"<p>", "")
    assert found(tmp_path / "a", [*WET, html, with_charset, *WAT]) == [text, page, text]
    pdf = warc(b"conversion", b"application/pdf", b"%PDF")
    nameless = warc(b"conversion", b"text/plain", TEXT, b"")
    large = warc(b"conversion", b"text/plain", b"x" * 1001)
    no_url, too_large = found(tmp_path / "a", [pdf, nameless, large])
    assert (no_url.reason, too_large.reason) == ("odd WARC record", "too large")


def test_a_wat_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"its 3 records \(2 metadata, 1 warcinfo\)") as caught:
        found(tmp_path / "a", WAT)
    assert "not a WAT or index file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_responses_that_are_odd(tmp_path):
    chunked = b"Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n"
    good = response(b"Content-Type: text/html\r\n", b"<p>good")
    bomb = gzip.compress(b"x" * 100_000)
    nameless = warc(b"response", HTTP, b"HTTP/1.1 200 OK\r\n\r\n", b"")
    cases = [
        (response(b"", b"<p>no type"), b"<p>no type"),
        (response(chunked, b"2\r\nabcdefgh\r\n0\r\n\r\n"), "damaged body"),
        (response(chunked, b"FFFFFFFFFFFF\r\nabc"), b"abc"),
        (response(chunked, b"3\r\nabc\r\n9\r\nde"), b"abcde"),
        (response(b"Content-Encoding: gzip\r\n", bomb), "too large"),
        (nameless, "odd WARC record"),
        (good.replace(b"\r\n", b"\n"), "odd WARC record"),  # its length counts the \r
        (warc(b"response", HTTP, b"HTTP/1.1 200 OK\n\nab").replace(b"\r\n", b"\n"), b"ab"),
    ]
    answers = found(tmp_path / "a", [record for case, _ in cases for record in (case, good)])
    assert [a.payload for a in answers[1::2]] == [b"<p>good"] * len(cases)
    assert answers[0].content_type == "text/html"
    told = [a.payload if isinstance(a, Page) else a.reason for a in answers[::2]]
    assert told == [expected for _, expected in cases]


def test_headers_without_end_cost_one_page(tmp_path):
    good = response(b"", b"good")
    long = response(b"A: 1\r\n" + b" 2\r\n" * 100_000, b"long")
    missing = long.replace(b"200 OK", b"404 No")
    first, lost, last = found(tmp_path / "a", [good, long, missing, good])
    assert (first.payload, last.payload) == (b"good", b"good")
    assert (lost.url, lost.reason) == ("http://e.org/", "too large")
    assert lost.detail == "record 2 (http://e.org/): more than 262,144 bytes of headers"


def test_a_bomb_in_a_member_costs_itself_alone(tmp_path):
    bomb = response(b"", b"0" * 30_000_000)
    good = response(b"", b"good")
    lost, page = found(tmp_path / "a", [bomb, good])
    assert (lost.reason, page.payload) == ("too large", b"good")
    tracemalloc.start()
    assert len(list(read_answers(tmp_path / "a", 1000))) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000 + MAX_HTTP_HEADER_BYTES


@needs_shared_data
def test_a_real_crawl_is_read():
    pages = list(read_warc([REAL_CRAWL]))
    home = next(page for page in pages if page.url == "http://www.iana.org/")
    assert home.content_type == "text/html"
    assert b"Internet Assigned Numbers Authority" in home.payload  # gzip and chunks undone
