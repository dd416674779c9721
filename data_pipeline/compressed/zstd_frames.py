"""The frames of a zstd file (RFC 8878), each read as a member of its own.

pyarrow unpacks zstd, but does not say where a frame ends. The sizes of a frame's blocks stand
before them, so the end is found here without unpacking anything.

What this leaves out: frames that need a dictionary, which pyarrow cannot be given.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from data_pipeline.compressed.file_members import CUT_OFF, DAMAGED, Fault, read_at

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f
DICTIONARY_MAGIC = b"\x5d" + SKIPPABLE_MAGIC  # IIPC, Zstandard Compression for WARC Files 1.0
PIECE_BYTES = 1 << 13  # unpacked at a time; lost if the next block is damaged
RUN = 1  # type of a block: one byte, repeated `size` times; pyarrow checks the types
DICTIONARY_ID_BYTES = (0, 1, 2, 4)
CONTENT_SIZE_BYTES = (0, 2, 4, 8)


def is_skippable(start: bytes) -> bool:
    """Return whether a frame that begins like this holds no data of the file's own."""
    return len(start) >= 4 and start[0] >> 4 == 5 and start[1:4] == SKIPPABLE_MAGIC


class FrameBytes(io.RawIOBase):
    """The packed bytes of one frame as a file that ends where the frame ends or is broken.

    The bytes before `position` have been read from the real file; `fault` says what is broken.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        super().__init__()
        self.file = file
        self.position = start
        self.parts = self._parts()
        self.waiting = b""
        self.fault: Fault | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        try:
            self.waiting = self.waiting or next(self.parts, b"")
        except Fault as fault:
            self.fault = fault
        data = self.waiting[:size] if size >= 0 else self.waiting
        self.waiting = self.waiting[len(data) :]
        return data

    def _parts(self) -> Iterator[bytes]:
        """Yield the frame's header, each block, and the checksum. Raises Fault."""
        start = self._take(5)
        if start[:4] != MAGIC:
            raise Fault(DAMAGED, "no zstd frame begins here")
        flags = start[4]  # RFC 8878, section 3.1.1.1.1
        single_segment, has_checksum = flags >> 5 & 1, flags >> 2 & 1
        window = self._take(1 - single_segment)
        dictionary = self._take(DICTIONARY_ID_BYTES[flags & 3])
        if number := int.from_bytes(dictionary, "little"):
            raise Fault(DAMAGED, f"it needs the dictionary {number}, which is not supported")
        content_size = self._take(CONTENT_SIZE_BYTES[flags >> 6] or single_segment)
        yield start + window + dictionary + content_size
        is_last = 0
        while not is_last:
            head = self._take(3)
            fields = int.from_bytes(head, "little")
            is_last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
            yield head + self._take(1 if kind == RUN else size)
        if has_checksum:
            yield self._take(4)

    def _take(self, size: int) -> bytes:
        part = read_at(self.file, self.position, size)
        self.position += len(part)
        if len(part) < size:
            raise Fault(CUT_OFF)
        return part


class ZstdFrame:
    """One zstd frame; a skippable one has no bytes."""

    name = "zstd frame"
    magic = MAGIC

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.start = self.end = start
        self.packed = FrameBytes(file, start)
        self.stream: pa.NativeFile | None = None
        head = read_at(file, start, 8)
        self.is_skippable = is_skippable(head)
        if self.is_skippable:
            self.end = start + 8 + int.from_bytes(head[4:], "little")
            if not read_at(file, self.end - 1, 1):
                self.packed.fault = Fault(CUT_OFF)

    def read_some(self) -> bytes:
        """Return up to PIECE_BYTES more, b"" at the end of the frame. Raises Fault."""
        if self.is_skippable:
            if self.packed.fault:
                raise self.packed.fault
            return b""
        try:
            if self.stream is None:
                self.stream = pa.CompressedInputStream(pa.PythonFile(self.packed, "r"), "zstd")
            data = self.stream.read(PIECE_BYTES)
        except OSError as error:  # pyarrow's own errors
            fault = Fault(DAMAGED, " ".join(str(error).split())[:80])
            raise self.packed.fault or fault from None
        finally:
            self.end = self.packed.position
        if not data and self.packed.fault:
            raise self.packed.fault
        return data

    @classmethod
    def first_bytes(cls, file: BinaryIO, position: int) -> tuple[bytes, int]:
        """Return the first bytes of a frame at `position` (b"" if there is none), and the number of
        bytes of the file that were used for them.
        """
        frame = cls(file, position)
        try:
            data = frame.read_some()
        except Fault:
            data = b""
        return data, frame.end - position
