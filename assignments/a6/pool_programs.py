"""Programs for the checks of a6.9 to a6.11: lists of calls, and what each of them shows.

A program names no block: `("release", 3)` releases one of the blocks that the code under test has
handed out, so it is right whatever the code returns. What this leaves out: the checks themselves.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

KEYS = [bytes([number]) * 32 for number in range(4)]
Operation = tuple[Any, ...]


def outcome(module: ModuleType, call: Any) -> Any:
    """Return what a call returns, or the name of the error that it is allowed to raise."""
    try:
        return call()
    except module.OutOfBlocks:
        return "OutOfBlocks"


def state_of(pool: Any, keys: Sequence[bytes]) -> str:
    """Return the references, the blocks found under the keys, and the number available."""
    references = [pool.references(block) for block in range(pool.num_blocks)]
    found = [pool.find(key) for key in keys]
    return f"references {references}, found {found}, available {pool.num_available}"


def drained(module: ModuleType, pool: Any) -> str:
    """Return the order in which the blocks that are available are handed out."""
    order = [outcome(module, pool.allocate) for _ in range(pool.num_available + 1)]
    return f"allocate until none is left: {order}"


def run_pool(
    module: ModuleType, num_blocks: int, block_size: int, operations: Sequence[Operation]
) -> list[str]:
    """Run calls of a pool; return one line for each, and what is left at the end."""
    pool = module.BlockPool(num_blocks, block_size)
    held: list[int] = []  # one entry for each reference
    lines = []
    for name, number in operations:
        key = KEYS[number % len(KEYS)]
        block = held[number // len(KEYS) % len(held)] if held else None
        if name == "allocate":
            got = outcome(module, pool.allocate)
            held += [got] if got != "OutOfBlocks" else []
            lines.append(f"allocate() -> {got}")
        elif name == "find":
            lines.append(f"find(key {number % len(KEYS)}) -> {pool.find(key)}")
        elif name == "share found" and pool.find(key) is not None:
            held.append(pool.find(key))
            pool.share(held[-1])
            lines.append(f"share({held[-1]}), which is found")
        elif name == "use found" and pool.find(key) is not None:
            found = pool.find(key)
            pool.share(found)
            pool.release(found)
            lines.append(f"share({found}), which is found, and release({found})")
        elif block is None:
            continue
        elif name == "share":
            pool.share(block)
            held.append(block)
            lines.append(f"share({block})")
        elif name == "release":
            pool.release(block)
            held.remove(block)
            lines.append(f"release({block})")
        elif name == "record":
            pool.record(block, key)
            lines.append(f"record({block}, key {number % len(KEYS)})")
        elif name == "forget":
            pool.forget(block)
            lines.append(f"forget({block})")
        else:
            continue
        lines[-1] += f": available {pool.num_available}"
    return [*lines, state_of(pool, KEYS), drained(module, pool), state_of(pool, KEYS)]


def run_texts(
    module: ModuleType, num_blocks: int, block_size: int, operations: Sequence[Operation]
) -> list[str]:
    """Run requests that take, compute and record blocks, without the functions of a6.11."""
    pool = module.BlockPool(num_blocks, block_size)
    tables: list[Any] = []
    known: list[bytes] = []
    lines = []
    for name, *details in operations:
        if name == "begin":
            ids, computed = list(details[0]), details[1]
            keys = module.block_keys(ids, block_size)
            given = list(ids), list(keys)
            table = module.take_cached_prefix(pool, ids, keys)
            lines.append(f"take_cached_prefix of {ids}: {table.blocks}, {table.num_tokens} tokens")
            while len(table.blocks) * block_size < len(ids) and pool.num_available:
                table.blocks.append(pool.allocate())
            table.num_tokens = min(len(ids), len(table.blocks) * block_size)
            computed = min(computed, table.num_tokens)
            module.record_full_blocks(pool, table, keys, computed)
            found = [pool.find(key) for key in keys]
            lines.append(f"record_full_blocks, {computed} computed: {table.blocks}, found {found}")
            if (ids, keys) != given:
                lines.append("token_ids or keys were changed")
            known = list(dict.fromkeys([*known, *keys]))
            tables.append(table)
        elif name == "forget all":
            pool.forget_all()
            lines.append("forget_all()")
        elif tables:  # "end"
            table = tables.pop(details[0] % len(tables))
            for block in reversed(table.blocks):
                pool.release(block)
            lines.append(f"released {table.blocks} from the last to the first")
    return [*lines, state_of(pool, known), drained(module, pool), state_of(pool, known)]


def run_tables(
    module: ModuleType, num_blocks: int, block_size: int, operations: Sequence[Operation]
) -> list[str]:
    """Run calls of block tables; each line shows all tables after it."""
    pool = module.BlockPool(num_blocks, block_size)
    tables = [module.BlockTable()]
    keys: list[bytes] = []
    lines = []
    for name, which, number in operations:
        table = tables[which % len(tables)]
        before = f"{name} of table {which % len(tables)}"
        if name == "begin":
            tables.append(module.BlockTable())
            continue
        if name == "fork":
            tables.append(module.fork(pool, table))
        elif name == "reserve":
            needed = module.blocks_needed(pool, table, number)
            copies = outcome(module, lambda table=table, n=number: module.reserve(pool, table, n))
            before += f", {number} more: {needed} needed, returned {copies}"
        elif name == "truncate":
            left = max(table.num_tokens - number, 0)
            module.truncate(pool, table, left)
            before += f" to {left} tokens"
        elif name == "release_all":
            module.release_all(pool, table)
        elif full := table.num_tokens // block_size:  # "record": mostly the last full block
            block = table.blocks[full - 1 - number // 4 % full]
            keys.append(bytes([len(keys)]) * 32)
            pool.record(block, keys[-1])
            before += f": block {block}"
        shown = [(list(each.blocks), each.num_tokens) for each in tables]
        lines.append(f"{before}: {shown}; {state_of(pool, keys)}")
    return [*lines, drained(module, pool)]
