"""A record for each block; cached blocks are linked in a ring; tables are planned, then changed."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

import hashlib
import struct
from heapq import heappop, heappush
from itertools import takewhile


class Record:
    """A block, or the place in the ring where the newest cached block meets the oldest."""

    def __init__(self, number):
        self.number, self.users, self.key = number, 0, None
        self.before = self.behind = self

    def link_before(self, other):
        self.before, self.behind = other.before, other
        self.before.behind = other.before = self

    def unlink(self):
        self.before.behind, self.behind.before = self.behind, self.before
        self.before = self.behind = self


class BlockPool:
    def __init__(self, num_blocks, block_size):
        for name, value in (("num_blocks", num_blocks), ("block_size", block_size)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.num_blocks, self.block_size = num_blocks, block_size
        self.records = [Record(number) for number in range(num_blocks)]
        self.known, self.empty = {}, list(range(num_blocks))
        self.ring, self.num_cached = Record(None), 0

    @property
    def num_available(self):
        return len(self.empty) + self.num_cached

    def references(self, block):
        return self.records[block].users

    def used(self, block):
        record = self.records[block]
        assert record.users, f"nobody holds block {block}"
        return record

    def allocate(self):
        if self.empty:
            record = self.records[heappop(self.empty)]
        elif self.num_cached:
            record = self.ring.behind
            self.leave_ring(record)
            self.drop_key(record)
        else:
            raise OutOfBlocks
        record.users = 1
        return record.number

    def share(self, block):
        record = self.records[block]
        if not record.users:
            assert record.key is not None, f"block {block} holds nothing"
            self.leave_ring(record)
        record.users += 1

    def release(self, block):
        record = self.used(block)
        record.users -= 1
        if not record.users:
            self.keep(record)

    def record(self, block, key):
        record = self.used(block)
        if record.key is None and self.known.setdefault(key, record) is record:
            record.key = key

    def find(self, key):
        return self.known[key].number if key in self.known else None

    def forget(self, block):
        self.drop_key(self.used(block))

    def forget_all(self):
        for record in list(self.known.values()):
            self.drop_key(record)
            if not record.users:
                self.leave_ring(record)
                self.keep(record)

    def keep(self, record):
        """In the ring if it has a key, otherwise among the empty ones."""
        if record.key is None:
            heappush(self.empty, record.number)
        else:
            record.link_before(self.ring)
            self.num_cached += 1

    def leave_ring(self, record):
        record.unlink()
        self.num_cached -= 1

    def drop_key(self, record):
        self.known.pop(record.key, None)
        record.key = None


def block_keys(token_ids, block_size, model_key=b""):
    chain = [hashlib.sha256(model_key).digest()]
    layout = struct.Struct(f"<{block_size}Q")
    for number in range(len(token_ids) // block_size):
        digest = hashlib.sha256(chain[-1])
        digest.update(layout.pack(*token_ids[number * block_size : (number + 1) * block_size]))
        chain.append(digest.digest())
    return chain[1:]


def take_cached_prefix(pool, token_ids, keys):
    most = (len(token_ids) + pool.block_size - 1) // pool.block_size - 1
    found = (pool.find(key) for key in keys[: max(most, 0)])
    blocks = list(takewhile(lambda block: block is not None, found))
    for block in blocks:
        pool.share(block)
    return BlockTable(blocks, pool.block_size * len(blocks))


def record_full_blocks(pool, table, keys, num_computed):
    """From the last one to the first."""
    assert num_computed <= table.num_tokens, f"{num_computed} of {table.num_tokens} tokens"
    for i in reversed(range(num_computed // pool.block_size)):
        pool.record(table.blocks[i], keys[i])


def plan(pool, table, num_new):
    """Whether the last block is written into and must be copied, and how many blocks follow it."""
    room = -table.num_tokens % pool.block_size
    written = bool(room and num_new)
    more = max(0, num_new - room + pool.block_size - 1) // pool.block_size
    return written, written and pool.references(table.blocks[-1]) > 1, more


def blocks_needed(pool, table, num_new):
    return sum(plan(pool, table, num_new)[1:])


def reserve(pool, table, num_new):
    written, copied, more = plan(pool, table, num_new)
    if copied + more > pool.num_available:
        raise OutOfBlocks
    last = table.blocks[-1:] if written else []
    if written and not copied:
        pool.forget(*last)
    new = [pool.allocate() for _ in range(copied + more)]
    kept = table.blocks[:-1] if copied else table.blocks
    table.blocks, table.num_tokens = kept + new, table.num_tokens + num_new
    if not copied:
        return []
    pool.release(*last)
    return [(*last, new[0])]


def fork(pool, table):
    blocks = []
    for block in table.blocks:
        pool.share(block)
        blocks.append(block)
    return BlockTable(blocks, table.num_tokens)


def truncate(pool, table, num_tokens):
    assert num_tokens in range(table.num_tokens + 1), f"{num_tokens} of {table.num_tokens} tokens"
    kept = (num_tokens + pool.block_size - 1) // pool.block_size
    dropped = table.blocks[kept:]
    table.blocks, table.num_tokens = table.blocks[:kept], num_tokens
    for block in reversed(dropped):
        pool.release(block)
