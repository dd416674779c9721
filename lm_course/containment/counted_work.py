"""Work that PyTorch does: counts of operations and memory, and calls that a task forbids.

PyTorch's modes hold for one thread only. Here, every thread that is started later reports to the
counters, too. Memory is counted in values of the tensors that an operation creates, which is the
same on every machine. What this leaves out: memory that neither PyTorch nor Python has allocated,
such as a file mapped into memory.
"""

import _thread
import multiprocessing.process
import os
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Self

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import message_of

_counters: list["TensorCounter"] = []  # those that are on
_listeners: list["CallsWatch"] = []


class TensorCounter(TorchDispatchMode):
    """A counter of what PyTorch's operations create while it is on, including backward passes and
    other threads.

    Attributes:
        largest: number of values of the largest tensor created, including views.
        largest_shape, largest_operation: the shape of that tensor, and the operation that made it.
        peak_bytes: most bytes alive at one time, of tensors created since it was turned on.
        operations: names of the operations that ran.
        flops: two for each multiplication in the matrix products.
        processes: number of processes that were started, whose work is not counted.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False. By default, PyTorch imports its compiler (2 s) to keep it out of here."""
        return False  # nothing is compiled under this counter

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.largest_shape: tuple[int, ...] = ()
        self.largest_operation = ""
        self.peak_bytes = 0
        self.flops = 0
        self.processes = 0
        self.operations: set[str] = set()
        self._lock = threading.RLock()
        self._alive = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def alive_bytes(self) -> int:
        """Return the bytes of the tensors that were created since then and still exist."""
        return self._alive

    def ignore(self, *tensors: Tensor) -> None:
        """Ignore tensors that existed before: a view of them takes no memory."""
        self._known.update(x.untyped_storage() for x in tensors)

    def __enter__(self) -> Self:
        _counters.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _counters.remove(self)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.count(function, args, result)
        return result

    def count(self, function: Any, args: tuple, result: Any) -> None:
        """Count one operation, of any thread."""
        name = function.overloadpacket.__name__
        with self._lock:
            self.operations.add(name)
            self.flops += _product_flops(name, args)
            self.ignore(*(x for x in tree_leaves(args) if isinstance(x, Tensor)))
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self._made(x, name)

    def _made(self, x: Tensor, name: str) -> None:
        # An expanded tensor stores one value for many elements.
        values = 1
        for size, stride in zip(x.shape, x.stride(), strict=True):
            values *= size if stride else 1
        if values > self.largest:
            self.largest, self.largest_shape, self.largest_operation = values, tuple(x.shape), name
        storage = x.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._alive += size
        self.peak_bytes = max(self.peak_bytes, self._alive)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self._alive -= size


def _product_flops(name: str, args: tuple) -> int:
    """Return the FLOPs of mm(x, y), bmm(x, y), addmm(a, x, y) and baddbmm(a, x, y)."""
    if name not in ("mm", "bmm", "addmm", "baddbmm"):
        return 0
    left, right = args[-2:]
    return 2 * left.numel() * right.shape[-1]


def saved_values(function: Callable[[], Any]) -> tuple[Any, dict[tuple[int, ...], int]]:
    """Return (the result of `function()`, shape -> how many different tensors of that shape are
    kept for backward).
    """
    kept: dict[tuple[int, int], tuple[int, ...]] = {}
    alive = []  # so that no address is used twice

    def pack(x: Tensor) -> Tensor:
        kept.setdefault((x.untyped_storage().data_ptr(), x.numel()), tuple(x.shape))
        alive.append(x)
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        result = function()
    counts: dict[tuple[int, ...], int] = {}
    for shape in kept.values():
        counts[shape] = counts.get(shape, 0) + 1
    return result, counts


class CallsWatch(TorchFunctionMode):
    """Listens to the calls of PyTorch's functions while it is on, in every thread.

    Args:
        names: of functions, such as "scaled_dot_product_attention"; a function whose name contains
            one of them counts.
        called: gets the name of each such function when it is called.
    """

    def __init__(self, names: Collection[str], called: Callable[[str], object]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.called = called

    def __enter__(self) -> Self:
        _listeners.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _listeners.remove(self)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.hear(function)
        return function(*args, **(kwargs or {}))

    def hear(self, function: Any) -> None:
        """Report a call if its function counts."""
        name = getattr(function, "__name__", "")
        if any(each in name for each in self.names):
            self.called(name.partition(".")[0])


def listeners() -> list[CallsWatch]:
    """Return those that listen at the moment."""
    return list(_listeners)


class _OperationsOfThread(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for counter in _counters:
            counter.count(function, args, result)
        return result


class _CallsOfThread(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        for listener in _listeners:
            listener.hear(function)
        return function(*args, **(kwargs or {}))


def _counted_thread(start: Callable[..., Any]) -> Callable[..., Any]:
    """Return `start`, which starts a thread with a function, for a thread that is counted."""

    @wraps(start)
    def start_counted(function: Callable[..., Any], *others: Any, **named: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            with _OperationsOfThread(), _CallsOfThread():
                return function(*arguments, **options)

        return start(counted, *others, **named)

    return start_counted


def _count_process() -> None:
    for counter in _counters:
        counter.processes += 1


def _counted_process(start: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(start)
    def start_counted(process: Any) -> Any:
        _count_process()
        return start(process)

    return start_counted


def _count_everywhere() -> None:
    """Let every thread and process that is started from now on be counted. This module does so when
    it is imported, which is before any code under test is.
    """
    for module in (_thread, threading):
        for name in ("start_new_thread", "start_new", "start_joinable_thread"):
            for each in (name, f"_{name}"):
                if hasattr(module, each):
                    setattr(module, each, _counted_thread(getattr(module, each)))
    process = multiprocessing.process.BaseProcess
    process.start = _counted_process(process.start)  # type: ignore[method-assign]
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_count_process)


_count_everywhere()


@contextmanager
def watched(
    what: str,
    *,
    forbidden: Collection[str] = (),
    largest_tensor: int | None = None,
    largest_outside: int | None = None,
    hint: str = "",
) -> Iterator[TensorCounter]:
    """Count the work of the block, and fail at its end if it does what it may not.

    Args:
        what: the subject of the sentence, "tiled_attention of 1,024 tokens".
        forbidden: names of PyTorch's functions and operations that may not be called.
        largest_tensor: how many values a tensor may have, at most.
        largest_outside: bytes that may be taken outside PyTorch, such as by NumPy; None for any
            number. Call the code once before, or what it loads is counted, too.
        hint: what to do in place of a large tensor, after a colon.

    Raises GradedFailure.
    """
    called: list[str] = []
    with ExitStack() as stack:
        if largest_outside is not None:
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
        stack.enter_context(CallsWatch(forbidden, called.append))
        counter = stack.enter_context(TensorCounter())
        before, _ = tracemalloc.get_traced_memory()
        yield counter
        _, peak = tracemalloc.get_traced_memory()
    called += [each for each in sorted(counter.operations) if any(n in each for n in forbidden)]
    if called:
        raise GradedFailure(f"{what} calls PyTorch's {called[0]}: write it yourself")
    if largest_tensor is not None and counter.largest > largest_tensor:
        made = f"a tensor of shape {counter.largest_shape} ({counter.largest_operation})"
        numbers = {
            "expected": f"at most {largest_tensor:,} values",
            "got": f"{counter.largest:,} values",
        }
        raise GradedFailure(message_of(f"{what} creates {made}{hint}", numbers))
    if largest_outside is None:
        return
    if counter.processes:
        raise GradedFailure(f"{what} starts a process: compute in this one, where it is counted")
    if peak - before > largest_outside:
        numbers = {
            "expected": f"at most {largest_outside:,} bytes",
            "got": f"{peak - before:,} bytes",
        }
        sentence = f"{what} keeps values outside PyTorch, in NumPy or in Python's own objects{hint}"
        raise GradedFailure(message_of(sentence, numbers))
