"""Texts -> token ids, in parallel: the same ids in the same order for any number of workers.

A tokenizer whose code runs without the interpreter's lock (`encodes_in_threads`, which only the
compiled one has) is shared by threads. Any other is loaded once in each worker process, by a
function that can be imported by name, such as `partial(read_tokenizer, path)`. A learner's file
that replaces the tokenizer is found there as in the main process, because LM_STAND_INS is an
environment variable. Without such a function, the texts are encoded in this process.

Texts are passed in batches, and only a few batches are read ahead of the results.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from lm_core.worker_pool import worker_pool

BATCH_CHARACTERS = 1 << 20  # 4,344 documents, 105 MB, 2 threads: see benchmarks/tokenize_shards.py
BATCHES_AHEAD = 2  # per thread
PROCESSES_FROM_BYTES = 20_000_000  # of text; below, a process takes longer to start than to encode

Item = TypeVar("Item")
Tokenizer = Any  # an object with `encode`
Encode = Callable[[Tokenizer, str], "Sequence[int] | np.ndarray"]
EncodeBatches = Callable[[Iterable[list[str]]], Iterator[list[np.ndarray]]]


def batches_of(
    items: Iterable[Item], size: Callable[[Item], int], batch_size: int
) -> Iterator[list[Item]]:
    """Yield the items in lists of `batch_size` in total or little more; the last may have less."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= batch_size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def encode_items(
    items: Iterable[Item], text_of: Callable[[Item], str], encode_batches: EncodeBatches
) -> Iterator[tuple[Item, np.ndarray]]:
    """Yield every item with the ids of its text, in order."""
    waiting: deque[list[Item]] = deque()

    def texts() -> Iterator[list[str]]:
        for batch in batches_of(items, lambda item: len(text_of(item)), BATCH_CHARACTERS):
            waiting.append(batch)
            yield [text_of(item) for item in batch]

    for arrays in encode_batches(texts()):
        yield from zip(waiting.popleft(), arrays, strict=True)


@contextmanager
def batch_encoder(
    tokenizer: Tokenizer,
    encode: Encode,
    num_processes: int,
    load_tokenizer: Callable[[], Tokenizer] | None = None,
) -> Iterator[EncodeBatches]:
    """Yield a function that encodes batches of texts, in order, with `num_processes` workers.

    Args:
        tokenizer: encodes in this process.
        encode: (tokenizer, text) -> ids; importable by name.
        num_processes: threads or processes, as the module's docstring says.
        load_tokenizer: makes the tokenizer in a worker process; None for no processes.
    """
    if num_processes > 1 and getattr(tokenizer, "encodes_in_threads", False):
        with ThreadPoolExecutor(num_processes) as threads:
            yield lambda batches: _on_threads(
                threads, lambda texts: _arrays(tokenizer, encode, texts), batches, num_processes
            )
    elif num_processes > 1 and load_tokenizer is not None:
        with worker_pool(num_processes, _start_worker, (load_tokenizer, encode)) as pool:
            yield lambda batches: pool.map(_encode_in_worker, batches)
    else:
        yield lambda batches: (_arrays(tokenizer, encode, texts) for texts in batches)


def _arrays(tokenizer: Tokenizer, encode: Encode, texts: list[str]) -> list[np.ndarray]:
    found = (encode(tokenizer, text) for text in texts)
    return [np.asarray(ids) if len(ids) else np.empty(0, dtype=np.int64) for ids in found]


def _on_threads(
    threads: ThreadPoolExecutor,
    function: Callable[[list[str]], list[np.ndarray]],
    batches: Iterable[list[str]],
    num_threads: int,
) -> Iterator[list[np.ndarray]]:
    """Yield results in order. The executor's own `map` would read all batches first."""
    waiting: deque[Future[list[np.ndarray]]] = deque()
    try:
        for batch in batches:
            waiting.append(threads.submit(function, batch))
            if len(waiting) > BATCHES_AHEAD * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


_worker: tuple[Tokenizer, Encode] | None = None  # one per worker process


def _start_worker(load_tokenizer: Callable[[], Tokenizer], encode: Encode) -> None:
    global _worker
    _worker = load_tokenizer(), encode


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    assert _worker is not None, "the pool was started without _start_worker"
    return _arrays(*_worker, texts)
