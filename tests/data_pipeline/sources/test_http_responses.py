"""HTTP responses: types and charsets, chunks, and every content coding."""

import base64
import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources.http_responses import (
    MAX_GZIP_MEMBERS,
    PACKED_BYTES,
    UnreadableAnswer,
    join_chunks,
    parse_answer,
    split_content_type,
    type_without_header,
    unpacked_body,
)
from data_pipeline.sources.warc_records import MAX_HEADER_BYTES

BODY = b"<p>" + b"A sentence of the page that was stored. " * 3 + b"</p>"
# packed by the packages brotli 1.2.1 and zstandard 0.25.0
BROTLI = base64.b85decode(
    "8-4(2Ee>p3VEJrNZ0XF8Q0WcALpHbQ?$Rd+uENj~#H9>2;D9~C^2zw}p~{w<r?uP&-3qM>T`fQv"
)
ZSTD = base64.b85decode(
    "D77#BAb-690Q3Spa6UmGb7gLHWo~0-Aa7<MbZBKDaA9X<AarP9bRc(Ob0BkcZ*pa1E+9NFa6SP5>xHT^"
)


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def answer(coding: str, body: bytes, transfer: str = "") -> bytes:
    head = "HTTP/1.1 200 OK\r\n" + (f"Content-Encoding: {coding}\r\n" if coding else "")
    head += f"Transfer-Encoding: {transfer}\r\n" if transfer else ""
    return head.encode() + b"\r\n" + body


def body_of(message: bytes, max_bytes: int = 10**6) -> bytes:
    return unpacked_body(parse_answer(message), max_bytes)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY)),
        ("GZip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
        ("gzip", gzip.compress(BODY) + b"\0\0 padding"),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("x-deflate", raw_deflate(BODY)),
        ("br", BROTLI),
        ("zstd", ZSTD),
        ("gzip, br", None),
        ("deflate,identity , gzip", gzip.compress(zlib.compress(BODY))),
        ("gzip\r\nContent-Encoding: gzip", gzip.compress(gzip.compress(BODY))),
        ("utf-8", BODY),
        ("text/html", BODY),
        ("UTF8", BODY),
        ("*", BODY),
        ("ISO-8859-1", BODY.replace(b"A", b"\xc4")),
        ("utf8, gzip", gzip.compress(BODY)),
        ('"gzip"', gzip.compress(BODY)),
        ("gzip;q=1.0", gzip.compress(BODY)),
        ("brotli", BROTLI),
        ("x-zstd", ZSTD),
        ("", gzip.compress(BODY)),
        ("identity", ZSTD),
    ],
)
def test_codings_are_undone(coding, packed):
    if packed is None:  # brotli's stored blocks: a stream with the raw bytes
        packed = stored_brotli(gzip.compress(BODY))
    assert body_of(answer(coding, packed)) == BODY.replace(
        *((b"A", b"\xc4") if coding == "ISO-8859-1" else (b"", b""))
    )


def stored_brotli(data: bytes) -> bytes:
    """RFC 7932, section 9.2, by hand: window bits 16, one block without compression, the end."""
    bits = 0b0 | 0b0 << 1 | 0b00 << 2 | (len(data) - 1) << 4 | 1 << 20
    return bits.to_bytes(3, "little") + data + b"\x03"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, br"])
def test_a_body_that_the_crawler_unpacked_is_taken_as_it_is(coding):
    assert body_of(answer(coding, BODY)) == BODY
    assert body_of(answer(coding, b"")) == b""


PACKED = {"gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY), "br": BROTLI, "zstd": ZSTD}


@pytest.mark.parametrize("coding", PACKED)
def test_packed_bytes_never_count_as_text(coding):
    packed = PACKED[coding]
    damaged = [packed[:length] for length in range(len(packed) // 3, len(packed))]
    for body in [*damaged, b"\x1b\x04\x01 some packed bytes", b"\0" + packed]:
        with pytest.raises(UnreadableAnswer) as caught:
            assert body_of(answer(coding, body)) == BODY, "a cut body decoded as if it were whole"
            raise UnreadableAnswer("damaged body", "only a checksum was lost")
        assert caught.value.reason == "damaged body"


@pytest.mark.parametrize("coding", ["compress", "x-unheard-of", "gzip, x-unheard-of", "exi"])
def test_an_unknown_coding_has_a_reason_of_its_own(coding):
    with pytest.raises(UnreadableAnswer) as caught:
        body_of(answer(coding, b"\x1f\x9d\x90" + BODY))
    assert caught.value.reason == "content coding not known"


def test_many_codings_are_refused():
    with pytest.raises(UnreadableAnswer, match="content coding not known"):
        body_of(answer(",".join(["gzip"] * 50), BODY))


def test_a_bomb_is_noticed_before_it_is_unpacked():
    zeros = b"\0" * 30_000_000
    bombs = {"gzip": gzip.compress(zeros), "deflate": zlib.compress(zeros)}
    bombs["gzip, gzip"] = gzip.compress(bombs["gzip"])
    for coding, bomb in bombs.items():
        with pytest.raises(UnreadableAnswer) as caught:
            body_of(answer(coding, bomb), max_bytes=1_000_000)
        assert caught.value.reason == "too large"
    with pytest.raises(UnreadableAnswer, match="too large"):
        body_of(answer("br", BROTLI), max_bytes=50)
    with pytest.raises(UnreadableAnswer, match="too large"):
        body_of(answer("zstd", ZSTD), max_bytes=50)
    with pytest.raises(UnreadableAnswer, match="too large"):
        body_of(answer("", BODY), max_bytes=50)


def test_members_that_end_anywhere_in_the_bytes_given_to_zlib():
    noise = random.Random(3).randbytes(2 * PACKED_BYTES)
    for size in range(PACKED_BYTES - 30, PACKED_BYTES + 3):
        parts = [noise[:size], b"", b"a", noise[size:], b"x" * 600_000, b"end"]
        packed = b"".join(gzip.compress(part, 1) for part in parts)
        assert body_of(answer("gzip", packed)) == b"".join(parts)


def test_more_gzip_members_than_any_server_sends_are_too_large():
    empty, full = gzip.compress(b""), gzip.compress(BODY)
    assert body_of(answer("gzip", empty * (MAX_GZIP_MEMBERS - 1) + full)) == BODY
    for members in (empty * MAX_GZIP_MEMBERS + full, empty * 9 * MAX_GZIP_MEMBERS):
        with pytest.raises(UnreadableAnswer) as caught:
            body_of(answer("gzip", members))
        assert caught.value.reason == "too large"
        assert caught.value.detail == "more than 10,000 gzip members"


def test_headers_have_a_limit():
    start = b"HTTP/1.1 200 OK\r\nA: 1\r\n"
    line = b" " * (MAX_HEADER_BYTES - len(start) - 1) + b"2"
    found = parse_answer(start + line + b"\r\n\r\n" + BODY)
    assert (found.headers, found.body) == ({"a": "1 2"}, BODY)
    for end in (b"\r\n\r\n" + BODY, b""):
        with pytest.raises(UnreadableAnswer) as caught:
            body_of(start + b" " + line + end)
        assert caught.value.reason == "too large"
        assert caught.value.detail == "more than 262,144 bytes of headers"


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in parts) + end


@pytest.mark.parametrize(
    ("stored", "joined"),
    [
        (chunks(b"abc", b"d" * 20), b"abc" + b"d" * 20),
        (b"3\nabc\n0\n\n", b"abc"),
        (b"0\r\n\r\n", b""),
        (b"", b""),
        (chunks(b"abc", end=b""), b"abc"),  # the rest was cut off
        (b"10\r\nabc", b"abc"),
        (b"<p>joined by the crawler</p>", b"<p>joined by the crawler</p>"),
        (b"-3\r\nabc", b"-3\r\nabc"),
    ],
)
def test_chunks(stored, joined):
    assert join_chunks(stored) == joined


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
def test_chunks_of_any_bytes_come_back(parts):
    assert join_chunks(chunks(*parts)) == b"".join(parts)


def test_chunks_are_joined_before_the_coding_is_undone():
    packed = gzip.compress(BODY)
    message = answer("gzip", chunks(packed[:7], packed[7:]), "chunked")
    assert body_of(message) == BODY
    assert body_of(answer("", chunks(packed), "gzip, chunked")) == BODY
    with pytest.raises(UnreadableAnswer, match="no chunk begins at byte"):
        body_of(answer("", b"3\r\nabc\r\nxyz\r\n", "chunked"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("text/html", ("text/html", "")),
        ("text/html; charset=utf-8", ("text/html", "utf-8")),
        ("text/html charset=utf-8", ("text/html", "utf-8")),
        ("text/html,charset=utf-8", ("text/html", "utf-8")),
        (" Text/HTML;Charset = 'ISO-8859-2' ; x=y", ("text/html", "ISO-8859-2")),
        ('text/plain; format=flowed; charset="koi8-r"', ("text/plain", "koi8-r")),
        ("text/html;", ("text/html", "")),
        ("; charset=utf-8", ("", "utf-8")),
        ("text/html; x-charset=gbk; charset=utf-8", ("text/html", "utf-8")),
        ("", ("", "")),
    ],
)
def test_content_types(header, expected):
    assert split_content_type(header) == expected


@pytest.mark.parametrize(
    ("body", "identified", "expected"),
    [
        (b" \r\n<!DOCTYPE html>", "", "text/html"),
        (b"<HTML lang=ko>", "text/plain", "text/html"),
        (b"<!--", "", "text/html"),
        (b"<p>", "", "text/html"),
        (b"<picture>", "", ""),
        (b"%PDF-1.4 <html>", "", ""),
        (b"words", "Text/Plain; charset=x", "text/plain"),
        (b"", "", ""),
    ],
)
def test_types_without_a_header(body, identified, expected):
    assert type_without_header(body, identified) == expected


def test_what_comes_before_the_answer_is_passed_over():
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    found = parse_answer(b"\r\n" + early * 2000 + answer("", BODY))
    assert (found.status, found.body) == (200, BODY)
    assert parse_answer(b"HTTP/1.1 100 Continue\r\n\r\n").status == 100


@given(st.binary(max_size=80))
def test_any_message_is_read_or_refused(message):
    try:
        body_of(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n" + message)
        body_of(message)
    except UnreadableAnswer as error:
        assert error.reason
