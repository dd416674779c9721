"""One pool of processes that run a function on 2 or 4 ranks of a gloo group.

The processes start once. They are forks of a server that has imported PyTorch and done nothing
else: importing it in each of four spawned processes took 14 s on 2 busy cores. Every call makes a
new group from a new file, so what one test leaves behind does not reach the next. A failing or
hanging rank ends the call with the rank's own traceback, and the pool starts anew at the next call.
"""

import importlib.util
import inspect
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

MOST_RANKS = 4
SECONDS = 60  # for one call; then the ranks that have not ended are named
COLLECTIVE_SECONDS = 20  # a rank that waits this long for the others raises an error
GRACE_SECONDS = 3  # for the other ranks, once one has failed

# What the ranks' functions import. None is ours.
PRELOADED = ["pytest", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint"]
PRELOADED += ["pydantic", "rich.progress", "filelock", "jaxtyping"]


class Ranks:
    """The pool; `call` runs a function of a test file on all ranks and returns their results."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._pool: ProcessPoolExecutor | None = None

    def call(self, size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return [function(rank, size, *arguments) for each rank]; only plain values travel."""
        assert size <= MOST_RANKS
        if self._pool is None:
            self._pool = ProcessPoolExecutor(MOST_RANKS, _context(), _begin)
        with tempfile.TemporaryDirectory() as folder:
            job = (size, f"{folder}/group", inspect.getfile(function), function.__name__)
            futures = [self._pool.submit(_run, rank, *job, arguments) for rank in range(size)]
            wait(futures, self.seconds, FIRST_EXCEPTION)
            if not all(future.done() for future in futures):
                wait(futures, GRACE_SECONDS)
            hung = [rank for rank, future in enumerate(futures) if not future.done()]
            errors = [
                f"rank {rank} of {size}: {future.exception()}"
                for rank, future in enumerate(futures)
                if future.done() and future.exception() is not None
            ]
            if hung or errors:
                self.stop()
                hangs = [f"rank {rank} of {size} did not return" for rank in hung]
                raise AssertionError("\n".join([f"{function.__name__}:", *errors, *hangs]))
            return [future.result() for future in futures]

    def stop(self) -> None:
        """End the processes, whatever they are doing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            workers = list(pool._processes.values())
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.kill()


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _begin() -> None:
    """In a worker: leave Ctrl-C to the tests, and end with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_the_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@cache
def _module(path: str) -> ModuleType:
    """A test file, which is not in a package; what it shares with others is beside this file."""
    sys.path.append(str(Path(__file__).parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(rank: int, size: int, file: str, path: str, name: str, arguments: tuple[Any, ...]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.manual_seed(1000 + rank)  # ranks that draw their own numbers draw others
            dist.init_process_group(
                "gloo",
                init_method=f"file://{file}",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=COLLECTIVE_SECONDS),
            )
            try:
                return getattr(_module(path), name)(rank, size, *arguments)
            finally:
                dist.destroy_process_group()
    except BaseException:
        raise RuntimeError(traceback.format_exc()) from None
