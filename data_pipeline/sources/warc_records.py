"""A reader for the records of a WARC file (ISO 28500) or an ARC file that tolerates damage.

A crawl of millions of records contains malformed ones, and files that were cut off or damaged on
their way. The reader loses only what is broken: a malformed record, a damaged gzip member or zstd
frame, the record in which a file ends. It continues with the next member or, within a member and in
an uncompressed file, at the next line that begins a record. The package warcio, which this project
uses for writing, stops at the first malformed record.

What this leaves out: records in several segments; dictionaries of .warc.zst files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.compressed.file_members import CUT_OFF, DAMAGED
from data_pipeline.compressed.member_stream import MemberStream
from data_pipeline.compressed.zstd_frames import DICTIONARY_MAGIC
from data_pipeline.sources.arc_records import arc_headers, may_follow
from lm_core.user_error import UserError

RECORD_START = re.compile(rb"WARC/\d{1,3}\.\d{1,3}[ \t]*+\r?\n")
ODD_RECORD = "odd WARC record"
NO_VERSION = "does not begin with a WARC version"
NO_END = "has a header that does not end"
TOO_SHORT = "is shorter than its Content-Length"
WRONG_END = "does not end where its Content-Length says"
MAX_HEADER_BYTES = 1 << 18
BLANK = b" \t\r\n\0"  # two blank lines end a record; zeros fill up the blocks of disks and tapes

Headers = dict[str, str]  # names in lower case; values of a repeated one are joined by commas


@dataclass(frozen=True)
class Record:
    """A record of a WARC or ARC file, or something else in its place.

    `odd` describes the record's fault in words ("" if it has none), and `reason` is a phrase to
    count it by: ODD_RECORD, CUT_OFF or DAMAGED. `block` is cut off at the reader's limit; `length`
    is the length of the whole block, of an odd record what there is of it.
    """

    number: int  # from 1, odd ones included
    headers: Headers
    block: bytes
    length: int
    odd: str = ""
    reason: str = ""


def parse_headers(lines: list[bytes]) -> Headers:
    """Return names and values; a line that begins with a space continues the one before it."""
    values: dict[str, list[str]] = {}
    name, parts = "", [""]  # of the header whose lines are being read
    for line in [*lines, b""]:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text[:1] in (" ", "\t") and name:
            parts.append(text.strip())
            continue
        if name:
            values.setdefault(name, []).append(" ".join(filter(None, parts)))
        name, colon, value = text.partition(":")
        name, parts = name.strip().lower() if colon else "", [value.strip()]
    return {name: ", ".join(filter(None, of_name)) for name, of_name in values.items()}


def read_records(path: Path, max_block_bytes: int) -> Iterator[Record]:
    """Yield the records of a file in order; what is broken comes as a record with `odd`.

    Memory: one record, or `max_block_bytes` of it, twice.

    Raises UserError, one line that names the file, if not one record begins in it, or it needs a
    dictionary.
    """
    with path.open("rb") as file:
        if file.read(4) == DICTIONARY_MAGIC:
            raise UserError(
                f"{path}: is compressed with a zstd dictionary, which is not supported; unpack it, "
                "or pack it again without a dictionary"
            )
        stream = MemberStream(file, begins_record)
        reader = _RecordReader(stream, max_block_bytes)
        last = None
        for last in reader.records():
            yield last
    if not reader.found_one:
        damage = last.reason if last and last.reason in (CUT_OFF, DAMAGED) else ""
        said = "; ".join(filter(None, [damage and f"it is {damage}", stream.told_of_search()]))
        said = f" ({said})" if said else ""
        raise UserError(
            f"{path}: contains no WARC record{said}; expected a WARC or ARC file of a crawl, "
            "plain or packed by gzip or zstd"
        )


def begins_record(data: bytes) -> bool:
    """Return whether these bytes are the start of a WARC or ARC record."""
    data = data.lstrip(BLANK)
    if RECORD_START.match(data):
        return True
    line, end, _ = data.partition(b"\n")
    return bool(end) and arc_headers(line) is not None


class _RecordReader:
    """The records of a stream. `number` is that of the last one."""

    def __init__(self, stream: MemberStream, limit: int) -> None:
        self.stream = stream
        self.limit = limit
        self.number = 0
        self.found_one = False
        self.is_arc: bool | None = None  # the first record decides
        self.fault_is_told = False
        self.line_of_next = b""  # the first line of a record, read with the one before it

    def records(self) -> Iterator[Record]:
        stream = self.stream
        more = True
        while more:
            yield from self._gap()
            self.fault_is_told = False
            yield from self._records_of_member()
            stream.drain()
            if stream.fault and not self.fault_is_told:
                self.number += 1
                yield self._faulty({}, 0)
            more = stream.next_member()
        yield from self._gap()

    def _gap(self) -> Iterator[Record]:
        """Yield a record in place of the bytes between two members."""
        if self.stream.gap is not None:
            start, end = self.stream.gap
            self.number += 1
            what = (
                f"is {end - start:,} bytes at byte {start:,} that are not a {self.stream.kind.name}"
            )
            if self.stream.given_up_at is not None:
                what += f" ({self.stream.told_of_search()})"
            yield Record(self.number, {}, b"", end - start, what, DAMAGED)

    def _faulty(self, headers: Headers, length: int) -> Record:
        """Return the record in which the member's damage was noticed."""
        fault, member = self.stream.fault, self.stream.member
        assert fault is not None, "the member is not damaged"
        self.fault_is_told = True
        said = f" ({fault.detail})" if fault.detail else ""
        what = f"is {fault.reason}: the {member.name} at byte {member.start:,}{said}"
        return Record(self.number, headers, b"", length, what, fault.reason)

    def _odd(self, headers: Headers, what: str, length: int = 0) -> Record:
        return Record(self.number, headers, b"", length, what, ODD_RECORD)

    def _records_of_member(self) -> Iterator[Record]:
        """Yield the records up to the end of a member."""
        stray = b""  # the last line that belongs to no record
        stray_length = 0
        stream = self.stream
        while line := self.line_of_next or stream.read_line():
            self.line_of_next = b""
            headers = self._start_of_record(line)
            if headers is not None:
                if stray:
                    yield self._stray(stray, stray_length)
                self.number += 1
                self.found_one = True
                yield self._read_record(headers)
                stray, stray_length = b"", 0
            elif line.strip(BLANK):
                stray = line
                stray_length += len(line)
        if stray and not stream.fault:
            yield self._stray(stray, stray_length)

    def _stray(self, last_line: bytes, length: int) -> Record:
        """Return a record in place of lines that belong to none."""
        self.number += 1
        is_start = b"WARC/".startswith(last_line[:5]) and not last_line.endswith(b"\n")
        if self.stream.is_plain and is_start:
            return self._cut_off({}, length)
        return self._odd({}, NO_VERSION, length)

    def _cut_off(self, headers: Headers, length: int) -> Record:
        what = f"is cut off: the file ends at byte {self.stream.size:,}"
        return Record(self.number, headers, b"", length, what, CUT_OFF)

    def _start_of_record(self, line: bytes) -> Headers | None:
        """Return the headers that a record's first line holds (none in WARC), or None."""
        line = line.lstrip(b"\0")
        if self.is_arc is not True and RECORD_START.match(line):
            self.is_arc = False
            return {}
        if self.is_arc is not False and (headers := arc_headers(line)):
            self.is_arc = True
            return headers
        return None

    def _read_record(self, headers: Headers) -> Record:
        """Return the record whose first line has been read."""
        stream = self.stream
        header_bytes = 0
        lines: list[bytes] = []
        while not self.is_arc:
            line = stream.read_line()
            if RECORD_START.match(line):
                self.line_of_next = line
                return self._odd({}, NO_END, header_bytes)
            if not line or header_bytes > MAX_HEADER_BYTES:
                return self._broken({}, header_bytes, NO_END, is_cut=not line)
            if not line.strip():
                break
            lines.append(line)
            header_bytes += len(line)
        headers |= parse_headers(lines)
        given = headers.get("content-length", "")
        if not (given.isascii() and given.isdigit() and len(given) < 19):
            return self._broken(headers, 0, f"has the Content-Length {given[:40]!r}")
        return self._read_block(headers, int(given))

    def _read_block(self, headers: Headers, length: int) -> Record:
        """Return the record whose block begins here."""
        stream = self.stream
        start = stream.position()
        if stream.is_plain or length <= self.limit:
            following = stream.look(length, 64)
        else:  # too long to be held: it is unpacked, and once more if its length is wrong
            kept = stream.read(self.limit)
            left = length - len(kept)
            following = stream.peek(64) if stream.skip(left) == left else None
        if following is not None and self._ends_record(following):
            if stream.fault and len(following) < 8:  # damage in the checksum, or just after
                return self._faulty(headers, length)
            if stream.is_plain or length <= self.limit:
                kept = stream.read(min(length, self.limit))
                stream.skip(length - len(kept))
            return Record(self.number, headers, kept, length)
        if stream.position() != start:
            stream.go_to(start)
        if following is None:
            return self._broken(headers, 0, TOO_SHORT, is_cut=True)
        return self._broken(headers, 0, WRONG_END)

    def _ends_record(self, following: bytes) -> bool:
        """Return whether a record may end before these bytes."""
        if self.is_arc:
            return may_follow(following)
        rest = following.lstrip(BLANK)[:5]
        return b"WARC/".startswith(rest) or following.startswith(b"\r\n\r\n")

    def _broken(self, headers: Headers, length: int, what: str, is_cut: bool = False) -> Record:
        """Return an odd record, and move to the next one in this member. `length` bytes of it have
        been read. `is_cut`: it would be whole if the file or the member continued.
        """
        stream = self.stream
        while (line := stream.read_line()) and self._start_of_record(line) is None:
            length += len(line)
        self.line_of_next = line
        if not line and stream.fault:
            return self._faulty(headers, length)
        if not line and stream.is_plain and is_cut:
            return self._cut_off(headers, length)
        return self._odd(headers, what, length)
