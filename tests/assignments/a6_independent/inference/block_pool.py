"""Independent solution of a6.9 to a6.11, written from the handout alone.

- The empty blocks are a tree of bits (`_NumberSet`): a word of 64 bits says which of its blocks are
  empty, a word of the level above says which of 64 words are not 0, and so on.
- The cached blocks are a chain through two lists, with the entry `num_blocks` as both its ends, so
  that a block leaves it from any place in constant time.
- The keys of a text are an accumulation over its blocks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile

from lm_core.user_error import UserError


class OutOfBlocks(Exception):
    """No block is empty or evictable: every one is referenced by some block table."""


_WORD = 64  # bits of a word of _NumberSet


class _NumberSet:
    """A set of the numbers 0 .. size - 1 that knows its smallest one. Each operation takes as many
    steps as the tree has levels: three for 100,000 numbers.
    """

    def __init__(self, size: int) -> None:
        """Make a set of all the numbers."""
        self._levels: list[list[int]] = []  # from the numbers to the root, which is one word
        while not self._levels or size > 1:
            full, rest = divmod(size, _WORD)
            words = [2**_WORD - 1] * full + [2**rest - 1] * (rest > 0)
            self._levels.append(words)
            size = len(words)

    def __bool__(self) -> bool:
        """Whether the set has a number."""
        return self._levels[-1][0] != 0

    def add(self, number: int) -> None:
        """Add a number."""
        for words in self._levels:
            number, bit = divmod(number, _WORD)
            words[number] |= 1 << bit

    def remove_smallest(self) -> int:
        """Remove and return the smallest number; the set must not be empty."""
        smallest = 0
        for words in reversed(self._levels):
            word = words[smallest]
            lowest_bit = (word & -word).bit_length() - 1
            smallest = smallest * _WORD + lowest_bit
        number = smallest
        for words in self._levels:
            number, bit = divmod(number, _WORD)
            words[number] ^= 1 << bit
            if words[number]:
                break
        return smallest


class BlockPool:
    """Which of the blocks 0 .. num_blocks - 1 are referenced, cached or empty."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Make a pool of empty blocks, of `block_size` tokens each.

        Raises:
            UserError: a number is below 1.
        """
        if num_blocks < 1:
            raise UserError(f"num_blocks must be at least 1, got {num_blocks}")
        if block_size < 1:
            raise UserError(f"block_size must be at least 1, got {block_size}")
        self.num_blocks, self.block_size = num_blocks, block_size
        self._references = [0] * num_blocks
        self._num_referenced = 0
        self._empty = _NumberSet(num_blocks)
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        # The chain of cached blocks, released first to released last. The entry at num_blocks
        # stands before the first and behind the last of them.
        self._before = [num_blocks] * (num_blocks + 1)
        self._behind = [num_blocks] * (num_blocks + 1)

    @property
    def num_available(self) -> int:
        """Number of blocks that `allocate` can hand out now: the empty and the cached ones."""
        return self.num_blocks - self._num_referenced

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
        if self._num_referenced == self.num_blocks:
            raise OutOfBlocks(f"all {self.num_blocks} blocks are referenced")
        if self._empty:
            block = self._empty.remove_smallest()
        else:
            block = self._behind[self.num_blocks]
            self._unchain(block)
            self._drop_key(block)
        self._references[block] = 1
        self._num_referenced += 1
        return block

    def share(self, block: int) -> None:
        """Add a reference to a block that is referenced or cached. Constant time."""
        if self._references[block] == 0:
            assert self._key_of[block] is not None, f"block {block} is empty: nobody can share it"
            self._unchain(block)
            self._num_referenced += 1
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Take away a reference; with the last one the block becomes cached or empty.

        A block with a key is cached, and is evicted after all blocks cached before it.
        """
        self._check_referenced(block, "release")
        self._references[block] -= 1
        if self._references[block] > 0:
            return
        self._num_referenced -= 1
        if self._key_of[block] is None:
            self._empty.add(block)
        else:
            self._chain_last(block)

    def record(self, block: int, key: bytes) -> None:
        """Let `find(key)` return this referenced block, which is full and computed.

        If another block already has this key, that one keeps it, and `block` stays without. A block
        that has a key keeps it.
        """
        self._check_referenced(block, "record")
        if self._key_of[block] is None and key not in self._block_of:
            self._key_of[block] = key
            self._block_of[key] = block

    def find(self, key: bytes) -> int | None:
        """Return the block recorded under `key`, or None. Nothing changes."""
        return self._block_of.get(key)

    def forget(self, block: int) -> None:
        """Drop the key of a referenced block, whose content is about to change."""
        self._check_referenced(block, "forget the key of")
        self._drop_key(block)

    def forget_all(self) -> None:
        """Drop every key, because the weights changed: cached blocks become empty.

        Referenced blocks stay with their tables. Whoever holds them must not record them again:
        they were computed with the old weights.
        """
        for block in self._block_of.values():
            self._key_of[block] = None
            if self._references[block] == 0:
                self._unchain(block)
                self._empty.add(block)
        self._block_of.clear()

    def _check_referenced(self, block: int, action: str) -> None:
        assert self._references[block] > 0, f"cannot {action} block {block}: nobody holds it"

    def _drop_key(self, block: int) -> None:
        """Take away the key of a block, if it has one."""
        key = self._key_of[block]
        if key is not None:
            del self._block_of[key]
            self._key_of[block] = None

    def _chain_last(self, block: int) -> None:
        """Put a block at the end of the chain of cached blocks."""
        border = self.num_blocks
        last = self._before[border]
        self._before[block], self._behind[block] = last, border
        self._behind[last] = self._before[border] = block

    def _unchain(self, block: int) -> None:
        """Take a block out of the chain of cached blocks, wherever it is."""
        before, behind = self._before[block], self._behind[block]
        self._behind[before], self._before[behind] = behind, before


def block_keys(token_ids: Sequence[int], block_size: int, model_key: bytes = b"") -> list[bytes]:
    """Return one key of 32 bytes for each *full* block of a text.

    key_i = SHA-256(key_{i-1} followed by the block's ids, 8 bytes each, little-endian), and the
    first block follows SHA-256(model_key). Keys and values depend on all tokens before them, hence
    the chain: equal keys mean equal texts from the start to the end of the block, under the same
    weights. `model_key` names whatever else they depend on.
    """
    num_blocks = len(token_ids) // block_size
    contents = (
        b"".join(
            int(token).to_bytes(8, "little")
            for token in token_ids[number * block_size : (number + 1) * block_size]
        )
        for number in range(num_blocks)
    )
    start = hashlib.sha256(model_key).digest()
    chain = accumulate(contents, _chained, initial=start)
    return list(chain)[1:]


def _chained(key: bytes, content: bytes) -> bytes:
    """Return the key of the block with this content that follows the block with this key."""
    return hashlib.sha256(key + content).digest()


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
    most = max(0, len(token_ids) - 1) // pool.block_size
    found = takewhile(lambda block: block is not None, map(pool.find, keys[:most]))
    blocks = [block for block in found if block is not None]
    for block in blocks:
        pool.share(block)
    return BlockTable(blocks, len(blocks) * pool.block_size)


def record_full_blocks(
    pool: BlockPool, table: BlockTable, keys: Sequence[bytes], num_computed: int
) -> None:
    """Record the blocks that lie wholly within the first `num_computed` tokens of the text.

    `keys` are the `block_keys` of the text. A block still being written is never recorded.
    """
    assert num_computed <= table.num_tokens, (
        f"{num_computed} tokens are computed, but the table has places for {table.num_tokens}"
    )
    num_full = num_computed // pool.block_size
    for block, key in zip(table.blocks[:num_full], keys, strict=False):
        pool.record(block, key)


def _blocks_for(pool: BlockPool, num_tokens: int) -> int:
    """Return how many blocks a table of this many tokens has."""
    return -(-num_tokens // pool.block_size)


def _written_block(pool: BlockPool, table: BlockTable, num_new: int) -> int | None:
    """Return the partly filled block into which further tokens would be written, if any."""
    partly_filled = table.num_tokens % pool.block_size != 0
    return table.blocks[-1] if num_new > 0 and partly_filled else None


def blocks_needed(pool: BlockPool, table: BlockTable, num_new: int) -> int:
    """Return how many blocks `reserve(pool, table, num_new)` would allocate, a copy included."""
    written = _written_block(pool, table, num_new)
    copied = written is not None and pool.references(written) > 1
    return _blocks_for(pool, table.num_tokens + num_new) - len(table.blocks) + copied


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
        raise OutOfBlocks(
            f"{num_new} further tokens need {needed} blocks, and {pool.num_available} are available"
        )
    copies = []
    written = _written_block(pool, table, num_new)
    if written is not None and pool.references(written) > 1:
        table.blocks[-1] = pool.allocate()
        pool.release(written)
        copies.append((written, table.blocks[-1]))
    elif written is not None:
        pool.forget(written)
    table.blocks += [pool.allocate() for _ in range(needed - len(copies))]
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
        f"cannot keep {num_tokens} tokens of a table that has {table.num_tokens}"
    )
    for _ in range(len(table.blocks) - _blocks_for(pool, num_tokens)):
        pool.release(table.blocks.pop())
    table.num_tokens = num_tokens


def release_all(pool: BlockPool, table: BlockTable) -> None:
    """Release every block and leave the table empty.

    The last block goes first, and is therefore evicted first: a block is found only if all blocks
    before it are found, so a text's beginning is worth the most.
    """
    truncate(pool, table, 0)
