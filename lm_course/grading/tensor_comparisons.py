"""Checks of tensors for graded suites: values with the likely cause, and counts of work and memory.

A wrong tensor is compared with the result of each typical mistake, so that the message can name the
mistake. Memory is counted in values of the tensors that an operation creates, which is the same on
every machine. What this leaves out: numbers and lists (comparisons.py).
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import Causes, check_close, check_true, shown

FEW = 8  # values that are shown in full


def check_tensor(
    got: Any,
    expected: Tensor,
    what: str,
    causes: Causes | None = None,
    *,
    dtype: torch.dtype | None = torch.float32,
    rtol: float | Tensor = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Fail unless `got` is a tensor of this dtype and shape, and all its values are close.

    Args:
        got: the learner's tensor.
        expected: from a float64 reference.
        what: the subject of the sentence.
        causes: each with its wrong tensor, within the same tolerance, or a test of `got`.
        dtype: the dtype that the result must have; None for any.
        rtol, atol: as in `check_close`; rtol may also be a tensor, one per value (`one_rounding`).
    """
    if got is None:
        raise GradedFailure(f"{what} is None; is `return` missing?")
    check_true(isinstance(got, Tensor), f"{what}: expected a tensor, got {shown(got)}")
    got = got.detach()
    right = expected.detach().double()
    causes = {  # a test gets the tensor, not the float64 array of it
        cause: (lambda _, test=wrong: test(got)) if callable(wrong) else wrong
        for cause, wrong in (causes or {}).items()
    }
    try:
        each = rtol.numpy() if isinstance(rtol, Tensor) else rtol
        check_close(got, right, atol, each, what, causes)
    except GradedFailure as failure:
        raise GradedFailure(_with_values(str(failure), got, right)) from None
    check_true(
        dtype is None or got.dtype == dtype,
        f"{what}: the values are correct, but their dtype is {got.dtype}; expected {dtype}",
    )


def one_rounding(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the largest relative error of each value if it is rounded to `dtype` once: half of its
    last place, plus 2 % for sums in float32 before that.
    """
    exact = exact.detach().double().abs()
    size = torch.exp2(torch.floor(torch.log2(exact)))  # the power of two at or below it
    return torch.where(exact > 0, 0.51 * torch.finfo(dtype).eps * size / exact, 0.0)


def _with_values(message: str, got: Tensor, right: Tensor) -> str:
    """Return the message with counts of NaN and infinite values, and with small tensors in full."""
    lines = message.split("\n")
    end = -1 if lines[-1].lstrip().startswith("likely") else len(lines)
    extra = []
    if right.numel() <= FEW and got.numel() <= FEW:
        extra += [f"  expected {_rounded(right)}", f"  got      {_rounded(got)}"]
    for name, is_that in (("NaN", torch.isnan), ("infinite", torch.isinf)):
        if got.is_floating_point() and is_that(got).sum() > is_that(right).sum():
            extra.append(f"  {name:<8} {int(is_that(got).sum()):,} values")
    return "\n".join([*lines[:end], *extra, *lines[end:]])


def _rounded(x: Tensor) -> str:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        return f"{value:.5g}" if isinstance(value, float) else str(value)

    return text(x.tolist())


class TensorCounter(TorchDispatchMode):
    """A counter of what PyTorch's operations create while it is on, including backward passes.

    Attributes:
        largest: number of values of the largest tensor created, including views.
        largest_shape, largest_operation: the shape of that tensor, and the operation that made it.
        peak_bytes: most bytes alive at one time, of tensors created since it was turned on.
        operations: names of the operations that ran.
        flops: two for each multiplication in the matrix products.
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
        self.operations: set[str] = set()
        self._alive = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def ignore(self, *tensors: Tensor) -> None:
        """Ignore tensors that existed before: a view of them takes no memory."""
        self._known.update(x.untyped_storage() for x in tensors)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.operations.add(name)
        self.flops += _product_flops(name, args)
        self.ignore(*(x for x in tree_leaves(args) if isinstance(x, Tensor)))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self._made(x, name)
        return result

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
