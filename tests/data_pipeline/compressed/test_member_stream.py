"""The stream of members: reading in every kind of file, and the way on after damage."""

import gzip
import io
import random

import pyarrow as pa
import pytest

from data_pipeline.compressed.file_members import CUT_OFF, DAMAGED
from data_pipeline.compressed.member_stream import (
    RE_READ_BYTES,
    RE_READ_SHARE,
    MemberStream,
)

DATA = b"REC " + b"\n".join(b"%d" % random.Random(5).getrandbits(60) for _ in range(20_000))
DATA += b"\n" + b"x" * 300_000 + b"\nend"


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


PACK = {"gzip": gzip.compress, "zstd": zstd, "plain": bytes}


class CountingFile(io.BytesIO):
    """A file that counts the bytes that are read from it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def open_stream(content: bytes) -> MemberStream:
    return MemberStream(CountingFile(content), lambda data: data.startswith(b"REC"))


def members(stream: MemberStream) -> list:
    """Return, in order, each member's first 5 bytes, the reasons of faults, and gaps."""
    found: list = [stream.gap] if stream.gap else []
    more = True
    while more:
        start = stream.peek(5)
        stream.drain()
        found.append(stream.fault.reason if stream.fault else start)
        more = stream.next_member()
        found += [stream.gap] if stream.gap else []
    return found


@pytest.mark.parametrize("form", PACK)
def test_every_way_to_read(form):
    stream = open_stream(PACK[form](DATA))
    assert stream.read(4) == b"REC "
    position = stream.position()
    assert stream.read_line() == DATA[4:].partition(b"\n")[0] + b"\n"
    assert stream.look(100_000, 50) == DATA[stream.position() + 100_000 :][:50]
    assert stream.peek(7) == DATA[stream.position() :][:7]
    assert stream.skip(200_000) == 200_000
    assert stream.read(9) == DATA[stream.position() - 9 :][:9]
    assert stream.go_to(position)
    assert stream.read(70_000) == DATA[4:70_004]
    left = len(DATA) - 70_004
    assert stream.look(left, 5) == b""
    assert stream.look(left - 1, 5) == b"d"
    assert stream.look(left + 1, 5) is None
    assert stream.skip(left + 100) == left
    assert stream.read_line() == b""
    assert not stream.next_member()


def test_a_long_line_comes_in_pieces():
    stream = open_stream(gzip.compress(b"REC" + b"x" * 1_000_000 + b"\nend"))
    lines = list(iter(stream.read_line, b""))
    assert b"".join(lines).endswith(b"x\nend")
    assert len(lines) > 3


def test_a_long_skip_holds_nothing():
    stream = open_stream(gzip.compress(b"REC" + b"\0" * 10_000_000))
    assert stream.skip(10_000_000) == 10_000_000
    assert len(stream.buffer) < 100_000


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_members_after_damage(form):
    pack = PACK[form]
    noise = random.Random(6).randbytes
    one, two, three = (pack(b"REC%d " % n + noise(999)) for n in range(3))
    # without a checksum, a frame with 200 bytes of the next one looks whole
    cut = DAMAGED if form == "gzip" else b"REC1 "
    broken = bytearray(two)
    broken[len(two) // 2 :] = bytes(len(two) - len(two) // 2)
    magic = two[:4] + b"\x5a" * 40  # begins like a member, and is none
    other = pack(b"a member whose first bytes are not a record")
    zeros = bytes(70_000)
    ends = len(one), len(one) + 70_000
    cases = {
        "whole": (one + two + three, [b"REC0 ", b"REC1 ", b"REC2 "]),
        "padded": (one + zeros + three + zeros, [b"REC0 ", b"REC2 "]),
        "cut within": (one + two[:-200] + three, [b"REC0 ", cut, b"REC2 "]),
        "cut at the end": (one + two[:-200], [b"REC0 ", CUT_OFF]),
        "damaged": (one + bytes(broken) + three, [b"REC0 ", cut, b"REC2 "]),
        "magic by chance": (one + two[:-200] + magic + three, [b"REC0 ", cut, b"REC2 "]),
        "not a record": (one + two[:-200] + other + three, [b"REC0 ", cut, b"REC2 "]),
        "garbage": (
            one + b"abc" + three + b"zz",
            [b"REC0 ", (len(one), len(one) + 3), b"REC2 ", (-2, 0)],
        ),
        "garbage after zeros": (one + zeros + b"ab", [b"REC0 ", (ends[1], ends[1] + 2)]),
        "first bytes": (b"\xff" + one[1:] + three, [(0, len(one)), b"REC2 "]),
        "before it": (b"HTTP/1.1 200 OK\r\n\r\n" + one, [(0, 19), b"REC0 "]),
    }
    for name, (content, expected) in cases.items():
        size = len(content)
        expected = [(size - 2, size) if e == (-2, 0) else e for e in expected]
        assert members(open_stream(content)) == expected, name


def test_a_packed_file_in_a_plain_one_is_no_member():
    content = b"xARC/1.0\n a first record, damaged\n\nWARC/1.0\nits body: " + gzip.compress(b"REC")
    stream = open_stream(content)
    assert stream.is_plain
    assert stream.read(len(content)) == content


def nested_members(size: int) -> bytes:
    """Return members each of which holds all those in the 64 KiB after it, in a stored block, and
    then is damaged.
    """
    header = gzip.compress(b"")[:10]
    member = header + b"\x00\xff\xff\x00\x00" + b"REC "
    return member * (size // len(member))


def nested_frames(size: int) -> bytes:
    """Return the same as whole zstd frames without a checksum, with garbage after each."""
    frame = b"\x28\xb5\x2f\xfd\0\x50" + (1 | 65535 << 3).to_bytes(3, "little") + b"REC "
    return frame * (size // len(frame))


FRAME_OF_128_KIB = b"\x28\xb5\x2f\xfd\0\0\xf8\xff\x0f"
HOSTILE = {
    "nested members": ("gzip", nested_members),
    "gzip's first bytes": ("gzip", lambda size: b"\x1f\x8b\x08" * (size // 3)),
    "short members": ("gzip", lambda size: gzip.compress(b"REC")[:-4] * (size // 19)),
    "nested frames": ("zstd", nested_frames),
    "frames": ("zstd", lambda size: b"x" + FRAME_OF_128_KIB * (size // 9)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_is_proportional_to_the_file(name):
    form, make = HOSTILE[name]
    for size in (100_000, 400_000):
        stream = open_stream(PACK[form](b"REC") + make(size))
        members(stream)
        limit = RE_READ_SHARE * size + RE_READ_BYTES
        assert stream.file.bytes_read < 3 * (limit + size), "bytes are read over and over"


def test_going_back_is_refused_when_it_has_been_done_too_often():
    content = gzip.compress(random.Random(7).randbytes(300_000))
    stream = open_stream(content)
    times = 0
    stream.drain()
    while stream.go_to(0) and times < 99:
        stream.drain()
        times += 1
    assert 2 <= times <= 9
