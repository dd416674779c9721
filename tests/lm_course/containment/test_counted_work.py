"""Operations, memory and calls are counted on every path: also in threads, NumPy and processes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lm_course.containment.counted_work import CallsWatch, TensorCounter, saved_values, watched
from lm_course.grading.check_outcome import GradedFailure


def attention(q: Tensor) -> Tensor:
    return torch.softmax(q @ q.transpose(-1, -2), -1) @ q


def test_what_operations_make() -> None:
    q = torch.randn(2, 3, 64, 8)
    with TensorCounter() as counter:
        o = attention(q)
    table = 2 * 3 * 64 * 64
    assert counter.largest == table
    assert counter.largest_shape[-2:] == (64, 64)
    assert counter.flops == 2 * 2 * table * 8
    # The scores and their softmax are alive at one time.
    assert 2 * 4 * table <= counter.peak_bytes <= 2 * 4 * table + 4 * o.numel() * 4
    assert {"bmm", "_softmax"} <= counter.operations


def test_what_is_freed_does_not_count() -> None:
    with TensorCounter() as counter:
        for _ in range(5):
            torch.zeros(1000)
        y = torch.zeros(10)
        y.view(2, 5)[0].expand(100, 5)
    assert counter.peak_bytes <= 2 * 4000 + 40
    assert counter.largest == 1000


def test_backward_is_counted_too() -> None:
    q = torch.randn(1, 1, 64, 8, requires_grad=True)
    with TensorCounter() as counter:
        attention(q).sum().backward()
    assert counter.flops == 3 * 2 * 2 * 64 * 64 * 8


def test_what_is_kept_for_backward() -> None:
    q = torch.randn(1, 2, 64, 8, requires_grad=True)
    o, kept = saved_values(lambda: attention(q))
    assert o.shape == q.shape
    assert sum(count for shape, count in kept.items() if shape[-2:] == (64, 64)) == 1
    # One tensor, kept twice.
    assert saved_values(lambda: q * q)[1] == {(1, 2, 64, 8): 1}


def in_a_thread(q: Tensor) -> None:
    thread = threading.Thread(target=attention, args=(q,))
    thread.start()
    thread.join()


def in_a_subclass(q: Tensor) -> None:
    class Own(threading.Thread):
        def run(self) -> None:
            attention(q)

    thread = Own()
    thread.start()
    thread.join()


def in_an_executor(q: Tensor) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(attention, q).result()


def in_a_pool(q: Tensor) -> None:
    with ThreadPool(1) as pool:
        pool.apply(attention, (q,))


def in_a_bare_thread(q: Tensor) -> None:
    import _thread

    done = threading.Event()
    _thread.start_new_thread(lambda: (attention(q), done.set()), ())
    assert done.wait(10)


THREADS = [in_a_thread, in_a_subclass, in_an_executor, in_a_pool, in_a_bare_thread]


@pytest.mark.parametrize("run", THREADS)
def test_what_other_threads_make_counts(run) -> None:
    q = torch.randn(2, 3, 64, 8)
    with TensorCounter() as counter:
        run(q)
    table = 2 * 3 * 64 * 64
    assert counter.largest == table
    assert counter.flops == 2 * 2 * table * 8


def test_a_thread_that_was_there_before_counts() -> None:
    q = torch.randn(2, 3, 64, 8)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        with TensorCounter() as counter:
            pool.submit(attention, q).result()
    assert counter.largest == 2 * 3 * 64 * 64


def call_in_a_thread(q: Tensor) -> None:
    with ThreadPool(1) as pool:
        pool.apply(scaled_dot_product_attention, (q, q, q))


CALLS = {
    "the function": lambda q: scaled_dot_product_attention(q, q, q),
    "the operator": lambda q: torch.ops.aten.scaled_dot_product_attention.default(q, q, q),
    "in a thread": call_in_a_thread,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_forbidden_calls_are_heard(call) -> None:
    q, heard = torch.randn(1, 1, 5, 8), []
    with CallsWatch(["scaled_dot_product"], heard.append):
        attention(q)
        assert heard == []
        call(q)
    assert heard == ["scaled_dot_product_attention"]
    with (
        pytest.raises(GradedFailure, match="it calls PyTorch's scaled_dot_product_attention"),
        watched("it", forbidden=["scaled_dot_product"]),
    ):
        call(q)


def in_numpy(q: Tensor) -> None:
    x = q.numpy()
    np.exp(x @ x.swapaxes(-1, -2)) @ x


def in_lists(q: Tensor) -> None:
    rows = q.flatten(0, -2).tolist()
    [[sum(map(float.__mul__, a, b)) for a in rows] for b in rows[:200]]


def in_a_process(q: Tensor) -> None:
    process = get_context("fork").Process(target=int)
    process.start()
    process.join()


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (in_numpy, "it keeps values outside PyTorch, in NumPy or in Python's own objects: no"),
        (in_lists, "it keeps values outside PyTorch, in NumPy or in Python's own objects: no"),
        (in_a_process, "it starts a process: compute in this one, where it is counted"),
        (attention, "it creates a tensor of shape (1, 256, 256) "),
    ],
)
def test_a_table_elsewhere(run, sentence: str) -> None:
    q = torch.randn(1, 1, 256, 8)
    with (
        pytest.raises(GradedFailure) as caught,
        watched("it", largest_tensor=4000, largest_outside=100_000, hint=": no"),
    ):
        run(q)
    assert str(caught.value).startswith(sentence)


def test_what_is_small_passes() -> None:
    q = torch.randn(1, 1, 32, 8)
    attention(q)
    with watched(
        "it", forbidden=["scaled_dot"], largest_tensor=4000, largest_outside=100_000
    ) as seen:
        attention(q)
        np.zeros(100)
    assert seen.largest == 32 * 32
    assert seen.processes == 0


def test_an_error_of_the_block_comes_first() -> None:
    with pytest.raises(ZeroDivisionError), watched("it", largest_tensor=1):
        torch.zeros(10) / (1 / 0)
