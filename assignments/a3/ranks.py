"""Two processes that run the code under test as the ranks of one gloo group.

The ranks are forks of the check's process, which has imported PyTorch and the code under test, so
starting both takes less than 0.1 s, and everything that watches the check watches them too. They
stay for as many calls as the check makes. An error of a rank is raised in the check with the lines
that led to it. Ranks that wait for each other are told from slow ones, and ended.

Call no backward pass in the check's process before the ranks are started: its threads would not
survive the fork. Nothing here imports the code under test.
"""

import faulthandler
import gc
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from rank_errors import PackedError, frames_of_stack, raised_at
from started_collectives import RECORD, difference_of, shown
from torch import Tensor
from torch.utils._pytree import tree_map

from lm_course.containment.heard_calls import hear_calls
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.forked_check import fork

SECONDS = 5.0  # without an answer or another collective; then the ranks wait for each other
SECONDS_ALONE = 1.0  # for a rank, once the other one has ended
MOST_SECONDS = 30.0  # for ranks that other programs keep from computing
GLOO_SECONDS = 120  # never reached: the limits above come first
ADVICE = "every rank must start the same collectives in the same order"

# Wrappers that do what tasks 12 to 17 ask for. The first is loaded with PyTorch.
hear_calls(
    {
        "torch.nn.parallel": ["DistributedDataParallel"],
        "torch.distributed.fsdp": ["fully_shard", "FullyShardedDataParallel"],
        "torch.distributed.fsdp._fully_shard": ["fully_shard"],
        "torch.distributed.optim": ["ZeroRedundancyOptimizer"],
        "torch.distributed.optim.zero_redundancy_optimizer": ["ZeroRedundancyOptimizer"],
        "torch.distributed._composable.replicate": ["replicate"],
        "torch.distributed.tensor": ["distribute_tensor", "distribute_module"],
        "torch.distributed.tensor.parallel": ["parallelize_module", "loss_parallel"],
    }
)

_kept: dict[Any, "Ranks"] = {}  # those of the check that runs, by function


class Ranks:
    """Processes that call one function again and again.

    Args:
        size: how many.
        function: called as function(rank, size, *arguments) on each rank. It may be any function,
            also a local one. Its arguments and its result must survive pickle.
    """

    def __init__(self, size: int, function: Callable[..., Any]) -> None:
        self.size = size
        self.folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self.logs = [Path(self.folder.name) / f"collectives-{rank}" for rank in range(size)]
        self.stacks = [Path(self.folder.name) / f"stack-{rank}" for rank in range(size)]
        self.connections: list[Connection] = []
        self.processes: list[int] = []
        for rank in range(size):
            ours, theirs = Pipe()
            process = fork()
            if process == 0:
                for other in [*self.connections, ours]:
                    other.close()
                _serve(rank, size, function, theirs, self)
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def call(self, *arguments: Any) -> list[Any]:
        """Return the results of the ranks, in their order.

        Raises:
            GradedFailure: the ranks did not start the same collectives, or one of them ended.
            Exception: the error of a rank, with the lines that led to it.
        """
        begun = [path.stat().st_size if path.exists() else 0 for path in self.logs]
        for connection in self.connections:
            with suppress(BrokenPipeError):
                connection.send_bytes(pickle.dumps(arguments))
        answers = self._answers(begun)
        collectives = self._collectives(begun)
        failed = [rank for rank, answer in enumerate(answers) if isinstance(answer, PackedError)]
        if failed:
            shortest = min(map(len, collectives))  # a rank that failed starts no more
            difference = difference_of([each[:shortest] for each in collectives])
            answers[failed[0]].raise_again(failed, self.size, difference)
        if difference := difference_of(collectives, in_order=False):
            raise GradedFailure(f"{difference}: {ADVICE}")
        return answers

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in self.processes:
            with suppress(ChildProcessError):
                os.waitpid(process, 0)
        for connection in self.connections:
            connection.close()
        self.folder.cleanup()

    def _answers(self, begun: list[int]) -> list[Any]:
        """Wait for all ranks; stop if they make no progress."""
        answers: list[Any] = [None] * self.size
        waiting = dict(zip(self.connections, range(self.size), strict=True))
        first = last = time.monotonic()
        progress: object = None
        seconds = SECONDS
        while waiting:
            for connection in wait(list(waiting), 0.05):
                rank = waiting.pop(connection)
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionError):
                    self._raise_death(rank, begun)
                seconds = SECONDS_ALONE
            now = time.monotonic()
            seen = len(waiting), [path.stat().st_size for path in self.logs if path.exists()]
            if seen != progress:
                progress, last = seen, now
            too_long = now - last > seconds and not (
                now - first < MOST_SECONDS and any(map(_is_kept_waiting, self._left(waiting)))
            )
            if waiting and too_long:
                if any(isinstance(answer, PackedError) for answer in answers):
                    return answers  # the other rank waits because this one failed
                self._raise_hang(sorted(waiting.values()), begun)
        return answers

    def _left(self, waiting: dict[Connection, int]) -> list[int]:
        return [self.processes[rank] for rank in waiting.values()]

    def _collectives(self, begun: list[int]) -> list[list[str]]:
        """Return what each rank has started in this call."""
        texts = [
            path.read_bytes()[start:].decode() if path.exists() else ""
            for path, start in zip(self.logs, begun, strict=True)
        ]
        return [text.splitlines() for text in texts]

    def _raise_hang(self, hanging: list[int], begun: list[int]) -> NoReturn:
        collectives = self._collectives(begun)
        sentence = difference_of(collectives)
        if sentence:
            sentence = f"{sentence}: {ADVICE}"
        else:
            which = f"rank {hanging[0]} does" if len(hanging) == 1 else "the ranks do"
            sentence = (
                f"{which} not end, though all ranks have started the same collectives: an endless "
                "loop, or a wait for something that nobody starts"
            )
        counts = [len(each) for each in collectives]
        rank = max(hanging, key=lambda each: counts[each])  # the one that waits for the others
        os.kill(self.processes[rank], signal.SIGABRT)  # faulthandler writes the stack
        with suppress(ChildProcessError):
            os.waitpid(self.processes[rank], 0)
        stack = self.stacks[rank].read_text("utf-8", "replace")
        self.close()
        raise raised_at(GradedFailure(sentence), frames_of_stack(stack)) from None

    def _raise_death(self, rank: int, begun: list[int]) -> NoReturn:
        time.sleep(0.1)  # until the other rank has started what this one did not match
        difference = difference_of(self._collectives(begun))
        _, status = os.waitpid(self.processes[rank], 0)
        stack = self.stacks[rank].read_text("utf-8", "replace")
        how = f"ended with os._exit({os.waitstatus_to_exitcode(status)})"
        if os.WIFSIGNALED(status):
            how = f"crashed ({signal.Signals(os.WTERMSIG(status)).name})"
        failure = GradedFailure(
            f"{difference}: {ADVICE}. Gloo has ended the process of rank {rank}"
            if difference
            else f"the process of rank {rank} {how}: return or raise instead"
        )
        raise raised_at(failure, frames_of_stack(stack)) from None


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return [function(rank, size, *arguments) for each rank], from new processes."""
    ranks = Ranks(size, function)
    try:
        return ranks.call(*arguments)
    finally:
        ranks.close()


def on_kept_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Do the same with processes that stay until the end of `kept_ranks`."""
    if function not in _kept:
        _kept[function] = Ranks(size, function)
    try:
        return _kept[function].call(*arguments)
    except BaseException:  # what this call has left undone must not reach the next
        _kept.pop(function).close()
        raise


@contextmanager
def kept_ranks() -> Iterator[None]:
    """End at the block's end what `on_kept_ranks` has started in it."""
    try:
        yield
    finally:
        while _kept:
            _kept.popitem()[1].close()


def plain(value: Any) -> Any:
    """Return the value with each tensor replaced by a copy without history."""
    return tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, value)


def _serve(
    rank: int, size: int, function: Callable[..., Any], connection: Connection, ranks: Ranks
) -> NoReturn:
    """In a rank: join the group, and answer until the check's process ends this one."""
    try:
        stack = ranks.stacks[rank].open("w")
        faulthandler.enable(file=stack, all_threads=False)
        torch.set_num_threads(1)
        gc.freeze()  # a collection looks only at what this rank makes
        store = dist.FileStore(f"{ranks.folder.name}/group", size)
        limit = timedelta(seconds=GLOO_SECONDS)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
        RECORD.begin(ranks.logs[rank])
        while True:
            arguments = pickle.loads(connection.recv_bytes())
            RECORD.clear()
            torch.manual_seed(1000 + rank)  # ranks that draw numbers draw others
            try:
                answer = plain(function(rank, size, *arguments))
            except BaseException as error:
                answer = PackedError(error)
            connection.send_bytes(pickle.dumps(answer))
    finally:
        os._exit(0)


def _is_kept_waiting(process: int) -> bool:
    """Return whether the process could compute, but has had little processor time. Only Linux says
    so.
    """
    for _ in range(5):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if fields[0] in "RD":
            return used < SECONDS
        time.sleep(0.01)
    return False


def all_alike(results: Sequence[Any]) -> bool:
    """Return whether the ranks have the same tensors, bit for bit."""
    first, *others = results
    return all(
        len(first) == len(other)
        and all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        for other in others
    )


__all__ = ["RECORD", "Ranks", "all_alike", "kept_ranks", "on_kept_ranks", "on_ranks", "shown"]


def bytes_at_rest(counter: Any, limit: int) -> int:
    """Return the bytes of the tensors alive, once they are within the limit, or after a second.

    A thread of gloo lets go of what it has sent a moment later, and on a busy machine later still.
    """
    for _ in range(20):
        gc.collect()
        if counter.alive_bytes <= limit:
            break
        time.sleep(0.05)
    return counter.alive_bytes
