"""The unpacked bytes of a file, member by member; after damage, reading continues.

After a damaged gzip member or zstd frame, reading continues at the next place in the file that
begins like a member and really unpacks to the start of a record. The search begins one byte after
the start of the damaged member, because the member may have been cut off and the next may follow
at once. Bytes that were read in vain are counted, and the search is given up when they exceed a few
times the file's size, so that the work stays proportional to the file whatever is in it. What comes
after that place is lost, and the fault says so.

What this leaves out: records that are divided over several members; bytes in a member of many
records that were damaged before the place where the decompressor notices it.
"""

import os
from collections.abc import Callable
from typing import BinaryIO

from data_pipeline.compressed.file_members import (
    BLOCK_BYTES,
    CUT_OFF,
    DAMAGED,
    PROBE_BYTES,
    Fault,
    GzipMember,
    PlainFile,
    positions_of,
    read_at,
)
from data_pipeline.compressed.zstd_frames import ZstdFrame, is_skippable

MAX_LINE_BYTES = 1 << 18
PACKED_KINDS = (GzipMember, ZstdFrame)
Kind = type[GzipMember] | type[ZstdFrame] | type[PlainFile]
PLAIN_RECORD = b"\nWARC/"
RE_READ_SHARE = 4  # bytes read in vain, as a multiple of the file's size
RE_READ_BYTES = 1 << 20  # the same for small files


class MemberStream:
    """A buffered reader of one member at a time.

    Reading stops at the end of each member, or where it is damaged; `fault` then says why.
    `next_member` moves on, and `gap` then holds the positions (start, end) of bytes of the file
    between two members that belong to neither (None if there are no such bytes). `given_up_at` is
    the position in the file at which the search for a member was given up (None if it was not).
    """

    def __init__(self, file: BinaryIO, begins_record: Callable[[bytes], bool]) -> None:
        """`begins_record` says whether the first bytes of a member are the start of a record."""
        self.file = file
        self.begins_record = begins_record
        self.size = file.seek(0, os.SEEK_END)
        self.spare_bytes = RE_READ_SHARE * self.size + RE_READ_BYTES
        self.gap: tuple[int, int] | None = None
        self.given_up_at: int | None = None
        self.kind, start = self._first_member()
        if start:
            self.gap = (0, start)
        self._open(start)

    @property
    def is_plain(self) -> bool:
        """Whether the file is not compressed."""
        return self.kind is PlainFile

    def _open(self, start: int) -> None:
        self.member = self.kind(self.file, start)
        self.buffer = bytearray()
        self.unpacked = 0  # bytes of this member, those in the buffer included
        self.ended = False
        self.fault: Fault | None = None
        self.after_fault: int | None = None  # where the next member begins

    def _fill(self) -> bool:
        """Add to the buffer; return False at the end of the member, or where it is damaged."""
        if self.ended:
            return False
        try:
            data = self.member.read_some()
        except Fault as fault:
            self.fault, data = fault, b""
            self.spare_bytes -= self.member.end - self.member.start
            self.after_fault = self._search(self.kind, self.member.start + 1)
            if self.given_up_at is not None:
                said = [fault.detail, self.told_of_search()]
                self.fault = Fault(DAMAGED, "; ".join(filter(None, said)))
            elif self.after_fault is not None and fault.reason == CUT_OFF:
                self.fault = Fault(DAMAGED, "it has no end")
        self.ended = not data
        self.unpacked += len(data)
        self.buffer += data
        return bool(data)

    def told_of_search(self) -> str:
        """Return in words that the search for a member was given up, "" if it was not."""
        if self.given_up_at is None:
            return ""
        spent = RE_READ_SHARE * self.size + RE_READ_BYTES - self.spare_bytes
        return (
            f"the search for the next record was given up at byte {self.given_up_at:,}, after "
            f"{spent:,} bytes were read in vain"
        )

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes, with which the next read will begin."""
        while len(self.buffer) < size and self._fill():
            pass
        with memoryview(self.buffer) as view:
            return bytes(view[:size])

    def look(self, distance: int, size: int) -> bytes | None:
        """Return up to `size` bytes that come after the next `distance` bytes, or None if the
        member ends before them. Nothing is consumed. A compressed member is unpacked up to there.
        """
        if self.is_plain and distance + size > len(self.buffer):
            place = self.position() + distance
            return None if place > self.size else read_at(self.file, place, size)
        while len(self.buffer) < distance + size and self._fill():
            pass
        if len(self.buffer) < distance:
            return None
        return bytes(self.buffer[distance : distance + size])

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end of the member."""
        data = self.peek(size)
        del self.buffer[: len(data)]
        return data

    def skip(self, size: int) -> int:
        """Pass over up to `size` bytes, and return how many there were."""
        if self.is_plain and size > len(self.buffer):
            skipped = min(size, self.size - self.position())
            self.go_to(self.position() + skipped)
            return skipped
        left = size
        while left and (self.buffer or self._fill()):
            passed = min(left, len(self.buffer))
            del self.buffer[:passed]
            left -= passed
        return size - left

    def read_line(self) -> bytes:
        """Return a line with its end; a line longer than MAX_LINE_BYTES comes in pieces."""
        start = 0
        while (end := self.buffer.find(b"\n", start) + 1) == 0:
            start = len(self.buffer)
            if start >= MAX_LINE_BYTES or not self._fill():
                end = len(self.buffer)
                break
        line = bytes(self.buffer[:end])
        del self.buffer[:end]
        return line

    def position(self) -> int:
        """Return where the next read begins: in the unpacked bytes of the member."""
        return self.unpacked - len(self.buffer)

    def go_to(self, position: int) -> bool:
        """Continue reading from there in this member. Return False, and stay, if so many bytes of
        a compressed file have been read in vain that it cannot be done again.
        """
        if self.is_plain:
            self._open(position)
            self.unpacked = position
            return True
        self.spare_bytes -= self.member.end - self.member.start
        if self.spare_bytes < 0:
            return False
        self._open(self.member.start)
        self.skip(position)
        return True

    def drain(self) -> None:
        """Read to the end of the member, to notice damage in what is left of it."""
        self.buffer.clear()
        while not self.is_plain and self._fill():
            self.buffer.clear()

    def next_member(self) -> bool:
        """Move to the next member; return False at the end of the file.

        The current member must have been read to its end.
        """
        self.gap = None
        if self.is_plain:
            return False
        if self.fault:
            found = self.after_fault
        else:
            end = self._after_padding(self.member.end)
            found = self._after_whole_member(end) if end < self.size else None
            if end < self.size and (found is None or found > end):
                self.gap = (end, self.size if found is None else found)
        if found is not None:
            self._open(found)
        return found is not None

    def _after_whole_member(self, end: int) -> int | None:
        """Return where the next member begins, if there is one."""
        if self._kind_at(end) is self.kind:
            return end
        if self.kind is GzipMember:
            return self._search(self.kind, end)
        # A zstd frame without a checksum can look whole and hold the start of the next one.
        self.spare_bytes -= self.member.end - self.member.start
        return self._search(self.kind, self.member.start + 1)

    def _kind_at(self, position: int) -> type[GzipMember] | type[ZstdFrame] | None:
        """Return the kind of member that begins there, by its first bytes; the file may end in
        them.
        """
        head = read_at(self.file, position, 4)
        if is_skippable(head):
            return ZstdFrame
        fitting = (kind for kind in PACKED_KINDS if kind.magic.startswith(head[: len(kind.magic)]))
        return next(fitting, None) if head else None

    def _after_padding(self, position: int) -> int:
        """Return the position after the zeros there, with which disks and tapes are filled up."""
        while read_at(self.file, position, 1) == b"\0":
            block = read_at(self.file, position, BLOCK_BYTES)
            position += len(block) - len(block.lstrip(b"\0"))
        return position

    def _search(self, kind: type[GzipMember] | type[ZstdFrame], start: int) -> int | None:
        """Return the next position at which a member begins whose first bytes are a record's."""
        for position in positions_of(kind.magic, self.file, start):
            if self.spare_bytes < 0:
                self.given_up_at = position
                return None
            data, used = kind.first_bytes(self.file, position)
            if self.begins_record(data):
                return position
            self.spare_bytes -= used
        return None

    def _first_member(self) -> tuple[Kind, int]:
        """Return the kind of the members, and where the first begins.

        A file that begins like none of the kinds is searched, for its first bytes may be damaged.
        """
        if kind := self._kind_at(0):
            return kind, 0
        if not self.begins_record(read_at(self.file, 0, PROBE_BYTES)):
            found = [(self._search(kind, 0), kind) for kind in PACKED_KINDS]
            starts = [(start, kind) for start, kind in found if start is not None]
            if starts:
                start, kind = min(starts, key=lambda pair: pair[0])
                if next(positions_of(PLAIN_RECORD, self.file, 0), self.size) > start:
                    return kind, start
        return PlainFile, 0
