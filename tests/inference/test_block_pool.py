"""The pool of blocks: a model of what each block holds, and examples worked by hand."""

import copy
import hashlib
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference.block_pool import (
    BlockPool,
    BlockTable,
    OutOfBlocks,
    block_keys,
    blocks_needed,
    fork,
    record_full_blocks,
    release_all,
    reserve,
    take_cached_prefix,
    truncate,
)
from lm_core.user_error import UserError

tokens = st.integers(0, 1)  # two tokens, so that texts often begin alike
texts = st.lists(tokens, max_size=11)


class Text:
    """A text of a request, its table, and whether its blocks hold what the weights of now give."""

    def __init__(self, token_ids, table):
        self.token_ids = token_ids
        self.table = table
        self.num_computed = table.num_tokens
        self.current = True


class PoolOfContents(RuleBasedStateMachine):
    """Random requests on a small pool, with a model of the content of each place.

    A place holds the weights' number and all tokens up to its own, as keys and values depend on
    all of them.
    """

    @initialize(num_blocks=st.integers(1, 7), block_size=st.integers(1, 4))
    def make(self, num_blocks, block_size):
        self.pool = BlockPool(num_blocks, block_size)
        self.content = [[None] * block_size for _ in range(num_blocks)]
        self.texts = []
        self.weights = 0
        self.expected = {}  # every key ever recorded -> the content of its block

    def keys_of(self, token_ids):
        return block_keys(token_ids, self.pool.block_size, bytes([self.weights]))

    def some(self, number):
        return self.texts[number % len(self.texts)]

    def read(self, table):
        """Return what the places of a table hold."""
        size = self.pool.block_size
        places = [self.content[block][offset] for block in table.blocks for offset in range(size)]
        return places[: table.num_tokens]

    def recorded_blocks(self):
        return {self.pool.find(key) for key in self.expected} - {None}

    def state(self):
        """Return everything that an operation could change and that others can see."""
        tables = [(list(text.table.blocks), text.table.num_tokens) for text in self.texts]
        references = [self.pool.references(block) for block in range(self.pool.num_blocks)]
        keys = {key: self.pool.find(key) for key in self.expected}
        return tables, references, keys, self.pool.num_available, self.order_of_allocation()

    def order_of_allocation(self):
        pool = copy.deepcopy(self.pool)
        handed_out = [pool.allocate() for _ in range(pool.num_available)]
        with pytest.raises(OutOfBlocks):
            pool.allocate()
        return handed_out

    @rule(token_ids=texts)
    def begin(self, token_ids):
        keys = self.keys_of(token_ids)
        table = take_cached_prefix(self.pool, token_ids, keys)
        held = len(table.blocks)
        assert table.num_tokens == held * self.pool.block_size
        assert table.num_tokens < len(token_ids) or not token_ids
        most = max(len(token_ids) - 1, 0) // self.pool.block_size
        assert held == most or self.pool.find(keys[held]) is None
        self.texts.append(Text(token_ids[: table.num_tokens], table))
        # The text continues with `grow`, maybe not as it was looked up.

    @precondition(lambda self: self.texts)
    @rule(number=st.integers(0, 9), new=st.lists(tokens, max_size=9))
    def grow(self, number, new):
        text = self.some(number)
        table, pool = text.table, self.pool
        needed, before = blocks_needed(pool, table, len(new)), self.state()
        if needed > pool.num_available:
            with pytest.raises(OutOfBlocks):
                reserve(pool, table, len(new))
            assert self.state() == before
            return
        first, available = table.num_tokens, pool.num_available
        copies = reserve(pool, table, len(new))
        shared_before = Counter(block for blocks, _ in before[0] for block in blocks)
        assert available - pool.num_available == needed
        for source, target in copies:
            assert source != target and shared_before[source] > 1
            self.content[target] = list(self.content[source])
        if not first % pool.block_size or not new:
            assert not copies
        recorded = self.recorded_blocks()
        for token in new:
            position = len(text.token_ids)
            text.token_ids.append(token)
            block = table.blocks[position // pool.block_size]
            assert pool.references(block) == 1, f"written while others read it: block {block}"
            assert block not in recorded, f"written while it can be found: block {block}"
            prefix = (self.weights, *text.token_ids)
            self.content[block][position % pool.block_size] = prefix

    @precondition(lambda self: self.texts)
    @rule(number=st.integers(0, 9), few=st.integers(0, 3))
    def compute(self, number, few):
        text = self.some(number)
        if not text.current:
            return
        text.num_computed = max(text.num_computed, text.table.num_tokens - few)
        keys = self.keys_of(text.token_ids)
        size = self.pool.block_size
        for place, key in enumerate(keys[: text.num_computed // size]):
            ids = text.token_ids
            ends = range(place * size + 1, (place + 1) * size + 1)
            self.expected.setdefault(key, [(self.weights, *ids[:end]) for end in ends])
        record_full_blocks(self.pool, text.table, keys, text.num_computed)
        assert all(self.pool.find(key) is not None for key in keys[: text.num_computed // size])

    @precondition(lambda self: self.texts)
    @rule(number=st.integers(0, 9))
    def branch(self, number):
        text = self.some(number)
        other = Text(list(text.token_ids), fork(self.pool, text.table))
        other.num_computed, other.current = text.num_computed, text.current
        self.texts.append(other)

    @precondition(lambda self: self.texts)
    @rule(number=st.integers(0, 9), fewer=st.integers(0, 9))
    def cut(self, number, fewer):
        text = self.some(number)
        left = max(text.table.num_tokens - fewer, 0)
        truncate(self.pool, text.table, left)
        del text.token_ids[left:]
        text.num_computed = min(text.num_computed, left)

    @precondition(lambda self: self.texts)
    @rule(number=st.integers(0, 9))
    def end(self, number):
        text = self.some(number)
        self.texts.remove(text)
        release_all(self.pool, text.table)
        assert text.table == BlockTable([], 0)

    @rule()
    def new_weights(self):
        self.pool.forget_all()
        self.weights += 1
        for text in self.texts:
            text.current = False
        assert not self.recorded_blocks()

    @invariant()
    def every_block_is_in_one_state(self):
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        held = Counter(block for text in self.texts for block in text.table.blocks)
        assert held == {b: pool.references(b) for b in range(pool.num_blocks) if held[b]}
        assert sum(map(pool.references, range(pool.num_blocks))) == held.total()
        free = [block for block in range(pool.num_blocks) if not held[block]]
        order = self.order_of_allocation()
        assert sorted(order) == free
        recorded = self.recorded_blocks()
        empty = [block for block in free if block not in recorded]
        assert order[: len(empty)] == empty, "empty blocks come first, the lowest of them first"

    @invariant()
    def blocks_hold_the_tokens_of_their_keys_and_tables(self):
        if not hasattr(self, "pool"):
            return
        for text in self.texts:
            table = text.table
            assert table.num_tokens == len(text.token_ids)
            assert len(table.blocks) == -(-table.num_tokens // self.pool.block_size)
            if text.current:
                places = [(self.weights, *text.token_ids[: n + 1]) for n in range(table.num_tokens)]
                assert self.read(table) == places
        found = [self.pool.find(key) for key in self.expected]
        assert max(Counter(b for b in found if b is not None).values(), default=1) == 1
        for key, block in zip(self.expected, found, strict=True):
            assert block is None or self.content[block] == self.expected[key]


PoolOfContents.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPoolOfContents = PoolOfContents.TestCase


def filled(pool, token_ids):
    """Return a table of a text that is computed and recorded."""
    table = BlockTable()
    reserve(pool, table, len(token_ids))
    record_full_blocks(pool, table, block_keys(token_ids, pool.block_size), len(token_ids))
    return table


def test_empty_blocks_come_first_and_the_lowest_of_them():
    pool = BlockPool(4, 2)
    assert [pool.allocate() for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OutOfBlocks):
        pool.allocate()
    for block in (2, 0, 3):
        pool.release(block)
    assert [pool.allocate() for _ in range(3)] == [0, 2, 3]


def test_the_least_recently_released_block_is_evicted():
    pool = BlockPool(3, 2)
    for block, key in enumerate([b"a", b"b", b"c"]):
        pool.record(pool.allocate(), key)
        assert pool.find(key) == block
    for block in (1, 0, 2):
        pool.release(block)
    assert pool.num_available == 3
    pool.share(1)
    assert pool.num_available == 2
    pool.release(1)  # now the most recent one
    assert [pool.allocate() for _ in range(3)] == [0, 2, 1]
    assert [pool.find(key) for key in (b"a", b"b", b"c")] == [None] * 3


def test_the_end_of_a_text_is_evicted_before_its_beginning():
    pool = BlockPool(3, 2)
    token_ids = [5, 6, 7, 8, 9, 10, 11]
    table = filled(pool, token_ids[:6])
    release_all(pool, table)
    pool.allocate()
    table = take_cached_prefix(pool, token_ids, block_keys(token_ids, 2))
    assert table == BlockTable([0, 1], 4)


def test_the_first_block_of_a_key_keeps_it():
    pool = BlockPool(3, 2)
    first, second = pool.allocate(), pool.allocate()
    pool.record(first, b"key")
    pool.record(second, b"key")
    assert pool.find(b"key") == first
    pool.release(second)
    assert pool.allocate() == second  # it was empty, not cached
    pool.release(first)
    pool.allocate()
    assert pool.allocate() == first
    assert pool.find(b"key") is None
    pool.record(second, b"key")
    assert pool.find(b"key") == second


def test_the_keys_of_a_text():
    chain = hashlib.sha256(b"model").digest()
    expected = []
    for ids in ([1, 2], [70_000, 2**40]):
        chain = hashlib.sha256(chain + b"".join(i.to_bytes(8, "little") for i in ids)).digest()
        expected.append(chain)
    assert block_keys([1, 2, 70_000, 2**40, 5], 2, b"model") == expected
    assert block_keys([1], 2) == []
    assert block_keys([], 2) == []
    assert block_keys([1, 2], 2)[0] != expected[0]


def test_one_token_is_left_of_a_prompt_that_is_cached_altogether():
    pool = BlockPool(4, 2)
    release_all(pool, filled(pool, [1, 2, 3, 4]))
    keys = block_keys([1, 2, 3, 4, 5], 2)
    assert take_cached_prefix(pool, [1, 2, 3, 4], keys[:2]).num_tokens == 2
    assert take_cached_prefix(pool, [1, 2, 3, 4, 5], keys).num_tokens == 4
    assert take_cached_prefix(pool, [], []) == BlockTable([], 0)


def test_copy_on_write():
    pool = BlockPool(5, 2)
    table = filled(pool, [1, 2, 3])
    other = fork(pool, table)
    assert blocks_needed(pool, table, 0) == 0
    assert reserve(pool, table, 0) == []
    assert blocks_needed(pool, table, 1) == 1
    assert reserve(pool, table, 1) == [(1, 2)]
    assert (table.blocks, other.blocks) == ([0, 2], [0, 1])
    assert reserve(pool, other, 2) == []  # nobody else holds block 1 any more
    assert (other.blocks, other.num_tokens) == ([0, 1, 3], 5)


def test_a_recorded_block_is_not_found_after_it_is_cut_and_written():
    pool = BlockPool(3, 2)
    table = filled(pool, [1, 2])
    (key,) = block_keys([1, 2], 2)
    truncate(pool, table, 1)
    assert pool.find(key) == 0
    assert reserve(pool, table, 1) == []
    assert pool.find(key) is None


def test_mistakes_of_the_caller():
    pool = BlockPool(2, 2)
    with pytest.raises(AssertionError, match="block 0 is released"):
        pool.release(0)
    with pytest.raises(AssertionError, match="block 1 is empty"):
        pool.share(1)
    with pytest.raises(AssertionError, match="block 1 is recorded"):
        pool.record(1, b"key")
    with pytest.raises(AssertionError, match="block 1 is forgotten"):
        pool.forget(1)
    with pytest.raises(AssertionError, match="cannot cut a table of 0 tokens to 1"):
        truncate(pool, BlockTable(), 1)
    with pytest.raises(AssertionError, match="3 tokens are computed"):
        record_full_blocks(pool, BlockTable(), [], 3)


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 2), (-1, 2), (2, 0), (2, -1)])
def test_impossible_pools(num_blocks, block_size):
    wrong = num_blocks if num_blocks < 1 else block_size
    with pytest.raises(UserError, match=f"is {wrong}, expected at least 1"):
        BlockPool(num_blocks, block_size)
