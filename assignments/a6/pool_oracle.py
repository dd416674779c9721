"""Slow, obvious oracle of a6.9 to a6.11: every question looks at all blocks.

What this leaves out: refusals of wrong calls.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field


class OutOfBlocks(Exception):
    pass


@dataclass
class Block:
    references: int = 0
    key: bytes | None = None
    released: int = 0  # when it was released last


class BlockPool:
    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.blocks = [Block() for _ in range(num_blocks)]
        self.clock = 0

    def free(self) -> list[int]:
        return [number for number, block in enumerate(self.blocks) if block.references == 0]

    @property
    def num_available(self) -> int:
        return len(self.free())

    def references(self, block: int) -> int:
        return self.blocks[block].references

    def allocate(self) -> int:
        if not self.free():
            raise OutOfBlocks
        order = sorted(
            self.free(),
            key=lambda number: (
                self.blocks[number].key is not None,
                self.blocks[number].released if self.blocks[number].key else number,
            ),
        )
        self.blocks[order[0]] = Block(references=1)
        return order[0]

    def share(self, block: int) -> None:
        self.blocks[block].references += 1

    def release(self, block: int) -> None:
        self.clock += 1
        self.blocks[block].references -= 1
        self.blocks[block].released = self.clock

    def record(self, block: int, key: bytes) -> None:
        if self.find(key) is None and self.blocks[block].key is None:
            self.blocks[block].key = key

    def find(self, key: bytes) -> int | None:
        found = [number for number, block in enumerate(self.blocks) if block.key == key]
        return found[0] if found else None

    def forget(self, block: int) -> None:
        self.blocks[block].key = None

    def forget_all(self) -> None:
        for block in self.blocks:
            block.key = None


def block_keys(token_ids: Sequence[int], block_size: int, model_key: bytes = b"") -> list[bytes]:
    """The keys as nested hashes: each block's from the start of the text."""

    def key(number: int) -> bytes:
        if number < 0:
            return hashlib.sha256(model_key).digest()
        hashed = hashlib.sha256(key(number - 1))
        for place in range(block_size):
            token = token_ids[number * block_size + place]
            hashed.update(bytes(token >> 8 * byte & 0xFF for byte in range(8)))
        return hashed.digest()

    return [key(number) for number in range(len(token_ids) // block_size)]


@dataclass
class BlockTable:
    blocks: list[int] = field(default_factory=list)
    num_tokens: int = 0


def take_cached_prefix(
    pool: BlockPool, token_ids: Sequence[int], keys: Sequence[bytes]
) -> BlockTable:
    taken: list[int] = []
    while (len(taken) + 1) * pool.block_size < len(token_ids):
        found = pool.find(keys[len(taken)])
        if found is None:
            break
        taken.append(found)
    for block in taken:
        pool.share(block)
    return BlockTable(taken, len(taken) * pool.block_size)


def record_full_blocks(
    pool: BlockPool, table: BlockTable, keys: Sequence[bytes], num_computed: int
) -> None:
    for number, block in enumerate(table.blocks):
        if (number + 1) * pool.block_size <= num_computed:
            pool.record(block, keys[number])


def is_copied(pool: BlockPool, table: BlockTable, num_new: int) -> bool:
    """Whether the first of the new tokens goes into a block that others hold too."""
    if num_new == 0 or table.num_tokens == len(table.blocks) * pool.block_size:
        return False
    return pool.references(table.blocks[-1]) >= 2


def blocks_needed(pool: BlockPool, table: BlockTable, num_new: int) -> int:
    places = len(table.blocks) * pool.block_size - table.num_tokens
    further = 0
    while places + further * pool.block_size < num_new:
        further += 1
    return further + is_copied(pool, table, num_new)


def reserve(pool: BlockPool, table: BlockTable, num_new: int) -> list[tuple[int, int]]:
    needed = blocks_needed(pool, table, num_new)
    if needed > pool.num_available:
        raise OutOfBlocks
    copied = is_copied(pool, table, num_new)
    new = [pool.allocate() for _ in range(needed)]
    partly_filled = table.num_tokens < len(table.blocks) * pool.block_size
    pairs = []
    if copied:
        pairs = [(table.blocks[-1], new[0])]
        pool.release(table.blocks.pop())
    elif num_new and partly_filled:
        pool.forget(table.blocks[-1])
    table.blocks = table.blocks + new
    table.num_tokens += num_new
    return pairs


def fork(pool: BlockPool, table: BlockTable) -> BlockTable:
    for block in table.blocks:
        pool.share(block)
    return BlockTable(table.blocks[:], table.num_tokens)


def truncate(pool: BlockPool, table: BlockTable, num_tokens: int) -> None:
    table.num_tokens = num_tokens
    while (len(table.blocks) - 1) * pool.block_size >= num_tokens and table.blocks:
        pool.release(table.blocks.pop())


def release_all(pool: BlockPool, table: BlockTable) -> None:
    for block in reversed(table.blocks):
        pool.release(block)
    table.blocks, table.num_tokens = [], 0
