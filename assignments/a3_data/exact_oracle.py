"""Slow, obvious oracles of a3_data.9 and a3_data.10: whole numbers of Python, sets and loops."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b

MASK = 2**64 - 1


def bytes_hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    return bytes_hash(text.encode())


def bare(line: bytes) -> bytes:
    """A line without its end."""
    if not line.endswith(b"\n"):
        return line
    return line[:-2] if line.endswith(b"\r\n") else line[:-1]


def lines_of(content: bytes) -> list[bytes]:
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + [parts[-1]] * (parts[-1] != b"")


def without_repeated_lines(files: Mapping[str, bytes]) -> tuple[dict[str, bytes], int]:
    """The files that deduplicate_lines writes, and the number of lines that it drops."""
    counts = Counter(bare(line) for content in files.values() for line in lines_of(content))
    written = {
        name: b"".join(line for line in lines_of(content) if counts[bare(line)] == 1)
        for name, content in files.items()
    }
    return written, sum(count for count in counts.values() if count > 1)


class BitFilter:
    """A Bloom filter whose bits are a set of positions."""

    def __init__(self, capacity: int, rate: float) -> None:
        self.num_bits = math.ceil(-capacity * math.log(rate) / math.log(2) ** 2)
        self.num_hashes = max(1, round(-math.log2(rate)))
        self.positions: set[int] = set()

    def positions_of(self, key: int) -> set[int]:
        step = (key >> 32 | key << 32 & MASK) | 1
        return {((key + i * step) & MASK) % self.num_bits for i in range(self.num_hashes)}

    def holds(self, key: int) -> bool:
        return self.positions_of(key) <= self.positions

    def add_all(self, keys: Iterable[int]) -> list[bool]:
        """The answers for keys that are added together: bits of this call do not count, but a key
        that occurs twice does.
        """
        before, keys, earlier = set(self.positions), list(keys), set()
        answers = []
        for key in keys:
            answers.append(self.positions_of(key) <= before or key in earlier)
            earlier.add(key)
            self.positions |= self.positions_of(key)
        return answers

    def bits(self) -> list[int]:
        made = [0] * -(-self.num_bits // 8)
        for position in self.positions:
            made[position // 8] |= 1 << position % 8
        return made
