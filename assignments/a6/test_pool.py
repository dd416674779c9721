"""a6.9: blocks that are allocated, shared, released, recorded and evicted."""

import random

import pytest
from pool_oracle import BlockPool as SlowPool

pytestmark = pytest.mark.task("a6.9")
MODULE = "inference.block_pool"
X, Y, Z = (bytes([number]) * 32 for number in (1, 2, 3))


def references(pool):
    return [pool.references(block) for block in range(pool.num_blocks)]


def allocated(module, num_blocks, keys=()):
    """Return a pool whose blocks all have one reference, the first ones also a key."""
    pool = module.BlockPool(num_blocks, 4)
    blocks = [pool.allocate() for _ in range(num_blocks)]
    for block, key in zip(blocks, keys, strict=False):
        pool.record(block, key)
    return pool


def test_the_example_of_the_handout(implementation, a6):
    pool = implementation(MODULE).BlockPool(3, 4)
    told = "the example of the handout"
    a6.expect([pool.num_blocks, pool.block_size], [3, 4], f"{told}: num_blocks and block_size")
    a6.expect(pool.num_available, 3, f"{told}: num_available of a new pool")
    a6.expect([pool.allocate(), pool.allocate()], [0, 1], f"{told}: allocate(), twice")
    pool.record(0, X)
    pool.record(1, Y)
    a6.expect([pool.find(X), pool.find(Y)], [0, 1], f"{told}: find(x), find(y)")
    a6.expect(pool.num_available, 1, f"{told}: num_available while 0 and 1 are referenced")
    pool.release(1)
    pool.release(0)
    causes = {"cached blocks are available, too: they can be evicted": 1}
    a6.expect(pool.num_available, 3, f"{told}: num_available after both are released", causes)
    pool.share(pool.find(Y))
    causes = {"a cached block that is shared can no longer be evicted: take it out of the queue": 3}
    a6.expect(pool.num_available, 2, f"{told}: num_available after share(1)", causes)
    pool.release(1)
    causes = {
        "empty blocks are taken before cached ones, whose content may still be of use": 0,
    }
    a6.expect(pool.allocate(), 2, f"{told}: the first allocate() at the end", causes)
    causes = {
        "block 1 was shared and released again: it now comes after block 0": 1,
        "the block released least recently is evicted, not the one released last": 1,
    }
    a6.expect(pool.allocate(), 0, f"{told}: the second allocate() at the end", causes)
    a6.expect(references(pool), [1, 0, 1], f"{told}: the references at the end")
    causes = {"the key of an evicted block is forgotten: its next owner writes other tokens": 0}
    a6.expect(pool.find(X), None, f"{told}: find(x) at the end", causes)
    a6.expect(pool.find(Y), 1, f"{told}: find(y) at the end")


def test_the_lowest_empty_block_comes_first(implementation, a6):
    pool = allocated(implementation(MODULE), 5)
    for block in (3, 1, 4):
        pool.release(block)
    got = [pool.allocate() for _ in range(3)]
    causes = {
        "of the empty blocks, the one with the lowest number comes first, whenever it was released":
            lambda found: sorted(found) == [1, 3, 4],
    }  # fmt: skip
    a6.expect(got, [1, 3, 4], "allocate() after release of 3, 1 and 4", causes)


def test_no_block_is_left(implementation, a6):
    module = implementation(MODULE)
    pool = allocated(module, 2, [X])
    pool.share(0)
    a6.raises(module.OutOfBlocks, pool.allocate, "allocate() while all blocks are referenced")
    a6.expect(references(pool), [2, 1], "the references after OutOfBlocks")
    a6.expect(pool.find(X), 0, "find of a referenced block's key after OutOfBlocks")


def test_a_block_stays_until_its_last_reference_is_released(implementation, a6):
    module = implementation(MODULE)
    for key in (None, X):
        pool = allocated(module, 2, [key] if key else [])
        kind = "with a key" if key else "without a key"
        pool.share(0)
        pool.release(0)
        what = f"a block {kind}, shared once and released once:"
        a6.expect(pool.references(0), 1, f"{what} references")
        causes = {"a block becomes cached or empty when its references reach 0, not before": 1}
        a6.expect(pool.num_available, 0, f"{what} num_available", causes)
        a6.raises(module.OutOfBlocks, pool.allocate, f"{what} allocate()")
        pool.release(0)
        a6.expect(pool.num_available, 1, f"{what[:-1]}, and released again: num_available")


def test_the_order_of_eviction(implementation, a6):
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0)]:
        pool = allocated(implementation(MODULE), 3, [X, Y, Z])
        for block in order:
            pool.release(block)
        got = [pool.allocate() for _ in range(3)]
        causes = {
            "the block that was released least recently is evicted first": list(reversed(order)),
            "the order of eviction is that of the releases, not of the numbers": [0, 1, 2],
        }
        a6.expect(got, list(order), f"allocate(), three times, after release of {order}", causes)


def test_a_shared_block_is_not_evicted(implementation, a6):
    module = implementation(MODULE)
    pool = allocated(module, 2, [X, Y])
    pool.release(0)
    pool.release(1)
    pool.share(0)
    got = pool.allocate()
    causes = {
        "block 0 is referenced again: share takes a cached block out of the queue of eviction": 0
    }
    a6.expect(got, 1, "allocate() with block 0 shared and block 1 cached", causes)
    a6.raises(module.OutOfBlocks, pool.allocate, "allocate() with no block left")
    a6.expect(pool.find(X), 0, "find of the shared block's key")
    a6.expect(references(pool), [1, 1], "the references")


def test_the_new_owner_of_an_evicted_block(implementation, a6):
    pool = allocated(implementation(MODULE), 1, [X])
    pool.release(0)
    pool.allocate()
    causes = {"allocate returns a block without key; the old one would find other tokens": 0}
    a6.expect(pool.find(X), None, "find of the old key after its block was evicted", causes)
    pool.record(0, Y)
    a6.expect(pool.find(Y), 0, "find of the key of the block's new owner")
    pool.release(0)
    pool.allocate()
    a6.expect([pool.find(X), pool.find(Y)], [None, None], "find of both after a second eviction")
    pool.release(0)
    causes = {"the block has no key any more, so it is empty, and stays available": 0}
    a6.expect(pool.num_available, 1, "num_available after the block is released", causes)


def test_a_key_belongs_to_one_block(implementation, a6):
    pool = allocated(implementation(MODULE), 3, [X])
    pool.record(1, X)
    causes = {"a key that is known stays with its block; the other block gets none": 1}
    a6.expect(pool.find(X), 0, "find of a key that is recorded for 0, then for 1", causes)
    pool.release(0)
    pool.release(1)
    causes = {"block 1 got no key, so it is empty, and is taken before the cached block 0": 0}
    a6.expect(pool.allocate(), 1, "allocate() after release of 0 and 1", causes)
    a6.expect(pool.find(X), 0, "find of the key while its block is cached")
    pool.record(1, X)
    a6.expect(pool.find(X), 0, "find of a key that is recorded for a second block again")
    a6.expect(pool.allocate(), 0, "allocate() while block 0 is cached and the others referenced")
    a6.expect(pool.find(X), None, "find of the key after its block was evicted")
    pool.record(1, X)
    a6.expect(pool.find(X), 1, "find of the key, recorded again after its block was evicted")


def test_a_block_keeps_its_first_key(implementation, a6):
    pool = allocated(implementation(MODULE), 1, [X])
    pool.record(0, Y)
    pool.record(0, X)
    causes = {"a block that has a key keeps the key that it has": [None, 0]}
    a6.expect([pool.find(X), pool.find(Y)], [0, None], "find(x), find(y)", causes)
    pool.release(0)
    pool.allocate()
    a6.expect([pool.find(X), pool.find(Y)], [None, None], "find(x), find(y) after eviction")


def test_find_changes_nothing(implementation, a6):
    pool = allocated(implementation(MODULE), 2, [X, Y])
    pool.release(0)
    pool.release(1)
    for _ in range(3):
        pool.find(X)
    pool.find(Z)
    a6.expect(references(pool), [0, 0], "the references after find")
    a6.expect(pool.num_available, 2, "num_available after find")
    causes = {"find counts as no use: only share and release change the order of eviction": 1}
    a6.expect(pool.allocate(), 0, "allocate() after find of block 0's key", causes)


def test_forget(implementation, a6):
    pool = allocated(implementation(MODULE), 2, [X])
    pool.forget(0)
    pool.forget(1)
    a6.expect(pool.find(X), None, "find of a forgotten key")
    a6.expect(references(pool), [1, 1], "the references after forget")
    pool.record(0, Y)
    a6.expect([pool.find(X), pool.find(Y)], [None, 0], "find after another key is recorded")
    pool.record(1, X)
    a6.expect(pool.find(X), 1, "find of the forgotten key, recorded for another block")
    pool.forget(0)
    pool.release(0)
    a6.expect(pool.allocate(), 0, "allocate() after forget and release of block 0")
    a6.expect([pool.find(X), pool.find(Y)], [1, None], "find at the end")


@pytest.mark.parametrize("name", ["release", "share", "record", "forget"])
def test_calls_that_no_right_program_makes(implementation, a6, name):
    module = implementation(MODULE)
    pool = module.BlockPool(9, 4)
    for number in range(9):
        pool.allocate()
        pool.record(number, bytes([number]))
    pool.release(5)
    pool.release(7)
    pool.forget(8)
    pool.release(8)
    # Block 8 is empty, 5 and 7 are cached: share is refused for the empty one only.
    block = 8 if name == "share" else 7
    state = "without references and key" if name == "share" else "without references"
    arguments = (block, X) if name == "record" else (block,)
    what = f"{name} of block {block}, which is {state},"
    a6.raises(AssertionError, lambda: getattr(pool, name)(*arguments), what, [str(block)])
    a6.expect(references(pool), [1, 1, 1, 1, 1, 0, 1, 0, 0], f"the references after {what}")
    a6.expect(pool.find(X), None, f"find of the key after {what}")
    a6.expect(pool.find(bytes([7])), 7, f"find of block 7's key after {what}")
    got = [pool.num_available, *(pool.allocate() for _ in range(3))]
    causes = {"a block that was released twice is handed out twice": lambda got: got[0] > 3}
    a6.expect(got, [3, 8, 5, 7], f"num_available and three times allocate() after {what}", causes)


def test_pools_side_by_side(implementation, a6):
    module = implementation(MODULE)
    one, other = module.BlockPool(2, 4), module.BlockPool(3, 2)
    one.allocate()
    one.record(0, X)
    one.share(0)
    causes = {"each pool has accounts of its own: no list or dict on the class": [2, 0, 0]}
    a6.expect(references(other), [0, 0, 0], "the references of another pool", causes)
    a6.expect(other.find(X), None, "find of a key of another pool")
    a6.expect(other.num_available, 3, "num_available of another pool")


def steps_of(module, a6, num_blocks):
    """Return the steps that 100 rounds take in a pool that is full, half of it cached."""
    pool = module.BlockPool(num_blocks, 4)
    for number in range(num_blocks):
        pool.record(pool.allocate(), number.to_bytes(32, "big"))
    for block in range(0, num_blocks, 2):
        pool.release(block)
    for block in range(1, num_blocks, 4):
        pool.forget(block)
        pool.release(block)
    with a6.StepCounter(limit=200_000, c_calls=True) as counter:
        for number in range(100):
            block = pool.allocate()
            pool.record(block, b"new" + number.to_bytes(29, "big"))
            pool.find(b"new" + number.to_bytes(29, "big"))
            pool.share(block)
            pool.num_available  # noqa: B018
            pool.release(block)
            pool.release(block)
            if number % 2:
                pool.share(block)
                pool.forget(block)
                pool.release(block)
    return counter.steps


def steps_of_the_highest(module, a6, num_blocks):
    """Return the steps that 100 rounds take if only the highest block is not referenced. It is
    empty in every other round, and else cached.
    """
    pool = allocated(module, num_blocks)
    pool.release(num_blocks - 1)
    with a6.StepCounter(limit=200_000, c_calls=True) as counter:
        for number in range(100):
            block = pool.allocate()
            pool.num_available  # noqa: B018
            if number % 2:
                pool.record(block, number.to_bytes(32, "big"))
            pool.release(block)
    return counter.steps


def in_python(function):
    """Return a built-in function that takes a step for each element: C code is not counted."""

    def counted(*arguments, **options):
        if len(arguments) == 1:
            elements = []
            for element in arguments[0]:
                elements.append(element)
            arguments = (elements,)
        return function(*arguments, **options)

    return counted


@pytest.mark.parametrize(
    ("steps_of", "calls"),
    [
        (steps_of, "allocate, record, find, share and release, with half of the blocks referenced"),
        (steps_of_the_highest, "allocate and release, with all blocks but the highest referenced"),
    ],
    ids=["half", "highest"],
)
def test_work(implementation, a6, monkeypatch, steps_of, calls):
    module = implementation(MODULE)
    for function in (min, max, sum, any, all, sorted):
        monkeypatch.setattr(module, function.__name__, in_python(function), raising=False)
    few, many = (steps_of(module, a6, num_blocks) for num_blocks in (40, 4000))
    a6.true(
        many <= 4 * few,
        f"too much work: 100 rounds of {calls}",
        {
            "steps with 40 blocks": few,
            "steps with 4,000 blocks": many,
            "allowed": "4 times as many",
            "likely": "a loop (or min, sum, sorted) over all blocks: keep the empty blocks in a "
            "heap, the cached ones in an OrderedDict, and count with len",
        },
    )


def test_many_random_calls(implementation, a6):
    """A longer program than the drawn ones, on a small pool, beside an oracle that looks at all."""
    module = implementation(MODULE)
    rng = random.Random(9)
    pool, slow = module.BlockPool(6, 4), SlowPool(6, 4)
    keys = [bytes([number]) for number in range(9)]
    held = []
    for step in range(600):
        name = rng.choice(["allocate", "share found", "share", "record", "release", "release"])
        key = rng.choice(keys)
        if name == "allocate" and slow.num_available:
            held.append(slow.allocate())
            a6.expect(pool.allocate(), held[-1], f"allocate(), the call number {step}")
        elif name == "share found" and slow.find(key) is not None:
            held.append(slow.find(key))
            slow.share(held[-1])
            pool.share(held[-1])
        elif name in ("share", "record", "release") and held:
            block = rng.choice(held)
            for each in (pool, slow):
                each.record(block, key) if name == "record" else getattr(each, name)(block)
            held += [block] * (name == "share")
            if name == "release":
                held.remove(block)
        what = f"after {step + 1} calls, the last of them {name}"
        a6.expect(references(pool), references(slow), f"{what}: the references")
        a6.expect(pool.num_available, slow.num_available, f"{what}: num_available")
        found = [each.find(key) for each in (pool, slow)]
        a6.expect(found[0], found[1], f"{what}: find")
