"""a6.11: block tables that grow, fork, shrink and end."""

import copy
import random
from itertools import product

import pytest

pytestmark = pytest.mark.task("a6.11")
MODULE = "inference.block_pool"
X, Y = bytes(32), bytes([1]) * 32


def references(pool):
    return [pool.references(block) for block in range(pool.num_blocks)]


def seen(table):
    return list(table.blocks), table.num_tokens


def grown(module, num_tokens, num_blocks=8, size=4):
    """Return a pool and a table of so many tokens, in the blocks from 0 on."""
    pool = module.BlockPool(num_blocks, size)
    table = module.BlockTable()
    module.reserve(pool, table, num_tokens)
    return pool, table


def test_the_example_of_the_handout(implementation, a6):
    module = implementation(MODULE)
    pool, a = module.BlockPool(5, 4), module.BlockTable()
    a6.expect(module.reserve(pool, a, 6), [], "reserve(pool, a, 6) of the example")
    a6.expect(seen(a), ([0, 1], 6), "a after reserve(pool, a, 6)")
    b = module.fork(pool, a)
    a6.expect([seen(a), seen(b)], [([0, 1], 6)] * 2, "a and b after fork")
    a6.expect(references(pool), [2, 2, 0, 0, 0], "the references after fork")
    causes = {"a copy needs a block, too": 0}
    a6.expect(module.blocks_needed(pool, a, 2), 1, "blocks_needed(pool, a, 2)", causes)
    causes = {
        "the pair is (old, new): copy the content of the first to the second": [(2, 1)],
        "block 1 is partly filled, and b holds it: it must be copied": [],
        "the copy is allocated before further blocks": [(1, 3)],
    }
    a6.expect(module.reserve(pool, a, 3), [(1, 2)], "reserve(pool, a, 3)", causes)
    a6.expect([seen(a), seen(b)], [([0, 2, 3], 9), ([0, 1], 6)], "a and b after it")
    causes = {"a no longer holds block 1: release it": [2, 2, 1, 1, 0]}
    a6.expect(references(pool), [2, 1, 1, 1, 0], "the references after it", causes)
    causes = {"nobody else holds block 1 any more: no copy": [(1, 4)]}
    a6.expect(module.reserve(pool, b, 2), [], "reserve(pool, b, 2)", causes)
    what = "reserve(pool, b, 5) with one block left"
    a6.raises(module.OutOfBlocks, lambda: module.reserve(pool, b, 5), what)
    a6.expect(seen(b), ([0, 1], 8), f"b after {what}")
    a6.expect(references(pool), [2, 1, 1, 1, 0], f"the references after {what}")
    module.truncate(pool, a, 8)
    causes = {"8 tokens fill two blocks of 4: the third goes": ([0, 2, 3], 8)}
    a6.expect(seen(a), ([0, 2], 8), "a after truncate(pool, a, 8)", causes)
    module.truncate(pool, a, 3)
    a6.expect(seen(a), ([0], 3), "a after truncate(pool, a, 3)")
    a6.expect(references(pool), [2, 1, 0, 0, 0], "the references after it")
    causes = {"after truncate, block 0 is partly filled, and b still reads all of it": []}
    a6.expect(module.reserve(pool, a, 1), [(0, 2)], "reserve(pool, a, 1) at the end", causes)
    a6.expect([seen(a), seen(b)], [([2], 4), ([0, 1], 8)], "a and b at the end")
    module.release_all(pool, b)
    a6.expect(seen(b), ([], 0), "b after release_all")
    a6.expect(references(pool), [0, 0, 1, 0, 0], "the references after release_all")


def test_the_number_of_blocks(implementation, a6):
    """Every length around two borders, grown in two parts."""
    module = implementation(MODULE)
    for size in (2, 1, 4):
        for first, more in product(range(2 * size + 2), repeat=2):
            pool, table = grown(module, first, 10, size)
            needed = -(-(first + more) // size) - -(-first // size)
            what = f"with {more} tokens after {first} in blocks of {size}"
            causes = {
                "the free places of the last block are used first": -(-more // size),
                "at a border, the next token needs a block": needed - 1,
                "a text that ends at a border needs no further block": needed + 1,
            }
            a6.expect(module.blocks_needed(pool, table, more), needed,
                      f"blocks_needed {what}", causes)  # fmt: skip
            a6.expect(seen(table)[1], first, f"num_tokens after blocks_needed {what}")
            a6.expect(module.reserve(pool, table, more), [], f"reserve {what}")
            expected = list(range(-(-(first + more) // size))), first + more
            a6.expect(seen(table), expected, f"the table after reserve {what}")


def test_when_a_block_is_copied(implementation, a6):
    module = implementation(MODULE)
    for tokens, more, copied, why in [
        (6, 1, True, "the last block is partly filled and shared"),
        (5, 3, True, "it is partly filled, and shared, and is just filled"),
        (8, 1, False, "the last block is full: nobody writes into it"),
        (6, 0, False, "no token is added"),
        (1, 5, True, "its only block is partly filled and shared"),
    ]:
        pool, table = grown(module, tokens)
        other = module.fork(pool, table)
        blocks = list(table.blocks)
        needed = -(-(tokens + more) // 4) - len(blocks) + copied
        what = f"with {more} tokens after {tokens}, in blocks of 4, after fork ({why})"
        a6.expect(module.blocks_needed(pool, table, more), needed, f"blocks_needed {what}")
        free = len(blocks)
        got = module.reserve(pool, table, more)
        causes = {
            "the pair is (old, new)": [(free, blocks[-1])],
            "the partly filled block is written while the other table reads it": [],
            "no copy is needed": [(blocks[-1], free)],
        }
        a6.expect(got, [(blocks[-1], free)] if copied else [], f"reserve {what}", causes)
        a6.expect(seen(other), (blocks, tokens), f"the other table after reserve {what}")
        held = [*blocks, *table.blocks]
        a6.expect(references(pool), [held.count(n) for n in range(8)],
                  f"the references after reserve {what}")  # fmt: skip


def test_three_answers_to_one_prompt(implementation, a6):
    module = implementation(MODULE)
    pool, a = grown(module, 6)
    b, c = module.fork(pool, a), module.fork(pool, a)
    got = [module.reserve(pool, table, 1) for table in (a, b, c)]
    causes = {
        "the last one that holds the block needs no copy": [[(1, 2)], [(1, 3)], [(1, 4)]],
        "the block has other references until all but one have left": [[(1, 2)], [], []],
    }
    a6.expect(got, [[(1, 2)], [(1, 3)], []], "reserve for each of three forks", causes)
    expected = [([0, 2], 7), ([0, 3], 7), ([0, 1], 7)]
    a6.expect([seen(each) for each in (a, b, c)], expected, "the tables after it")
    a6.expect(references(pool), [3, 1, 1, 1, 0, 0, 0, 0], "the references after it")


@pytest.mark.parametrize(
    ("fork", "more"), [(False, 7), (True, 1), (True, 3), (True, 20)],
    ids=["growth", "copy", "copy and growth", "far too many"],
)  # fmt: skip
def test_nothing_changes_when_blocks_run_out(implementation, a6, fork, more):
    """One block is available for growth, none for a copy; it is cached, and must not be evicted."""
    module = implementation(MODULE)
    pool, table = grown(module, 10, 4)  # three blocks, the last half filled
    if fork:
        module.fork(pool, table)
    block = pool.allocate()
    pool.record(block, Y)
    if not fork:
        pool.release(block)
    pool.record(2, X)  # as if it had been full, and then cut
    before = seen(table), references(pool), pool.num_available
    what = f"reserve of {more} tokens with {pool.num_available} blocks available"
    a6.raises(module.OutOfBlocks, lambda: module.reserve(pool, table, more), what)
    a6.expect(seen(table), before[0], f"the table after {what}")
    causes = {"count the blocks that are needed before anything is allocated or released": (
        lambda got: True
    )}  # fmt: skip
    a6.expect(references(pool), before[1], f"the references after {what}", causes)
    a6.expect(pool.num_available, before[2], f"num_available after {what}", causes)
    a6.expect([pool.find(X), pool.find(Y)], [2, 3], f"the blocks found after {what}", causes)


def test_a_fork_is_independent(implementation, a6):
    module = implementation(MODULE)
    pool, a = grown(module, 8)
    b = module.fork(pool, a)
    a6.expect(references(pool), [2, 2, 0, 0, 0, 0, 0, 0], "the references after fork")
    module.reserve(pool, a, 1)
    module.reserve(pool, b, 5)
    causes = {"fork needs a list of its own: list(table.blocks)": ([0, 1, 2, 3, 4], 9)}
    a6.expect(seen(a), ([0, 1, 2], 9), "the first table after both have grown", causes)
    a6.expect(seen(b), ([0, 1, 3, 4], 13), "the fork after both have grown")
    module.release_all(pool, a)
    a6.expect(seen(b), ([0, 1, 3, 4], 13), "the fork after the first table has ended")
    a6.expect(references(pool), [1, 1, 0, 1, 1, 0, 0, 0], "the references after it")


def test_truncate(implementation, a6):
    for left in range(9, -1, -1):
        check_truncate(implementation(MODULE), a6, left)


def check_truncate(module, a6, left):
    pool, table = grown(module, 9)
    module.truncate(pool, table, left)
    num_blocks = -(-left // 4)
    causes = {
        "at a border, no empty block is kept": (list(range(left // 4 + 1)), left),
        "the block of the last token stays": (list(range(left // 4)), left),
        "num_tokens must be set": (list(range(num_blocks)), 9),
    }
    what = f"truncate of 9 tokens to {left}, in blocks of 4"
    a6.expect(seen(table), (list(range(num_blocks)), left), f"the table after {what}", causes)
    expected = [int(block < num_blocks) for block in range(8)]
    a6.expect(references(pool), expected, f"the references after {what}")


def test_impossible_lengths(implementation, a6):
    module = implementation(MODULE)
    pool, table = grown(module, 5)
    for left in (-1, 6, 100):
        what = f"truncate of 5 tokens to {left}"
        a6.raises(AssertionError, lambda left=left: module.truncate(pool, table, left), what)
        a6.expect(seen(table), ([0, 1], 5), f"the table after {what}")
        a6.expect(references(pool)[:3], [1, 1, 0], f"the references after {what}")


def test_a_recorded_block_that_is_cut_and_written(implementation, a6):
    module = implementation(MODULE)
    pool, table = grown(module, 8)
    pool.record(0, X)
    pool.record(1, Y)
    module.truncate(pool, table, 6)
    causes = {"its content is still complete: only reserve, which announces a write, forgets": None}
    a6.expect(pool.find(Y), 1, "find of the key of the block that truncate cut", causes)
    a6.expect(module.reserve(pool, table, 0), [], "reserve of no token")
    causes = {"with num_new = 0, nothing is written, and no key is forgotten": None}
    a6.expect(pool.find(Y), 1, "find of that key after reserve of no token", causes)
    causes = {"nobody else holds it: its key is forgotten, and it is not copied": [(1, 2)]}
    a6.expect(module.reserve(pool, table, 1), [], "reserve of a token after it", causes)
    causes = {"the block is written now, and would be found with other tokens than its key's": 1}
    a6.expect(pool.find(Y), None, "find of that key after reserve of a token", causes)
    a6.expect(pool.find(X), 0, "find of the full block's key")


def test_a_recorded_block_that_others_hold_is_cut_and_written(implementation, a6):
    module = implementation(MODULE)
    pool, table = grown(module, 8)
    pool.record(1, Y)
    other = module.fork(pool, table)
    module.truncate(pool, table, 6)
    a6.expect(references(pool)[:2], [2, 2], "the references after truncate")
    a6.expect(module.reserve(pool, table, 1), [(1, 2)], "reserve of a token for the cut table")
    causes = {"the old block is unchanged, so its key stays; the copy has none": None}
    a6.expect(pool.find(Y), 1, "find of the old block's key", causes)
    module.truncate(pool, other, 5)
    a6.expect(module.reserve(pool, other, 2), [], "reserve for the other table, cut as well")
    a6.expect(pool.find(Y), None, "find of the key after the last one who holds it writes")


def test_the_end_of_a_text_is_evicted_first(implementation, a6):
    module = implementation(MODULE)
    for name in ("release_all", "truncate"):
        pool, table = grown(module, 12, 3)
        for block in range(3):
            pool.record(block, bytes([block]))
        getattr(module, name)(pool, table, *([0] if name == "truncate" else []))
        a6.expect(seen(table), ([], 0), f"the table after {name}")
        got = [pool.allocate() for _ in range(3)]
        causes = {"release the last block first: a beginning is of use without its end": [0, 1, 2]}
        a6.expect(got, [2, 1, 0], f"the blocks evicted after {name}", causes)


def test_release_all_of_shared_blocks(implementation, a6):
    module = implementation(MODULE)
    pool, table = grown(module, 6)
    other = module.fork(pool, table)
    module.release_all(pool, table)
    a6.expect([seen(table), seen(other)], [([], 0), ([0, 1], 6)], "the tables after release_all")
    a6.expect(references(pool)[:2], [1, 1], "the references after release_all")
    module.release_all(pool, table)
    a6.expect(references(pool)[:2], [1, 1], "the references after release_all of an empty table")
    a6.expect(module.reserve(pool, table, 1), [], "reserve for the table that was released")
    a6.expect(seen(table), ([2], 1), "the table after it")


class Memory:
    """The content of each block, written and copied as an attention layer would."""

    def __init__(self, module, a6, num_blocks, size):
        self.module, self.a6, self.size = module, a6, size
        self.pool = module.BlockPool(num_blocks, size)
        self.content = [[None] * size for _ in range(num_blocks)]
        self.texts = [([], module.BlockTable())]
        self.keys = {}  # key -> the tokens of its block

    def grow(self, text, table, new):
        tables = [
            (list(each.blocks), each.num_tokens) for _, each in self.texts if each is not table
        ]
        for old, copied in self.module.reserve(self.pool, table, len(new)):
            self.content[copied] = list(self.content[old])
        for token in new:
            place = len(text)
            block = table.blocks[place // self.size]
            text.append(token)
            for blocks, num_tokens in tables:
                self.a6.true(
                    block not in blocks[: -(-num_tokens // self.size)],
                    f"token {place} of a text is written into block {block}, which another table "
                    "holds too: a partly filled block with other references must be copied",
                )
            self.a6.true(
                all(self.pool.find(key) != block for key in self.keys),
                f"token {place} of a text is written into block {block}, which is recorded: its "
                "key must be forgotten, or the block copied",
            )
            self.content[block][place % self.size] = token

    def check(self, after):
        for number, (text, table) in enumerate(self.texts):
            places = [token for block in table.blocks for token in self.content[block]]
            what = f"after {after}: the tokens that table {number} reads"
            self.a6.expect(places[: table.num_tokens], text, what)
        for key, tokens in self.keys.items():
            if (block := self.pool.find(key)) is not None:
                what = f"after {after}: the content of block {block}, found under a key"
                self.a6.expect(self.content[block], tokens, what)
        held = [block for _, table in self.texts for block in table.blocks]
        counted = [held.count(block) for block in range(self.pool.num_blocks)]
        what = f"after {after}: the references, one for each entry of a table"
        self.a6.expect(references(self.pool), counted, what)


@pytest.mark.parametrize(("num_blocks", "size", "seed"), [(6, 3, 1), (9, 2, 2), (12, 4, 3)])
def test_no_write_reaches_what_others_read(implementation, a6, num_blocks, size, seed):
    module = implementation(MODULE)
    memory, rng = Memory(module, a6, num_blocks, size), random.Random(seed)
    pool = memory.pool
    for step in range(120):
        text, table = rng.choice(memory.texts)
        name = rng.choice(["grow", "grow", "grow", "fork", "cut", "record", "end"])
        if name == "grow":
            new = [1000 * step + n for n in range(rng.randrange(size + 2))]
            # Where the caller would have to preempt, this one ends a text.
            if module.blocks_needed(pool, table, len(new)) > pool.num_available:
                name = "end"
            else:
                memory.grow(text, table, new)
        if name == "fork" and len(memory.texts) < 4:
            memory.texts.append((list(text), module.fork(pool, table)))
        if name == "cut":
            left = max(len(text) - rng.randrange(size + 1), 0)
            module.truncate(pool, table, left)
            del text[left:]
        if name == "record" and len(text) >= size:
            place = rng.randrange(len(text) // size)
            memory.keys[bytes([step])] = text[place * size : (place + 1) * size]
            pool.record(table.blocks[place], bytes([step]))
        if name == "end":
            module.release_all(pool, table)
            text.clear()
        memory.check(f"{name}, the step {step}")


def test_blocks_needed_changes_nothing(implementation, a6):
    module = implementation(MODULE)
    pool, table = grown(module, 6)
    module.fork(pool, table)
    before = copy.deepcopy((seen(table), references(pool), pool.num_available))
    for more in (0, 1, 9, 100):
        module.blocks_needed(pool, table, more)
    after = (seen(table), references(pool), pool.num_available)
    a6.expect(after, before, "the table, the references and num_available after blocks_needed")
    a6.expect(module.blocks_needed(pool, table, 100), 26, "blocks_needed of more than there are")
