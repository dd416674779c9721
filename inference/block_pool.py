"""A pool of fixed-size blocks for keys and values, which requests share by reference counts.

A cache that reserves the longest text allowed for every request wastes most of its memory. Here the
memory is cut into blocks of `block_size` tokens, and each request has a *block table*: the numbers
of its blocks, in the order of its text. Three things follow.

- A request holds only as many blocks as its text needs; at most one of them is partly filled.
- Two texts with the same beginning hold the same blocks. A block counts its references; before one
  request writes into a partly filled block that others hold too, it gets a copy (copy on write).
- A full block that nobody holds any more stays *cached* under a key of its tokens and all tokens
  before them, so a later prompt with this beginning finds it instead of computing it again. The
  least recently released cached block is taken when no empty block is left.

At any time a block is in exactly one of three states: referenced (by at least one table), cached
(no references, but a key), or empty. This file only counts: it never touches a key or a value.

What this leaves out: the tensors (`paged_attention.py`), which request gets blocks when there are
too few (`batch_scheduler.py`), and moving blocks to slower memory instead of evicting them.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention"
(arXiv 2309.06180), sections 4.2 to 4.4.
"""

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lm_core.user_error import UserError


class OutOfBlocks(Exception):
    """No block is empty or evictable: every one is referenced by some block table."""


class BlockPool:
    """Which of the blocks 0 .. num_blocks - 1 are referenced, cached or empty."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Make a pool of empty blocks, of `block_size` tokens each.

        Raises:
            UserError: a number is below 1.
        """
        if num_blocks < 1:
            raise UserError(f"num_blocks is {num_blocks}, expected at least 1")
        if block_size < 1:
            raise UserError(f"block_size is {block_size}, expected at least 1 token")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._empty = list(range(num_blocks))  # a heap: the lowest number comes first
        # Only an OrderedDict can drop its first and any other entry in constant time.
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Number of blocks that `allocate` can hand out now: the empty and the cached ones."""
        return len(self._empty) + len(self._cached)

    def references(self, block: int) -> int:
        """Return how many block tables hold `block`."""
        return self._references[block]

    def allocate(self) -> int:
        """Return a block with one reference whose content may be overwritten.

        The lowest empty block comes first; if none is empty, the least recently released cached
        block, whose key is forgotten. O(log num_blocks) steps.

        Raises:
            OutOfBlocks: every block is referenced; nothing has changed.
        """
        if self._empty:
            block = heapq.heappop(self._empty)
        elif self._cached:
            block, _ = self._cached.popitem(last=False)
            self._drop_key(block)
        else:
            raise OutOfBlocks(f"all {self.num_blocks} blocks are in use")
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add a reference to a block that is referenced or cached. Constant time."""
        if self._references[block] == 0:
            assert block in self._cached, f"block {block} is empty: there is nothing to share"
            del self._cached[block]  # it can no longer be evicted
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Take away a reference; with the last one the block becomes cached or empty.

        A block with a key is cached, and is evicted after all blocks cached before it.
        """
        assert self._references[block] > 0, f"block {block} is released, but has no references"
        self._references[block] -= 1
        if self._references[block] == 0:
            if self._key_of[block] is None:
                heapq.heappush(self._empty, block)
            else:
                self._cached[block] = None

    def record(self, block: int, key: bytes) -> None:
        """Let `find(key)` return this referenced block, which is full and computed.

        If another block already has this key, that one keeps it, and `block` stays without. A block
        that has a key keeps it.
        """
        assert self._references[block] > 0, f"block {block} is recorded, but has no references"
        if key in self._block_of or self._key_of[block] is not None:
            return
        self._key_of[block] = key
        self._block_of[key] = block

    def find(self, key: bytes) -> int | None:
        """Return the block recorded under `key`, or None. Nothing changes."""
        return self._block_of.get(key)

    def forget(self, block: int) -> None:
        """Drop the key of a referenced block, whose content is about to change."""
        assert self._references[block] > 0, f"block {block} is forgotten, but has no references"
        self._drop_key(block)

    def forget_all(self) -> None:
        """Drop every key, because the weights changed: cached blocks become empty.

        Referenced blocks stay with their tables. Whoever holds them must not record them again:
        they were computed with the old weights.
        """
        self._block_of.clear()
        self._key_of = [None] * self.num_blocks
        for block in self._cached:
            heapq.heappush(self._empty, block)
        self._cached.clear()

    def _drop_key(self, block: int) -> None:
        key = self._key_of[block]
        if key is not None:
            del self._block_of[key]
            self._key_of[block] = None


def block_keys(token_ids: Sequence[int], block_size: int, model_key: bytes = b"") -> list[bytes]:
    """Return one key of 32 bytes for each *full* block of a text.

    key_i = SHA-256(key_{i-1} followed by the block's ids, 8 bytes each, little-endian), and the
    first block follows SHA-256(model_key). Keys and values depend on all tokens before them, hence
    the chain: equal keys mean equal texts from the start to the end of the block, under the same
    weights. `model_key` names whatever else they depend on.
    """
    keys = []
    key = hashlib.sha256(model_key).digest()
    for end in range(block_size, len(token_ids) + 1, block_size):
        ids = token_ids[end - block_size : end]
        key = hashlib.sha256(key + b"".join(i.to_bytes(8, "little") for i in ids)).digest()
        keys.append(key)
    return keys


@dataclass
class BlockTable:
    """The blocks of one text, in order: token t is in `blocks[t // block_size]`.

    `num_tokens` counts the tokens that have a place, whether computed yet or not, so there are
    always ceil(num_tokens / block_size) blocks.
    """

    blocks: list[int] = field(default_factory=list)
    num_tokens: int = 0


def take_cached_prefix(
    pool: BlockPool, token_ids: Sequence[int], keys: Sequence[bytes]
) -> BlockTable:
    """Return a table that shares the longest run of cached blocks with which the text begins.

    `keys` are the `block_keys` of the text. At least one token is left to compute, even if the
    cache knows every block: the next token is sampled from the last token's output, and the cache
    keeps keys and values, no outputs.
    """
    table = BlockTable()
    most = max(len(token_ids) - 1, 0) // pool.block_size
    for key in keys[:most]:
        block = pool.find(key)
        if block is None:
            break
        pool.share(block)
        table.blocks.append(block)
    table.num_tokens = len(table.blocks) * pool.block_size
    return table


def record_full_blocks(
    pool: BlockPool, table: BlockTable, keys: Sequence[bytes], num_computed: int
) -> None:
    """Record the blocks that lie wholly within the first `num_computed` tokens of the text.

    `keys` are the `block_keys` of the text. A block still being written is never recorded.
    """
    assert num_computed <= table.num_tokens, (
        f"{num_computed} tokens are computed, but only {table.num_tokens} have a place"
    )
    num_full = num_computed // pool.block_size
    for block, key in zip(table.blocks[:num_full], keys, strict=False):
        pool.record(block, key)


def _must_copy(pool: BlockPool, table: BlockTable) -> bool:
    """Whether the next token goes into a block that another table holds too."""
    partly_filled = table.num_tokens % pool.block_size != 0
    return partly_filled and pool.references(table.blocks[-1]) > 1


def blocks_needed(pool: BlockPool, table: BlockTable, num_new: int) -> int:
    """Return how many blocks `reserve(pool, table, num_new)` would allocate, a copy included."""
    if num_new == 0:
        return 0
    num_blocks = -(-(table.num_tokens + num_new) // pool.block_size)
    return num_blocks - len(table.blocks) + _must_copy(pool, table)


def reserve(pool: BlockPool, table: BlockTable, num_new: int) -> list[tuple[int, int]]:
    """Give `num_new` further tokens of a text a place that nobody else reads or finds.

    If the last block is partly filled and another table holds it too, a new block takes its place.
    The result names the pair (old block, new block), and the caller copies the content; otherwise
    it is empty. If nobody else holds it but it is recorded (after `truncate`), its key is dropped.

    Raises:
        OutOfBlocks: there are too few blocks; neither the table nor the pool has changed.
    """
    needed = blocks_needed(pool, table, num_new)
    if needed > pool.num_available:
        raise OutOfBlocks(f"{needed} blocks are needed, {pool.num_available} are available")
    copies = []
    if num_new > 0 and table.num_tokens % pool.block_size != 0:
        last = table.blocks[-1]
        if _must_copy(pool, table):
            table.blocks[-1] = pool.allocate()
            pool.release(last)  # others hold it: it does not become empty
            copies.append((last, table.blocks[-1]))
            needed -= 1
        else:
            pool.forget(last)
    table.blocks += [pool.allocate() for _ in range(needed)]
    table.num_tokens += num_new
    return copies


def fork(pool: BlockPool, table: BlockTable) -> BlockTable:
    """Return a second table of the same text; the two share every block until one grows."""
    for block in table.blocks:
        pool.share(block)
    return BlockTable(list(table.blocks), table.num_tokens)


def truncate(pool: BlockPool, table: BlockTable, num_tokens: int) -> None:
    """Keep the first `num_tokens` tokens and release the blocks behind them, the last one first."""
    assert 0 <= num_tokens <= table.num_tokens, (
        f"cannot cut a table of {table.num_tokens} tokens to {num_tokens}"
    )
    num_blocks = -(-num_tokens // pool.block_size)
    while len(table.blocks) > num_blocks:
        pool.release(table.blocks.pop())
    table.num_tokens = num_tokens


def release_all(pool: BlockPool, table: BlockTable) -> None:
    """Release every block and leave the table empty.

    The last block goes first, and is therefore evicted first: a block is found only if all blocks
    before it are found, so a text's beginning is worth the most.
    """
    truncate(pool, table, 0)
