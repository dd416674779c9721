"""The members of a file: gzip members (RFC 1952), or a plain file as its only member.

A member is read from the front, in blocks, and knows its position in the file. Damage in it is a
`Fault`, raised after all bytes before the damage have been read.

What this leaves out: members that were divided over several files.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

BLOCK_BYTES = 1 << 16  # read from the file, and unpacked, at a time
FIRST_BYTES = 1 << 13  # of a member: most are short, and what is read beyond them is read again
PROBE_BYTES = 1 << 12  # of a member, to see what it holds
GZIP = 31  # zlib's number for a stream with gzip's header and checksum
CUT_OFF, DAMAGED = "cut off", "damaged"


class Fault(Exception):
    """The reason why the rest of a member cannot be read.

    `reason` is CUT_OFF or DAMAGED; `detail` is what the decompressor says ("" if nothing).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Member(Protocol):
    """A member that begins at byte `start` of its file. The bytes before `end` have been used."""

    start: int
    end: int

    def read_some(self) -> bytes:
        """Return the next unpacked bytes, b"" at the end. Raises Fault."""
        ...


def read_at(file: BinaryIO, position: int, size: int) -> bytes:
    """Return up to `size` bytes from there on."""
    file.seek(position)
    return file.read(size)


def positions_of(what: bytes, file: BinaryIO, start: int) -> Iterator[int]:
    """Yield every position of `what` from `start` on. One block of the file is in memory."""
    kept = b""
    while block := read_at(file, start, BLOCK_BYTES):
        data = kept + block
        found = data.find(what)
        while found >= 0:
            yield start - len(kept) + found
            found = data.find(what, found + 1)
        start += len(block)
        kept = data[len(data) - len(what) + 1 :]


class PlainFile:
    """A file without compression."""

    name = "file"

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        self.file = file
        self.start = self.end = start

    def read_some(self) -> bytes:
        """Return the next bytes, b"" at the end of the file."""
        data = read_at(self.file, self.end, BLOCK_BYTES)
        self.end += len(data)
        return data


class GzipMember:
    """One gzip member. Its checksum is compared at its end."""

    name = "gzip member"
    magic = b"\x1f\x8b\x08"

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.file = file
        self.start = self.end = start
        self.packed = b""  # read from the file and not used yet
        self.decompressor = zlib.decompressobj(wbits=GZIP)
        self.fault: Fault | None = None

    def read_some(self) -> bytes:
        """Return up to BLOCK_BYTES more, b"" at the end of the member.

        Raises Fault if the file ends before the member does, or the member is damaged.
        """
        data = b""
        while not (data or self.decompressor.eof):
            if self.fault:
                raise self.fault
            size = FIRST_BYTES if self.end == self.start else BLOCK_BYTES
            packed = self.packed or read_at(self.file, self.end, size)
            before = self.decompressor.copy()
            try:
                data = self.decompressor.decompress(packed, BLOCK_BYTES)
            except zlib.error as error:  # it keeps what it unpacked before the error to itself
                self.fault = Fault(DAMAGED, str(error))
                data, used = _unpack_up_to_the_error(before, packed)
                self.end += used
                continue
            self.packed = self.decompressor.unused_data or self.decompressor.unconsumed_tail
            self.end += len(packed) - len(self.packed)
            if not (packed or data or self.decompressor.eof):
                self.fault = Fault(CUT_OFF)
        return data

    @classmethod
    def first_bytes(cls, file: BinaryIO, position: int) -> tuple[bytes, int]:
        """Return the first bytes of a member at `position` (b"" if there is none), and the number
        of bytes of the file that were used for them.
        """
        packed = read_at(file, position, PROBE_BYTES)
        try:
            return zlib.decompressobj(wbits=GZIP).decompress(packed, PROBE_BYTES), len(packed)
        except zlib.error:
            return b"", len(packed)


def _unpack_up_to_the_error(decompressor: "zlib._Decompress", packed: bytes) -> tuple[bytes, int]:
    """Return what unpacks before the error, and the number of bytes used for it.

    The piece that is tried is halved at each error, until it is the byte in which the error is.
    """
    pieces: list[bytes] = []
    used, size = 0, len(packed)
    while size and used < len(packed):
        before = decompressor.copy()
        try:
            pieces.append(decompressor.decompress(packed[used : used + size]))
            used += size
        except zlib.error:
            decompressor = before
            size //= 2
    return b"".join(pieces), min(used, len(packed))
