"""a6.10: keys of blocks, and beginnings of texts that are found in the pool."""

import hashlib
import random

import pool_oracle
import pytest

pytestmark = pytest.mark.task("a6.10")
MODULE = "inference.block_pool"


def hashed(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def id_bytes(ids, size=8, order="little"):
    return b"".join((i % 256**size).to_bytes(size, order) for i in ids)


def chained(blocks, to_bytes=id_bytes, model_key=b""):
    keys, key = [], hashed(model_key)
    for ids in blocks:
        key = hashed(key, to_bytes(ids))
        keys.append(key)
    return keys


def wrong_keys(blocks):
    """The keys that likely mistakes give: cause -> keys."""
    return {
        "all bytes of an id count: with its lowest byte alone, 257 is found as 1": chained(
            blocks, lambda ids: id_bytes(ids, 1)
        ),
        "all bytes of an id count: with two bytes, 65,537 is found as 1": chained(
            blocks, lambda ids: id_bytes(ids, 2)
        ),
        "8 bytes for each id, not 4": chained(blocks, lambda ids: id_bytes(ids, 4)),
        "the ids are little-endian": chained(blocks, lambda ids: id_bytes(ids, 8, "big")),
        "the key of the block before comes first: without it, the block is also found after "
        "another beginning": [hashed(hashed(b""), id_bytes(ids)) for ids in blocks],
        "each key hashes the key before it and the block's ids, and nothing else": [
            hashed(id_bytes(ids)) for ids in blocks
        ],
        "the key before the first block is SHA-256 of model_key, not model_key itself": (
            lambda got: got[0] == hashed(id_bytes(blocks[0]))
        ),
        "a digest has 32 bytes: digest(), not hexdigest()": lambda got: isinstance(got[0], str),
        "only full blocks get a key; the rest of the text is still being written": (
            lambda got: len(got) > len(blocks)
        ),
    }


@pytest.mark.parametrize(
    "blocks",
    [[[1, 2]], [[1, 2], [3, 4]], [[65_537, 2], [257, 256]], [[2**40, 70_000], [0, 0], [0, 0]]],
    ids=["one block", "two blocks", "large ids", "equal blocks"],
)
def test_the_keys_of_a_text(implementation, a6, blocks):
    for rest in ([], [7]):
        ids = [i for block in blocks for i in block] + rest
        got = implementation(MODULE).block_keys(ids, 2)
        a6.expect(got, chained(blocks), f"block_keys({ids}, 2)", wrong_keys(blocks))


def test_the_first_bytes_of_the_handout(implementation, a6):
    keys = [implementation(MODULE).block_keys(ids, 2) for ids in ([1, 2, 3, 4], [3, 4])]
    got = [key.hex()[:16] for each in keys for key in each]
    expected = ["5d8bb3bb5aa40477", "a7d080946a97349f", "cccbffb95c8ebc7f"]
    a6.expect(got, expected, "the keys of [1, 2, 3, 4] and of [3, 4]")


def test_texts_shorter_than_a_block(implementation, a6):
    block_keys = implementation(MODULE).block_keys
    a6.expect(block_keys([], 4), [], "block_keys([], 4)")
    causes = {"a partly filled block gets no key": lambda got: len(got) == 1}
    a6.expect(block_keys([1, 2, 3], 4), [], "block_keys([1, 2, 3], 4)", causes)
    a6.expect(len(block_keys([1, 2, 3], 1)), 3, "the number of keys of 3 ids in blocks of 1")


def test_the_model_key(implementation, a6):
    block_keys = implementation(MODULE).block_keys
    blocks = [[1, 2], [3, 4]]
    got = block_keys([1, 2, 3, 4], 2, b"weights of Monday")
    causes = {
        "model_key is not used: blocks of other weights would be found": chained(blocks),
        "the key before the first block is SHA-256 of model_key, not model_key itself": [
            hashed(b"weights of Monday", id_bytes([1, 2])),
            hashed(hashed(b"weights of Monday", id_bytes([1, 2])), id_bytes([3, 4])),
        ],
    }
    expected = chained(blocks, model_key=b"weights of Monday")
    a6.expect(got, expected, 'block_keys([1, 2, 3, 4], 2, b"weights of Monday")', causes)


def test_texts_that_must_not_be_confused(implementation, a6):
    block_keys = implementation(MODULE).block_keys
    pairs = [([1, 2, 3, 4], [9, 9, 3, 4]), ([1, 2, 5, 5], [2, 1, 5, 5]), ([1, 258], [258, 1]),
             ([0, 1], [256, 1]), ([5, 65_541], [5, 5]), ([7, 2**32 + 7], [7, 7])]  # fmt: skip
    for one, other in pairs:
        a6.true(
            block_keys(one, 2)[-1] != block_keys(other, 2)[-1],
            f"{one} and {other} have the same last key: the second request would read the first's "
            "keys and values",
        )
    same = block_keys([1, 2, 3, 4, 5, 6], 2)[:2] == block_keys([1, 2, 3, 4, 9], 2)
    a6.true(same, "texts that begin with [1, 2, 3, 4] must have the same first two keys")


def pool_with(module, ids, size=2, num_blocks=8, computed=None):
    """Return a pool and a table of a text whose blocks are allocated and recorded, 0 first."""
    pool = module.BlockPool(num_blocks, size)
    blocks = [pool.allocate() for _ in range(-(-len(ids) // size))]
    table = module.BlockTable(blocks, len(ids))
    keys = pool_oracle.block_keys(ids, size)
    module.record_full_blocks(pool, table, keys, len(ids) if computed is None else computed)
    return pool, table


def released(pool, table):
    for block in reversed(table.blocks):
        pool.release(block)


def test_only_full_and_computed_blocks_are_recorded(implementation, a6):
    module = implementation(MODULE)
    ids = [1, 2, 3, 4, 5, 6, 7]
    for computed in range(8):
        pool, table = pool_with(module, ids, computed=computed)
        got = [pool.find(key) for key in pool_oracle.block_keys(ids, 2)]
        expected = [number if 2 * number + 2 <= computed else None for number in range(3)]
        causes = {
            "num_computed counts, not table.num_tokens: blocks without content must not be found": (
                [0, 1, 2]
            ),
            "a block is recorded only when all of its tokens are computed": (
                [number if 2 * number < computed else None for number in range(3)]
            ),
            "a block is complete with its last token": (
                [number if 2 * number + 2 < computed else None for number in range(3)]
            ),
        }
        what = f"the blocks found after record_full_blocks with num_computed = {computed}"
        a6.expect(got, expected, what, causes)
        a6.expect([table.blocks, table.num_tokens], [[0, 1, 2, 3], 7], "the table after it")
        found = [pool.references(block) for block in range(8)]
        a6.expect(found, [1] * 4 + [0] * 4, "the references after record_full_blocks")


def test_recorded_step_by_step(implementation, a6):
    module = implementation(MODULE)
    ids = [1, 2, 3, 4, 5, 6]
    pool, table = pool_with(module, ids, computed=1)
    keys = pool_oracle.block_keys(ids, 2)
    for computed in (2, 3, 4, 4, 6):
        module.record_full_blocks(pool, table, keys, computed)
        got = [pool.find(key) for key in keys]
        expected = [number if 2 * number + 2 <= computed else None for number in range(3)]
        a6.expect(got, expected, f"the blocks found when {computed} tokens are computed")


def test_more_computed_than_the_table_has(implementation, a6):
    module = implementation(MODULE)
    pool = module.BlockPool(4, 2)
    table = module.BlockTable([pool.allocate(), pool.allocate()], 3)
    keys = pool_oracle.block_keys([1, 2, 3, 4], 2)
    what = "record_full_blocks with num_computed = 4 for a table of 3 tokens"
    a6.raises(AssertionError, lambda: module.record_full_blocks(pool, table, keys, 4), what)
    a6.expect([pool.find(key) for key in keys], [None, None], f"the blocks found after {what}")


# The text [1, 2, 3, 4, 5] is cached in blocks 0, 1 and 2 of two tokens.
BEGINNINGS = [
    ([1, 2, 3, 4, 9], [0, 1], "the beginning is the same"),
    ([1, 2, 3, 4, 5], [0, 1], "the same text"),
    ([1, 2, 3, 4, 5, 6, 7], [0, 1], "a longer text; its third block was never full"),
    ([1, 2, 3], [0], "one token after a block"),
    ([1, 2, 9, 4, 5], [0], "another second block"),
]
NO_BEGINNINGS = [
    ([9, 2, 3, 4, 5], [], "another first block"),
    ([3, 4, 5], [], "the second block without the first"),
    ([1], [], "less than a block"),
    ([], [], "no token"),
]
ALL_FOUND = [
    ([1, 2, 3, 4], [0], "two blocks, both found: one token is left"),
    ([1, 2], [], "one block, found: one token is left"),
]


@pytest.mark.parametrize(
    "texts",
    [BEGINNINGS, NO_BEGINNINGS, ALL_FOUND],
    ids=["beginnings", "other texts", "all blocks found"],
)
def test_what_is_taken(implementation, a6, texts):
    for ids, blocks, why in texts:
        check_what_is_taken(implementation(MODULE), a6, ids, blocks, why)


def check_what_is_taken(module, a6, ids, blocks, why):
    pool, table = pool_with(module, [1, 2, 3, 4, 5])
    released(pool, table)
    keys = pool_oracle.block_keys(ids, 2)
    given = list(ids), list(keys)
    table = module.take_cached_prefix(pool, ids, keys)
    what = f"take_cached_prefix of {ids} ({why})"
    every = [block for block in map(pool.find, keys) if block is not None]
    causes = {
        "at least one token is left to compute: its output gives the next token": (
            lambda got: len(got) * 2 >= len(ids)
        ),
        "the run ends with the first block that is not found": every,
        "only the last token must be left, not a whole block": lambda got: len(got) < len(blocks),
    }
    a6.expect(list(table.blocks), blocks, f"{what}: blocks", causes)
    causes = {"only tokens in the blocks that were taken count": len(ids)}
    a6.expect(table.num_tokens, 2 * len(blocks), f"{what}: num_tokens", causes)
    got = [pool.references(block) for block in range(8)]
    causes = {"each block that is taken must be shared, or somebody else evicts it": [0] * 8}
    a6.expect(got, [int(n in blocks) for n in range(8)], f"{what}: the references", causes)
    a6.expect((ids, keys), given, f"{what}: its arguments afterwards")


def test_a_gap(implementation, a6):
    """The first block is evicted, and the later ones are still there."""
    module = implementation(MODULE)
    ids = [1, 2, 3, 4, 5, 6, 7]
    pool, table = pool_with(module, ids, num_blocks=4)
    for block in table.blocks:  # the wrong order: the first block is evicted first
        pool.release(block)
    pool.allocate()
    pool.allocate()
    keys = pool_oracle.block_keys(ids, 2)
    a6.expect([pool.find(key) for key in keys], [None, 1, 2], "the blocks found under the keys")
    table = module.take_cached_prefix(pool, ids, keys)
    causes = {"without the block before it, a block is of no use: stop at the first gap": [1, 2]}
    a6.expect(list(table.blocks), [], "take_cached_prefix when block 0 is evicted", causes)


def test_a_block_that_is_in_use_is_taken_too(implementation, a6):
    module = implementation(MODULE)
    ids = [1, 2, 3, 4, 5]
    pool, _ = pool_with(module, ids)
    tables = [module.take_cached_prefix(pool, ids, pool_oracle.block_keys(ids, 2)) for _ in "ab"]
    a6.expect([list(each.blocks) for each in tables], [[0, 1], [0, 1]], "the blocks taken, twice")
    a6.expect([pool.references(block) for block in range(3)], [3, 3, 1], "the references")
    tables[0].blocks.append(7)
    a6.expect(list(tables[1].blocks), [0, 1], "the second table after the first has grown")


def test_forget_all(implementation, a6):
    module = implementation(MODULE)
    pool, table = pool_with(module, [1, 2, 3, 4, 5, 6, 7, 8])
    keys = pool_oracle.block_keys([1, 2, 3, 4, 5, 6, 7, 8], 2)
    pool.share(1)
    released(pool, table)  # 0, 2 and 3 are cached, in the order 3, 2, 0; 1 is referenced
    pool.forget_all()
    causes = {"every key is dropped, also those of referenced blocks": [None, 1, None, None]}
    found = [pool.find(key) for key in keys]
    a6.expect(found, [None] * 4, "the blocks found after forget_all", causes)
    got = [pool.references(block) for block in range(8)]
    a6.expect(got, [0, 1, 0, 0, 0, 0, 0, 0], "the references after forget_all")
    causes = {
        "referenced blocks stay with their tables": 8,
        "cached blocks become empty: they stay available": 4,
    }
    a6.expect(pool.num_available, 7, "num_available after forget_all", causes)
    got = [pool.allocate() for _ in range(3)]
    causes = {"cached blocks become empty, and the lowest empty block comes first": [4, 5, 6]}
    a6.expect(got, [0, 2, 3], "allocate(), three times, after forget_all", causes)
    pool.record(3, keys[0])
    pool.release(1)
    a6.expect(pool.allocate(), 1, "allocate() after the block that was referenced is released")
    pool.record(1, keys[1])
    found = [pool.find(key) for key in keys]
    a6.expect(found, [3, 1, None, None], "the blocks found, recorded again under the old keys")
    pool.release(3)
    pool.release(1)
    got = [pool.allocate() for _ in range(6)]
    a6.expect(got, [4, 5, 6, 7, 3, 1], "allocate(), six times: empty blocks, then cached ones")
    a6.expect([pool.find(key) for key in keys], [None] * 4, "the blocks found after eviction")


def test_a_found_block_holds_the_tokens_of_its_key(implementation, a6):
    """Random requests in a small pool, whose blocks are lists of tokens."""
    module = implementation(MODULE)
    rng = random.Random(10)
    size, num_blocks = 2, 9
    pool = module.BlockPool(num_blocks, size)
    content = [[] for _ in range(num_blocks)]
    running = []
    for number in range(150):
        ids = [rng.choice([1, 257, 65_537]) for _ in range(rng.randrange(1, 9))]
        if running and (len(running) == 2 or rng.random() < 0.5):
            released(pool, running.pop(0))
        keys = module.block_keys(ids, size)
        table = module.take_cached_prefix(pool, ids, keys)
        for place, block in enumerate(table.blocks):
            expected = ids[: (place + 1) * size]
            causes = {
                "the block comes from a text with another beginning: is the key before it hashed?":
                    lambda got, end=expected[-size:]: got[-size:] == end,
                "an id was cut to fewer bytes, or an evicted block kept its key": lambda got: True,
            }  # fmt: skip
            what = f"request {number}: the tokens up to the end of block {block}, found as block"
            a6.expect(content[block], expected, f"{what} {place} of {ids}", causes)
        while len(table.blocks) * size < len(ids):
            block = pool.allocate()
            content[block] = ids[: (len(table.blocks) + 1) * size]
            table.blocks.append(block)
        table.num_tokens = len(ids)
        module.record_full_blocks(pool, table, keys, len(ids))
        running.append(table)
