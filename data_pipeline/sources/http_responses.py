"""An HTTP response as a crawl stored it -> its type, its charset and its unpacked body.

RFC 9112 (HTTP/1.1) for the message and its chunks, RFC 9110 section 8.4 for content codings. Many
crawlers undo a coding and keep its header, and some servers name a coding that does not exist. A
body that cannot be unpacked is used as it is if it is markup or UTF-8 and has no byte that never
occurs in text (the "binary data bytes" of the WHATWG's MIME Sniffing). Other crawlers drop the
header and leave the body packed: a body that begins like gzip or zstd is unpacked. Packed bytes
never count as text.

What this leaves out: the codings `compress` and `dcb`/`dcz`, which pages rarely use.
"""

import codecs
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from data_pipeline.sources.warc_records import MAX_HEADER_BYTES, Headers, parse_headers

STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]++(\d{3})(?!\d)")
HEAD_END = re.compile(rb"\r?\n\r?\n")
MEDIA_TYPE = re.compile(r"\s*+([^\s;,]++)")
CHARSET_PARAMETER = re.compile(r"(?<![\w-])charset\s*+=\s*+[\"']?([\w.:-]++)", re.IGNORECASE)
BINARY_BYTES = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
CHUNK_SIZE = re.compile(rb"[ \t]*+([0-9a-fA-F]{1,16})[ \t]*+(?:;[^\n]*+)?\r?\n")
HTML_START = re.compile(  # MIME Sniffing, section 7.1
    rb"(?i)[\t\n\f\r ]*+<(?:!--|(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style"
    rb"|title|b|body|br|p)[ >])"
)
PIECE_BYTES = 1 << 18  # unpacked at a time, to detect a decompression bomb before memory is full
PACKED_BYTES = 1 << 14  # given to zlib at a time: it copies what comes after the end of a stream
MAX_CODINGS = 4
MAX_GZIP_MEMBERS = 10_000  # of a body; an empty one costs time, too

NOT_HTTP, UNKNOWN_CODING, DAMAGED, TOO_LARGE = (
    "not an HTTP answer",
    "content coding not known",
    "damaged body",
    "too large",
)


class UnreadableAnswer(Exception):
    """A response whose body cannot be read; `reason` is one of the four above, `detail` says
    more.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Answer:
    """The parts of a message, with `head` (the status line and the headers) and `body` as they were
    stored.
    """

    status: int
    head: bytes
    body: bytes

    @cached_property
    def headers(self) -> Headers:
        """The headers by name. Raises UnreadableAnswer if they are longer than a record's may
        be.
        """
        if len(self.head) > MAX_HEADER_BYTES:
            raise UnreadableAnswer(TOO_LARGE, f"more than {MAX_HEADER_BYTES:,} bytes of headers")
        return parse_headers(self.head.split(b"\n")[1:])


def parse_answer(message: bytes) -> Answer:
    """Return status, head and stored body. Raises UnreadableAnswer if there is no status line."""
    message = message.lstrip(b"\r\n")  # RFC 9112, section 2.2
    found = STATUS_LINE.match(message)
    if found is None:
        start = message[:40].decode("ascii", "replace")
        raise UnreadableAnswer(NOT_HTTP, f"it begins with {start!r}" if message else "it is empty")
    start, head_end = 0, HEAD_END.search(message, found.end())
    while found[1].startswith(b"1") and head_end:  # 100 Continue: the response comes after it
        following = STATUS_LINE.match(message, head_end.end())
        if following is None:
            break
        start, found = head_end.end(), following
        head_end = HEAD_END.search(message, found.end())
    head = message[start : head_end.start()] if head_end else message[start:]
    body = message[head_end.end() :] if head_end else b""
    return Answer(int(found.group(1)), head, body)


def split_content_type(header: str) -> tuple[str, str]:
    """Return (media type, charset), each "" if the header has none; the semicolon between them may
    be missing.
    """
    found = MEDIA_TYPE.match(header)
    charset = CHARSET_PARAMETER.search(header, found.end() if found else 0)
    return found.group(1).lower() if found else "", charset.group(1) if charset else ""


def type_without_header(body: bytes, identified: str) -> str:
    """Return the media type of a body whose message has no Content-Type: HTML if it begins like
    it, as in browsers, and else what the crawler says (`identified`, "" if nothing).
    """
    return "text/html" if HTML_START.match(body) else split_content_type(identified)[0]


def unpacked_body(answer: Answer, max_bytes: int) -> bytes:
    """Return the body without chunks and codings.

    Raises UnreadableAnswer if a coding is unknown, the packed bytes are damaged, or the headers or
    the body are too large: more than `max_bytes`, or than MAX_GZIP_MEMBERS.
    """
    body = answer.body
    transfer = _listed(answer.headers.get("transfer-encoding", ""))
    if "chunked" in transfer:
        body = join_chunks(body)
    codings = _listed(answer.headers.get("content-encoding", ""))
    codings += [coding for coding in transfer if coding != "chunked"]
    codings = [coding for coding in codings if coding not in NO_CODING]
    if len(codings) > MAX_CODINGS:
        raise UnreadableAnswer(UNKNOWN_CODING, f"{len(codings)} codings on top of each other")
    for coding in reversed(codings):  # listed in the order in which they were applied
        body = _unpack(body, coding, max_bytes)
    for start, coding in PACKED_STARTS.items():
        if body.startswith(start):
            body = _unpack(body, coding, max_bytes)
    if len(body) > max_bytes:
        raise UnreadableAnswer(TOO_LARGE, f"more than {max_bytes:,} bytes")
    return body


def _listed(header: str) -> list[str]:
    """Return the names in a header, without quotes and parameters (`gzip;q=1.0`)."""
    names = (part.partition(";")[0].strip(" \t\"'").lower() for part in header.split(","))
    return [name for name in names if name]


def join_chunks(body: bytes) -> bytes:
    """Return the body of `Transfer-Encoding: chunked`.

    A body without chunks was joined by the crawler already. A chunk that the crawler cut off is
    kept as far as it goes.
    """
    pieces: list[bytes] = []
    position = 0
    while found := CHUNK_SIZE.match(body, position):
        size = int(found.group(1), 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[found.end() : found.end() + size])
        position = found.end() + size
        if position >= len(body):
            return b"".join(pieces)
        position += 2 if body.startswith(b"\r\n", position) else 1
    if not pieces:
        return body
    if position < len(body):
        raise UnreadableAnswer(DAMAGED, f"no chunk begins at byte {position:,}")
    return b"".join(pieces)


def _unpack(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Return the body without one coding, at most one byte more than `max_bytes`."""
    if not body:
        return body
    if coding not in UNPACKERS:
        if _is_text(body):
            return body
        raise UnreadableAnswer(UNKNOWN_CODING, f"{coding[:40]!r}")
    try:
        return UNPACKERS[coding](body, max_bytes)
    except (zlib.error, EOFError, OSError) as error:  # pyarrow's own are OSErrors
        if _is_text(body):
            return body
        reason = " ".join(str(error).split())[:80] or "it ends too early"
        raise UnreadableAnswer(DAMAGED, f"not {coding}: {reason}") from None


def _is_text(body: bytes) -> bool:
    """Return whether a body is text that a crawler has unpacked: markup or UTF-8, no binary
    byte.
    """
    if BINARY_BYTES.search(body):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body)  # it may end inside a character
    except UnicodeDecodeError:
        return body.lstrip().startswith(b"<")
    return True


def _too_large(max_bytes: int) -> UnreadableAnswer:
    return UnreadableAnswer(TOO_LARGE, f"more than {max_bytes:,} bytes when unpacked")


def _inflate(body: bytes, max_bytes: int, wbits: int) -> bytes:
    """Unpack consecutive zlib streams; bytes after the last one are ignored, as in browsers."""
    pieces: list[bytes] = []
    size = position = members = 0
    packed = memoryview(body)
    while position < len(body):
        members += 1
        if members > MAX_GZIP_MEMBERS:
            raise UnreadableAnswer(TOO_LARGE, f"more than {MAX_GZIP_MEMBERS:,} gzip members")
        decompressor = zlib.decompressobj(wbits=wbits)
        while not decompressor.eof:
            given = packed[position : position + PACKED_BYTES]
            piece = decompressor.decompress(given, PIECE_BYTES)
            position += len(given) - len(decompressor.unused_data or decompressor.unconsumed_tail)
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            if not (piece or given or decompressor.eof):
                raise EOFError
            pieces.append(piece)
        if wbits != GZIP or not body.startswith(b"\x1f\x8b", position):
            break
    return b"".join(pieces)


GZIP, ZLIB, RAW_DEFLATE = 31, 15, -15  # zlib's numbers for the container around the stream


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    return _inflate(body, max_bytes, GZIP)


def _undo_deflate(body: bytes, max_bytes: int) -> bytes:
    """Unpack a zlib stream, as RFC 9110 defines it, or a bare deflate stream, as some servers
    send.
    """
    try:
        return _inflate(body, max_bytes, ZLIB)
    except (zlib.error, EOFError):
        return _inflate(body, max_bytes, RAW_DEFLATE)


def _by_pyarrow(codec: str) -> Callable[[bytes, int], bytes]:
    """Return an unpacker that uses pyarrow, which includes brotli and zstd."""

    def unpack(body: bytes, max_bytes: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
            while piece := stream.read(PIECE_BYTES):
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                pieces.append(piece)
        return b"".join(pieces)

    return unpack


NO_CODING = frozenset({"identity", "none", "utf-8", "binary", "8bit", "7bit"})  # common slips
PACKED_STARTS = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undo_deflate,
    "x-deflate": _undo_deflate,
    "br": _by_pyarrow("brotli"),
    "brotli": _by_pyarrow("brotli"),
    "zstd": _by_pyarrow("zstd"),
    "x-zstd": _by_pyarrow("zstd"),
}
