"""Zstd frames: their ends, found by hand-made frames and by those of pyarrow, and broken ones."""

import random
from io import BytesIO

import pyarrow as pa
import pytest

from data_pipeline.compressed.file_members import CUT_OFF, DAMAGED, Fault
from data_pipeline.compressed.zstd_frames import (
    DICTIONARY_MAGIC,
    MAGIC,
    ZstdFrame,
    is_skippable,
)

BLOCK_BYTES = 1 << 17  # the largest
WORDS = random.Random(3).randbytes(300_000)


def pack(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def block(kind: int, size: int, content: bytes, last: bool = True) -> bytes:
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + content


# RFC 8878, section 3.1.1.1: what the first byte after the magic says about the bytes after it
SINGLE = MAGIC + b"\x20\x05" + block(0, 5, b"hello")
WINDOW = MAGIC + b"\x00\x00" + block(0, 5, b"hello")
TWO_BLOCKS = MAGIC + b"\x00\x00" + block(0, 3, b"hel", last=False) + block(0, 2, b"lo")
RUN = MAGIC + b"\x20\x05" + block(1, 5, b"o")
CHECKSUM = MAGIC + b"\x24\x05" + block(0, 5, b"hello") + b"\xa3\x6d\x9f\x88"  # of `zstd --check`
LONG_SIZE = MAGIC + b"\xe0" + (5).to_bytes(8, "little") + block(0, 5, b"hello")
ZERO_DICTIONARY = MAGIC + b"\x01\x00\x00" + block(0, 5, b"hello")


def read_all(packed: bytes, start: int = 0) -> tuple[bytes, str, int]:
    """Return the bytes, the reason of the fault ("" if none), and the end."""
    frame = ZstdFrame(BytesIO(packed), start)
    data = b""
    try:
        while piece := frame.read_some():
            data += piece
    except Fault as fault:
        return data, fault.reason, frame.end
    return data, "", frame.end


@pytest.mark.parametrize("packed", [SINGLE, WINDOW, TWO_BLOCKS, LONG_SIZE, ZERO_DICTIONARY, RUN])
def test_frames_by_hand(packed):
    expected = b"ooooo" if packed is RUN else b"hello"
    assert read_all(b"xy" + packed + packed, 2) == (expected, "", 2 + len(packed))
    for length in range(5, len(packed)):
        data, reason, _ = read_all(packed[:length])
        assert (expected.startswith(data), reason) == (True, CUT_OFF)


@pytest.mark.parametrize("data", [b"", b"a", b"abc" * 100_000, WORDS])
def test_frames_of_pyarrow(data):
    packed = pack(data)
    assert read_all(packed + packed) == (data, "", len(packed))
    for length in (0, 3, len(packed) // 2, len(packed) - 1):
        assert read_all(packed[:length])[1] in (CUT_OFF, DAMAGED)


def test_a_checksum_is_compared():
    assert read_all(CHECKSUM) == (b"hello", "", len(CHECKSUM))
    wrong = CHECKSUM[:-1] + bytes([CHECKSUM[-1] ^ 1])
    assert read_all(wrong)[1:] == (DAMAGED, len(CHECKSUM))


def test_damage():
    reserved = MAGIC + b"\x20\x05" + block(3, 5, b"hello")
    too_long = MAGIC + b"\x00\x50" + block(0, 200_000, b"x" * 200_000)
    bad_block = MAGIC + b"\x20\x05" + block(2, 2, b"ab")
    for packed in (reserved, too_long, bad_block, b"nothing like it"):
        assert read_all(packed)[1] == DAMAGED
    assert read_all(MAGIC + b"\x01\x00\x07" + block(0, 5, b"hello"))[1] == DAMAGED
    packed = bytearray(pack(WORDS))  # random bytes stay as they are, in blocks of 128 KiB
    packed[len(packed) - (len(WORDS) - 2 * BLOCK_BYTES) - 3] |= 3 << 1  # no such type
    assert read_all(bytes(packed))[:2] == (WORDS[: 2 * BLOCK_BYTES], DAMAGED)


def test_frames_to_skip():
    frame = DICTIONARY_MAGIC + (4).to_bytes(4, "little") + b"abcd"
    assert is_skippable(frame)
    assert not is_skippable(SINGLE)
    assert read_all(frame + SINGLE) == (b"", "", len(frame))
    assert read_all(frame[:-1])[1] == CUT_OFF
