"""Records compared with warcio on whole files, and malformed records, of which no other record is
lost.
"""

import gzip
import zlib
from pathlib import Path

import pytest
from shared_data import CRAWLS
from warcio.archiveiterator import ArchiveIterator

from data_pipeline.sources.warc_files import LostPage, Page, read_answers, read_warc
from data_pipeline.sources.warc_records import parse_headers, read_records

BODY = b"<p>" + b"A sentence of the page that was stored. " * 3 + b"</p>"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + BODY


def record(
    http: bytes = OK,
    url: bytes | None = b"http://e.org/",
    kind: bytes = b"response",
    length: bytes | None = None,
    version: bytes = b"WARC/1.0",
    more: bytes = b"",
) -> bytes:
    given = {
        b"WARC-Type": kind,
        b"WARC-Target-URI": url,
        b"WARC-Record-ID": b"<urn:uuid:00000000-0000-0000-0000-000000000001>",
        b"Content-Type": b"application/http; msgtype=response",
        b"Content-Length": b"%d" % len(http) if length is None else length,
    }
    lines = [name + b": " + value for name, value in given.items() if value is not None]
    return version + b"\r\n" + b"\r\n".join(lines) + b"\r\n" + more + b"\r\n" + http + b"\r\n\r\n"


def write(path: Path, records: list[bytes], form: str) -> Path:
    """Write records as single gzip members, as one member, or without compression."""
    members = {
        "members": lambda: b"".join(map(gzip.compress, records)),
        "one member": lambda: gzip.compress(b"".join(records)),
        "plain": lambda: b"".join(records),
    }
    path.write_bytes(members[form]())
    return path


FORMS = ["members", "one member", "plain"]


@pytest.mark.parametrize("path", CRAWLS, ids=lambda path: path.name)
def test_the_same_records_as_warcio(path):
    with path.open("rb") as file:
        theirs = [
            (r.rec_headers.get_header("WARC-Record-ID"), r.rec_type, r.length)
            for r in ArchiveIterator(file, no_record_parse=True)
        ]
    ours = [
        (r.headers["warc-record-id"], r.headers["warc-type"], r.length)
        for r in read_records(path, 10**9)
    ]
    assert ours == theirs
    assert all(len(r.block) == r.length and not r.odd for r in read_records(path, 10**9))


@pytest.mark.parametrize("form", FORMS)
def test_blocks_come_whole_and_no_longer_than_the_limit(tmp_path, form):
    contents = [bytes([n]) * size for n, size in enumerate((1, 70_000, 0, 300_000))]
    path = write(tmp_path / "a", [record(content) for content in contents], form)
    assert [r.block for r in read_records(path, 10**9)] == contents
    short = list(read_records(path, 10))
    assert [r.block for r in short] == [content[:10] for content in contents]
    assert [r.length for r in short] == list(map(len, contents))


def test_headers_by_hand():
    assert parse_headers([b"A: 1\r\n", b"b:2\n", b"  more\r\n", b"a: 3", b"nothing", b": x"]) == {
        "a": "1, 3",
        "b": "2 more",
    }
    assert parse_headers([b"A:\r\n", b" 1\r\n"]) == {"a": "1"}


ODD = {
    "no target URI": (record(url=None), "odd WARC record", "has no WARC-Target-URI"),
    "empty answer": (record(b""), "not an HTTP answer", "it is empty"),
    "bad status": (record(b"HTTP/1.1 OK\r\n\r\nx"), "not an HTTP answer", "'HTTP/1.1 OK"),
    "no HTTP": (record(BODY), "not an HTTP answer", "it begins with '<p>A sentence"),
    "length in words": (record(length=b"many"), "odd WARC record", "Content-Length 'many'"),
    "negative length": (record(length=b"-5"), "odd WARC record", "Content-Length '-5'"),
    "no length": (record().replace(b"Content-Length", b"X"), "odd WARC record", "Length ''"),
    "too short a length": (record(length=b"90"), "odd WARC record", "does not end where"),
    "no type": (record().replace(b"WARC-Type", b"X"), "odd WARC record", "has no WARC-Type"),
    "not gzip": (
        record(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\0\1\2"),
        "damaged body",
        "not gzip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_costs_itself_alone(tmp_path, name, form):
    odd, reason, detail = ODD[name]
    good = [record(url=b"http://e.org/%d" % n) for n in range(4)]
    path = write(tmp_path / "a", [good[0], good[1], odd, good[2], good[3]], form)
    answers = list(read_answers(path))
    assert [a.url for a in answers if isinstance(a, Page)] == [
        f"http://e.org/{n}" for n in range(4)
    ]
    assert all(a.payload == BODY for a in answers if isinstance(a, Page))
    lost = answers[2]
    assert isinstance(lost, LostPage)
    assert (lost.reason, lost.detail[:8]) == (reason, "record 3")
    assert detail in lost.detail
    only = write(tmp_path / "b", [odd], form)
    assert list(read_warc([only])) == [], "a malformed record does not make the file unreadable"


@pytest.mark.parametrize("length", [b"%d" % (len(OK) + more) for more in (5, 20, 300, 99999)])
@pytest.mark.parametrize("form", FORMS)
def test_a_length_into_or_beyond_the_next_record_costs_one_record(tmp_path, form, length):
    long = record(length=length, url=b"http://e.org/long")
    path = write(tmp_path / "a", [record(), long, record(), record()], form)
    assert [isinstance(a, Page) for a in read_answers(path)] == [True, False, True, True]


def test_a_member_that_is_not_a_record_is_counted(tmp_path):
    path = write(tmp_path / "a", [b"hello\nyou\n", record(), b"x" * 99, record()], "members")
    details = [a.detail if isinstance(a, LostPage) else "" for a in read_answers(path)]
    version = "does not begin with a WARC version"
    assert details == [f"record 1 {version}", "", f"record 3 {version}", ""]


def test_records_that_are_unusual_but_whole(tmp_path):
    records = [
        record(version=b"WARC/1.1"),
        record(version=b"WARC/0.17", url=b"<http://e.org/>"),
        record().replace(b"\r\n", b"\n", 6),
        record(b"HTTP/2 200\r\nContent-type:text/html\r\n\r\n" + BODY),
        record(b"HTTP/1.0 200 OK\ncontent-type: TEXT/HTML charset=utf-8\n\n" + BODY),
        record().replace(b"Content-Type: application/http; msgtype=response\r\n", b""),
        record(more=b"WARC-Folded: a\r\n b\r\n"),
    ]
    for form in FORMS:
        pages = list(read_warc([write(tmp_path / "a", records, form)]))
        assert [(p.url, p.content_type) for p in pages] == [("http://e.org/", "text/html")] * 7
        assert pages[4].charset == "utf-8"
        assert all(page.payload == BODY for page in pages)


@pytest.mark.parametrize("form", ["members", "one member"])
def test_every_cut_of_a_compressed_file_is_noticed(tmp_path, form):
    records = [record(url=b"http://e.org/%d" % n) for n in range(3)]
    data = write(tmp_path / "a", records, form).read_bytes()
    ends = {sum(len(gzip.compress(r)) for r in records[: n + 1]) for n in range(3)}
    for length in set(range(2, len(data))) - ends:
        (tmp_path / "a").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"a: record \d is cut off; fetch") as caught:
            list(read_warc([tmp_path / "a"]))
        if form == "members":
            number = sum(length > end for end in ends) + 1
            assert f"record {number} " in str(caught.value)


def test_a_record_that_unpacks_to_gigabytes_is_not_held(tmp_path):
    compressor = zlib.compressobj(9, wbits=31)
    zeros = b"\0" * 1_000_000
    head = record(b"HTTP/1.1 200 OK\r\n\r\n", length=b"%d" % (50 * len(zeros) + 19))[:-4]
    packed = [compressor.compress(head), *[compressor.compress(zeros) for _ in range(50)]]
    packed += [compressor.compress(b"\r\n\r\n"), compressor.flush()]
    (tmp_path / "a").write_bytes(b"".join(packed) + gzip.compress(record()))
    first, second = read_answers(tmp_path / "a", max_bytes=100_000)
    assert (first.reason, second.payload) == ("too large", BODY)
    assert max(len(r.block) for r in read_records(tmp_path / "a", 1000)) == 1000
