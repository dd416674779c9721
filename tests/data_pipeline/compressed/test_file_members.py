"""Gzip members: whole ones, where they end, and every way in which they are broken."""

import gzip
import random
from io import BytesIO

import pytest

from data_pipeline.compressed.file_members import (
    BLOCK_BYTES,
    CUT_OFF,
    DAMAGED,
    Fault,
    GzipMember,
    PlainFile,
    positions_of,
)

TEXT = b"".join(b"%d " % random.Random(1).getrandbits(30) for _ in range(4000))
WORDS = random.Random(2).randbytes(3 * BLOCK_BYTES)


def read_all(member) -> tuple[bytes, Fault | None]:
    pieces = []
    try:
        while piece := member.read_some():
            pieces.append(piece)
    except Fault as fault:
        return b"".join(pieces), fault
    return b"".join(pieces), None


@pytest.mark.parametrize("data", [b"", b"a", TEXT, WORDS, b"\0" * 1_000_000])
def test_a_member_ends_where_it_ends(data):
    packed = gzip.compress(data)
    member = GzipMember(BytesIO(b"before" + packed + b"after"), 6)
    assert read_all(member) == (data, None)
    assert (member.start, member.end) == (6, 6 + len(packed))


def test_no_more_than_a_block_is_unpacked_at_a_time():
    member = GzipMember(BytesIO(gzip.compress(b"\0" * 10_000_000)), 0)
    while piece := member.read_some():
        assert len(piece) <= BLOCK_BYTES


@pytest.mark.parametrize("kept", [0, 1, 9, 10, 11, 500, -8, -1])
def test_a_member_that_is_cut_off_gives_what_there_is(kept):
    packed = gzip.compress(WORDS)
    data, fault = read_all(GzipMember(BytesIO(packed[:kept]), 0))
    assert WORDS.startswith(data)
    assert fault is not None
    assert fault.reason == CUT_OFF
    if kept == -8:
        assert data == WORDS


def test_all_bytes_before_the_damage_are_given():
    packed = bytearray(gzip.compress(WORDS))  # stored blocks, for random bytes do not shrink
    packed[-6] ^= 1
    member = GzipMember(BytesIO(packed), 0)
    data, fault = read_all(member)
    assert data == WORDS, "the bytes unpacked in the same call as the error are lost"
    assert fault is not None
    assert (fault.reason, "incorrect data check" in fault.detail) == (DAMAGED, True)
    assert len(packed) - 8 <= member.end < len(packed)
    with pytest.raises(Fault):
        member.read_some()


def test_the_first_bytes_tell_a_member_from_chance():
    for data, first in [
        (gzip.compress(TEXT), TEXT[:100]),
        (b"\x1f\x8b\x08 by chance, not a member", b""),
        (b"\x1f\x8b\x08", b""),
    ]:
        found, used = GzipMember.first_bytes(BytesIO(b"xx" + data), 2)
        assert found[:100] == first
        assert 0 < used <= 4096


def test_positions_across_blocks():
    data = bytearray(3 * BLOCK_BYTES)
    expected = [0, 7, BLOCK_BYTES - 2, 2 * BLOCK_BYTES - 1, 3 * BLOCK_BYTES - 3]
    for place in expected:
        data[place : place + 3] = b"abc"
    assert list(positions_of(b"abc", BytesIO(data), 0)) == expected
    assert list(positions_of(b"abc", BytesIO(data), 8)) == expected[2:]
    assert list(positions_of(b"aa", BytesIO(b"aaaa"), 0)) == [0, 1, 2]


def test_a_plain_file_is_one_member():
    assert read_all(PlainFile(BytesIO(WORDS), 5)) == (WORDS[5:], None)
