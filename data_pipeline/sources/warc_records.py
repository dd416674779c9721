"""A reader for the records of a WARC file (ISO 28500) that tolerates malformed records.

A crawl of millions of records contains malformed ones. The reader skips only that record and
continues with the next gzip member or, in an uncompressed file, at the next line that begins a
record. It rejects only a file that is cut off, damaged, or has no record at all. The package
warcio, which this project uses for writing, stops at the first malformed record.

What this leaves out: ARC files, WARC files compressed with zstd, records in several segments.
"""

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lm_core.user_error import UserError

RECORD_START = re.compile(rb"(?m)^WARC/\d")
NO_VERSION = "does not begin with a WARC version"
NO_END = "has a header that does not end"
TOO_SHORT = "is shorter than its Content-Length"
MAX_HEADER_BYTES = 1 << 18
BLOCK_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"

Headers = dict[str, str]  # names in lower case; values of a repeated one are joined by commas


@dataclass(frozen=True)
class Record:
    """A record of a WARC file.

    `odd` describes the record's fault in words ("" if it has none). `block` is cut off at the
    reader's limit; `length` is the length of the whole block.
    """

    number: int  # from 1, malformed ones included
    headers: Headers
    block: bytes
    length: int
    odd: str = ""


def parse_headers(lines: list[bytes]) -> Headers:
    """Return names and values; a line that begins with a space continues the one before it."""
    headers: Headers = {}
    name = ""
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text[:1] in (" ", "\t") and name:
            headers[name] = f"{headers[name]} {text.strip()}".strip()
            continue
        name, colon, value = text.partition(":")
        name = name.strip().lower() if colon else ""
        if name:
            headers[name] = ", ".join(filter(None, [headers.get(name, ""), value.strip()]))
    return headers


class MemberStream:
    """The decompressed bytes of a file.

    Reading stops at the end of each gzip member; `next_member` moves to the next one and skips any
    unread bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.packed = file.read(BLOCK_BYTES)
        self.is_gzip = self.packed.startswith(GZIP_MAGIC)
        self.decompressor = zlib.decompressobj(wbits=31)  # 31: a gzip header is expected
        self.member_ended = False
        self.buffer = bytearray()

    def _fill(self) -> bool:
        """Add to the buffer; return False at the end of the member.

        Raises EOFError or zlib.error if the file ends in the middle of a member or is damaged.
        """
        if self.member_ended:
            return False
        packed = self.packed or self.file.read(BLOCK_BYTES)
        if self.is_gzip:
            data = self.decompressor.decompress(packed, BLOCK_BYTES)
            self.member_ended = self.decompressor.eof
            self.packed = self.decompressor.unused_data or self.decompressor.unconsumed_tail
            if not (packed or data or self.member_ended):
                raise EOFError
        else:
            data, self.packed = packed, b""
            self.member_ended = not data
        self.buffer += data
        return bool(data) or not self.member_ended

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes, with which the next read will begin."""
        while len(self.buffer) < size and self._fill():
            pass
        return bytes(self.buffer[:size])

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end of the member."""
        data = self.peek(size)
        del self.buffer[: len(data)]
        return data

    def read_line(self) -> bytes:
        """Return a line with its end; a line longer than MAX_HEADER_BYTES comes in pieces."""
        start = 0
        while (end := self.buffer.find(b"\n", start) + 1) == 0:
            start = len(self.buffer)
            if start >= MAX_HEADER_BYTES or not self._fill():
                end = len(self.buffer)
                break
        return self.read(end)

    def go_to(self, position: int) -> None:
        """Continue reading from there, in an uncompressed file."""
        self.file.seek(position)
        self.packed, self.member_ended = b"", False
        self.buffer.clear()

    def position(self) -> int:
        """Return where the next read begins, in an uncompressed file."""
        return self.file.tell() - len(self.packed) - len(self.buffer)

    def next_member(self) -> bool:
        """Move to the next gzip member; return False at the end of the file."""
        while self.peek(1):
            self.buffer.clear()
        if not self.is_gzip:
            return False
        self.packed = self.packed or self.file.read(BLOCK_BYTES)
        self.packed = self.packed.lstrip(b"\0") or self.file.read(BLOCK_BYTES)  # padding of disks
        if not self.packed:
            return False
        self.decompressor, self.member_ended = zlib.decompressobj(wbits=31), False
        return True


def read_records(path: Path, max_block_bytes: int) -> Iterator[Record]:
    """Yield the records of a file in order.

    Raises UserError, one line that names the file, if it has no record, ends in the middle of one,
    or is damaged.
    """
    number = 0
    found_one = False
    with path.open("rb") as file:
        stream = MemberStream(file)
        try:
            more = True
            while more:
                for record in _records_of_member(stream, number, max_block_bytes):
                    number = record.number
                    found_one = found_one or record.odd != NO_VERSION
                    yield record
                more = stream.next_member()
        except zlib.error as error:
            raise broken_file(path, number + 1, f"is damaged ({error})") from None
        except EOFError:
            raise broken_file(path, number + 1, "is cut off") from None
    if not found_one:
        raise UserError(
            f"{path}: contains no WARC record; expected a WARC file of a crawl, plain or gzipped"
        )


def broken_file(path: Path, record_number: int, what: str) -> UserError:
    """Return the error for a file that cannot be read to its end."""
    return UserError(
        f"{path}: record {record_number} {what}; fetch the file again, or keep "
        f"its whole records with `warcio recompress {path} whole.warc.gz`"
    )


def _records_of_member(stream: MemberStream, number: int, limit: int) -> Iterator[Record]:
    """Yield the records up to the end of a gzip member, or of an uncompressed file."""
    first_number = number
    line = last_line = b""
    while line := stream.read_line():
        if RECORD_START.match(line):
            number += 1
            yield _read_record(stream, number, limit)
            last_line = b""
        elif line.strip():  # two blank lines end a record
            last_line = line
    if last_line and stream.is_gzip and number == first_number:
        yield Record(number + 1, {}, b"", 0, NO_VERSION)
    if last_line and not stream.is_gzip and number and b"WARC/".startswith(last_line):
        raise EOFError


def _read_record(stream: MemberStream, number: int, limit: int) -> Record:
    """Return the record whose version line has been read."""
    lines: list[bytes] = []
    header_bytes = 0
    while (line := stream.read_line()).strip():
        lines.append(line)
        header_bytes += len(line)
        if header_bytes > MAX_HEADER_BYTES:
            return Record(number, {}, b"", 0, NO_END)
    if not line:
        if stream.is_gzip:
            return Record(number, {}, b"", 0, NO_END)
        raise EOFError
    headers = parse_headers(lines)
    given = headers.get("content-length", "")
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        return Record(number, headers, b"", 0, f"has the Content-Length {given[:40]!r}")
    length = int(given)
    if not stream.is_gzip and not _is_in_file(stream, length):
        return Record(number, headers, b"", length, TOO_SHORT)
    block = stream.read(min(length, limit))
    left = length - len(block)
    while left and (piece := stream.read(min(left, BLOCK_BYTES))):
        left -= len(piece)
    following = stream.peek(8).lstrip(b"\r\n")[:5]
    if left or not b"WARC/".startswith(following):
        if length <= limit or left:  # the block may contain the start of the next record
            stream.buffer[:0] = block
        odd = TOO_SHORT if left else "does not end where its Content-Length says"
        return Record(number, headers, b"", length, odd)
    return Record(number, headers, block, length)


def _is_in_file(stream: MemberStream, length: int) -> bool:
    """Return whether a block of that length is there; if it is not, move to the next record.

    Raises EOFError if there is no next record: the file is cut off.
    """
    start = stream.position()
    if start + length <= os.fstat(stream.file.fileno()).st_size:
        return True
    while line := stream.read_line():
        if RECORD_START.match(line):
            stream.go_to(stream.position() - len(line))
            return False
    raise EOFError
