"""Records compared with warcio on whole files; malformed records and damaged files, of which no
other record is lost.
"""

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from shared_data import CRAWLS
from warcio.archiveiterator import ArchiveIterator

from data_pipeline.compressed.member_stream import RE_READ_BYTES
from data_pipeline.sources.warc_files import LostPage, Page, read_answers, read_warc
from data_pipeline.sources.warc_records import parse_headers, read_records
from lm_core.user_error import UserError

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


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


PACK: dict[str, Callable[[list[bytes]], bytes]] = {
    "members": lambda records: b"".join(map(gzip.compress, records)),
    "one member": lambda records: gzip.compress(b"".join(records)),
    "plain": b"".join,
    "frames": lambda records: b"".join(map(zstd, records)),
    "one frame": lambda records: zstd(b"".join(records)),
}
FORMS = list(PACK)


def write(path: Path, records: list[bytes], form: str) -> Path:
    """Write records as single gzip members or zstd frames, as one, or without compression."""
    path.write_bytes(PACK[form](records))
    return path


def numbered(count: int) -> list[bytes]:
    """Return records of different pages, some 500 bytes each, that do not shrink to nothing."""
    words = random.Random(13)
    texts = [b" ".join(b"%x" % words.getrandbits(24) for _ in range(50)) for _ in range(count)]
    return [record(OK + text, b"http://e.org/%d" % n) for n, text in enumerate(texts)]


def told(path: Path) -> list[int | str]:
    """Return the number in each page's URL, and for a lost one the reason."""
    return [
        int(a.url.rpartition("/")[2]) if isinstance(a, Page) else a.reason
        for a in read_answers(path)
    ]


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
    values = [b"a: 1", b"\t 2 ", b" ", b"A:", b"b:", b"a :", b" 3", b"x", b" 4", b"B:", b" "]
    assert parse_headers(values) == {"a": "1 2, 3", "b": ""}


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


@pytest.mark.parametrize("form", ["members", "plain", "frames"])
def test_every_cut_keeps_the_records_before_it(tmp_path, form):
    records = numbered(3)
    ends = [len(PACK[form](records[:n])) for n in range(1, 4)]
    begun = 40 if form == "plain" else 120  # the version line can be read
    data = PACK[form](records)
    for length in {*range(1, len(data), 7), *(end + n for end in ends[:2] for n in range(-9, 9))}:
        (tmp_path / "a").write_bytes(data[:length])
        whole = sum(length >= end for end in ends)
        if whole or (length > begun and form != "frames"):
            expected = [*range(whole), *([] if length in ends else ["cut off"])]
            if form == "plain" and length + 4 in [end + n for end in ends for n in range(4)]:
                expected[-1] = whole  # only its blank lines are cut off
            assert told(tmp_path / "a") == expected, length
        elif length < 10:
            with pytest.raises(UserError, match="contains no WARC record"):
                told(tmp_path / "a")


def test_a_cut_in_one_member_keeps_the_records_before_it(tmp_path):
    data = write(tmp_path / "a", numbered(9), "one member").read_bytes()
    for length in (len(data) // 2, len(data) - 9, len(data) - 1):
        (tmp_path / "a").write_bytes(data[:length])
        *pages, last = told(tmp_path / "a")
        assert pages == list(range(len(pages)))
        assert len(pages) > 2
        assert last == "cut off"
    assert len(pages) == 8


DAMAGE = {  # of the second of three members, each on a file of its own
    "cut off in the middle": lambda m: m[: len(m) // 2],
    "without its checksum": lambda m: m[:-8],
    "wrong checksum": lambda m: m[:-8] + bytes([m[-8] ^ 1]) + m[-7:],
    "wrong length": lambda m: m[:-1] + bytes([m[-1] ^ 1]),
    "flipped in the middle": lambda m: m[: len(m) // 2] + b"\xff\0" + m[len(m) // 2 + 2 :],
    "not deflate": lambda m: m[:10] + b"\xff" * 50 + m[60:],
    "reserved flags": lambda m: m[:3] + b"\xe0" + m[4:],
    "an extra field that has no end": lambda m: m[:3] + b"\x04" + m[4:10] + b"\xff" + m[11:],
    "no magic": lambda m: b"\x1f\x8c" + m[2:],
    "garbage": lambda m: random.Random(1).randbytes(100_000),
    "garbage with gzip's first bytes": lambda m: b"\x1f\x8b\x08\0garbage" * 20,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_member_costs_itself_alone(tmp_path, name):
    one, two, three = map(gzip.compress, numbered(3))
    (tmp_path / "a").write_bytes(one + DAMAGE[name](two) + three)
    first, lost, last = read_answers(tmp_path / "a")
    assert [first.url, last.url] == ["http://e.org/0", "http://e.org/2"]
    assert isinstance(lost, LostPage)
    assert lost.reason == "damaged"
    assert lost.detail.startswith("record 2 is ")
    assert f"at byte {len(one):,}" in lost.detail
    (tmp_path / "a").write_bytes(one + three + DAMAGE[name](two))
    assert told(tmp_path / "a")[:2] == [0, 2]
    assert told(tmp_path / "a")[2] in ("damaged", "cut off")


def test_a_search_that_is_given_up_is_told(tmp_path):
    one, two = map(gzip.compress, numbered(2))
    starts = b"\x1f\x8b\x08" * 2000
    for between, what in {
        starts: f"record 2 is damaged: the gzip member at byte {len(one):,} (",
        b"zz" + starts: f"record 2 is {6002 + len(two):,} bytes at byte {len(one):,} that are not",
    }.items():
        (tmp_path / "a").write_bytes(one + between + two)
        page, lost = read_answers(tmp_path / "a")
        assert (page.url, lost.reason) == ("http://e.org/0", "damaged")
        assert lost.detail.startswith(what)
        assert lost.detail.count("the search for the next record was given up at byte ") == 1
        read = int(lost.detail.rpartition(", after ")[2].partition(" ")[0].replace(",", ""))
        assert 0 < read - RE_READ_BYTES - 4 * (tmp_path / "a").stat().st_size < 10_000
        (tmp_path / "a").write_bytes(between + two)
        with pytest.raises(UserError, match=r"no WARC record \(.*the search .* was given up at"):
            told(tmp_path / "a")
        (tmp_path / "a").write_bytes(one + between[:300] + two)
        assert told(tmp_path / "a") == [0, "damaged", 1]


def test_damage_in_one_member_keeps_the_records_before_it(tmp_path):
    data = bytearray(write(tmp_path / "a", numbered(9), "one member").read_bytes())
    data[-5] ^= 1  # the checksum
    (tmp_path / "a").write_bytes(data + gzip.compress(record(url=b"http://e.org/9")))
    assert told(tmp_path / "a") == [*range(8), "damaged", 9]


@pytest.mark.parametrize("form", FORMS)
def test_padding_is_not_damage(tmp_path, form):
    records = numbered(4)
    data = [PACK[form](records[:2]), PACK[form](records[2:])]
    (tmp_path / "a").write_bytes(data[0] + b"\0" * 70_000 + data[1] + b"\0" * 9)
    assert told(tmp_path / "a") == [0, 1, 2, 3]


@pytest.mark.parametrize("form", FORMS)
def test_garbage_between_records_is_told(tmp_path, form):
    records = numbered(3)
    parts = [PACK[form]([one]) for one in records]
    (tmp_path / "a").write_bytes(b"some garbage\n".join(parts) + b"more\n")
    reason = "odd WARC record" if form == "plain" else "damaged"
    assert told(tmp_path / "a") == [0, reason, 1, reason, 2, reason]


def test_garbage_before_the_first_member(tmp_path):
    data = PACK["members"](numbered(3))
    (tmp_path / "a").write_bytes(b"\x1e" + data[1:])
    assert told(tmp_path / "a") == ["damaged", 1, 2]
    first = next(iter(read_answers(tmp_path / "a")))
    assert "at byte 0 that are not a gzip member" in first.detail


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_version_line_costs_one_record(tmp_path, form):
    records = numbered(3)
    records[1] = records[1].replace(b"WARC/1.0", b"VARC/1.0")
    path = write(tmp_path / "a", records, form)
    assert told(path) == [0, "odd WARC record", 2]


@pytest.mark.parametrize("form", FORMS)
def test_a_header_without_end_costs_one_record(tmp_path, form):
    records = numbered(6)
    records[1] = records[1].partition(b"Content-Type")[0]
    records[3] = b"WARC/1.0\r\n" + b"X-Long: " + b"x" * 400_000 + b"\r\n"
    odd = "odd WARC record"
    assert told(write(tmp_path / "a", records, form)) == [0, odd, 2, odd, 4, 5]
    records[5] = records[5].partition(b"Content-Type")[0]
    last = told(write(tmp_path / "a", records, form))[-1]
    assert last == ("cut off" if form == "plain" else odd)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limit", [1_000, 10_000_000])
def test_ten_gigabytes_that_are_not_there(tmp_path, form, limit):
    records = numbered(3)
    records[1] = record(url=b"http://e.org/1", length=b"10000000000")
    path = write(tmp_path / "a", records, form)
    tracemalloc.start()
    found = [(r.number, r.length, bool(r.odd)) for r in read_records(path, limit)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(number, odd) for number, _, odd in found] == [(1, False), (2, True), (3, False)]
    assert found[1][1] < 1000, "the report counts bytes that are not there"
    assert peak < 2_000_000


@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_the_file(tmp_path, form):
    peaks = []
    page = record(OK + random.Random(4).randbytes(30_000))
    for count in (20, 200):
        path = write(tmp_path / "a", [page] * count, form)
        tracemalloc.start()
        assert sum(1 for _ in read_answers(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_flips_and_cuts(tmp_path):
    """One flipped bit, or one cut, of members of one record each: one record is lost."""
    chance = random.Random(17)
    records = numbered(12)
    whole = {a.payload for a in read_answers(write(tmp_path / "a", records, "members"))}
    data = (tmp_path / "a").read_bytes()
    assert len(whole) == len(records)
    for _ in range(60):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "a").write_bytes(flipped)
        answers = list(read_answers(tmp_path / "a"))
        pages = [a.payload for a in answers if isinstance(a, Page)]
        assert whole.issuperset(pages)
        assert len(pages) >= len(records) - 1
        assert len(answers) == len(records)
        start, end = sorted(chance.choices(range(200, len(data)), k=2))
        (tmp_path / "a").write_bytes(data[:start] + data[end:])
        answers = list(read_answers(tmp_path / "a"))
        assert whole.issuperset(a.payload for a in answers if isinstance(a, Page))
        gone = b"".join(map(gzip.compress, records))[start:end]
        assert len(records) - len(answers) <= gone.count(b"\x1f\x8b\x08")


def test_a_dictionary_is_refused_in_one_line(tmp_path):
    dictionary = b"\x5d\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    (tmp_path / "a").write_bytes(dictionary + PACK["frames"](numbered(2)))
    with pytest.raises(
        UserError, match="compressed with a zstd dictionary, which is not"
    ) as caught:
        told(tmp_path / "a")
    assert "\n" not in str(caught.value)


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
