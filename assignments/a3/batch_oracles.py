"""Oracles for batches and for memory (a3.7 to a3.10): none imports the code under test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.comparisons import Words, check_equal, check_true, shown

# Types of token arrays; ">u2" has its bytes in the other order.
KINDS = ("uint8", "uint16", "uint32", "int16", "int32", "int64", ">u2")
TENSOR_KINDS = ("int64", "int32", "int16", "uint8")
ARRAY_LAYOUTS = ("whole", "part", "every second", "backwards", "read-only")


@dataclass(frozen=True)
class TokensInput:
    """An array of different tokens that can be built; the last ones are the type's largest.

    Attributes:
        count: number of tokens.
        kind: one of KINDS, or "tensor int64" and so on for a tensor.
        layout: one of ARRAY_LAYOUTS; how an array lies in memory.
    """

    count: int
    kind: str = "uint16"
    layout: str = "whole"

    def build(self) -> Any:
        of_tensor = self.kind.startswith("tensor ")
        dtype = np.dtype(self.kind.removeprefix("tensor "))
        most = min(np.iinfo(dtype).max, 2**62)
        array = (np.arange(self.count, dtype=np.int64) + (most - self.count + 1)).astype(dtype)
        array = arranged(array, "whole" if of_tensor else self.layout)
        if not of_tensor:
            return array
        tensor = torch.from_numpy(array)
        return torch.stack([tensor, 0 * tensor], 1)[:, 0] if self.layout != "whole" else tensor

    def __repr__(self) -> str:
        layout = "" if self.layout == "whole" else f", {self.layout}"
        return f"{self.count} tokens of {self.kind}{layout}"


@dataclass(frozen=True)
class DocumentsInput:
    """Documents that can be built: arrays with these lengths.

    Attributes:
        lengths: of the documents.
        ways: pairs of a kind and a layout; the documents take them in turn.
    """

    lengths: tuple[int, ...]
    ways: tuple[tuple[str, str], ...] = (("uint16", "whole"),)

    def build(self) -> list[np.ndarray]:
        generator = np.random.default_rng(len(self.lengths))
        documents = []
        for length, (kind, layout) in zip(self.lengths, cycle(self.ways), strict=False):
            most = np.iinfo(np.dtype(kind)).max
            values = generator.integers(most - 60, most, length).astype(kind)
            documents.append(arranged(values, layout))
        return documents

    def __repr__(self) -> str:
        ways = [kind if layout == "whole" else f"{kind}, {layout}" for kind, layout in self.ways]
        return f"documents of {list(self.lengths)} tokens of {' and '.join(ways)}"


def arranged(array: np.ndarray, layout: str) -> np.ndarray:
    """Return an array of these values that lies in memory as `layout` says."""
    if layout == "part":
        return np.concatenate([np.zeros_like(array), array, np.zeros_like(array)])[
            len(array) : 2 * len(array)
        ]
    if layout == "every second":
        return np.stack([array, np.zeros_like(array)], 1)[:, 0]
    if layout == "backwards":
        return array[::-1].copy()[::-1]
    array = array.copy()
    array.flags.writeable = layout != "read-only"
    return array


def numbers_of(tokens: Any) -> np.ndarray:
    """Return tokens of any type as int64."""
    return np.asarray(tokens).astype(np.int64)


# Windows


def starts_of(tokens: Any, windows: Any, context_length: int, what: str) -> list[int]:
    """Check the windows (x, y) of different tokens, and return where they begin."""
    check_true(
        isinstance(windows, tuple) and len(windows) == 2,
        f"{what}: expected (x, y), got {shown(windows)}",
    )
    x, y = windows
    for name, got in (("x", x), ("y", y)):
        check_true(isinstance(got, Tensor), f"{name} of {what} is not a tensor: {shown(got)}")
        check_equal(str(got.dtype), "torch.int64", f"the type of {name} of {what}")
        check_true(
            got.ndim == 2 and got.shape[1] == context_length,
            f"{name} of {what} must be [batch_size, context_length]",
            {"got": Words(str(list(got.shape)))},
        )
    right = numbers_of(tokens)
    place = {int(token): index for index, token in enumerate(right)}
    starts = []
    for row, (first, second) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        start = place.get(first[0], -1)
        if first != right[start : start + context_length].tolist():
            values = {"row": first[:12], "tokens": right[:12].tolist()}
            causes = {
                "a token of a 16-bit array was read as a negative number": min(first) < 0,
                "a row is not one window, but tokens from several places": start >= 0,
            }
            likely = next((Words(cause) for cause, fits in causes.items() if fits), "")
            check_true(
                False,
                f"row {row} of x of {what} is not a window of the tokens",
                values | ({"likely": likely} if likely else {}),
            )
        expected = right[start + 1 : start + context_length + 1].tolist()
        causes = {
            "y must be one token further than x; this is x itself": first,
            "y is two tokens further than x": right[
                start + 2 : start + 2 + context_length
            ].tolist(),
            "only the last token of y is wrong: it is the one after the window": (
                lambda got, e=expected: got[:-1] == e[:-1]
            ),
        }
        check_equal(second, expected, f"row {row} of y of {what}", causes)
        starts.append(start)
    return starts


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Return whether a value of one lies in the memory of the other; both are contiguous."""
    first, second = one.data_ptr(), other.data_ptr()
    return (
        one.numel() > 0
        and other.numel() > 0
        and first < second + other.numel() * other.element_size()
        and second < first + one.numel() * one.element_size()
    )


def check_apart(one: Tensor, other: Tensor, what: str) -> None:
    check_true(
        not shares_memory(one, other),
        f"{what} share memory: a caller who changes one changes the other. (A single row of a "
        "larger tensor is contiguous as it is, so .contiguous() copies nothing)",
    )


def hash_of_another_process(value: Any) -> int:
    """Python's `hash` of texts differs from process to process."""

    def has_text(part: Any) -> bool:
        if isinstance(part, tuple | frozenset):
            return any(map(has_text, part))
        return isinstance(part, str | bytes)

    return hash((value, "another process")) if has_text(value) else hash(value)


# Rows of documents


def check_rows(rows: Any, lengths: Sequence[int], context_length: int, what: str) -> None:
    """Check that each document is in one row, and that each row is as full as the rule says."""
    check_true(
        isinstance(rows, list) and all(isinstance(row, list) for row in rows),
        f"{what}: expected a list of lists, got {shown(rows)}",
    )
    placed = [document for row in rows for document in row]
    check_true(
        all(type(document) is int for document in placed),
        f"{what}: document numbers must be Python ints, got {shown(rows)}",
    )
    lost = sorted(set(range(len(lengths))) - set(placed))
    twice = sorted({document for document in placed if placed.count(document) > 1})
    check_true(not lost, f"{what}: documents are in no row", {"lost": lost, "rows": rows})
    check_true(not twice, f"{what}: documents are in two rows", {"twice": twice, "rows": rows})
    check_equal(sorted(placed), list(range(len(lengths))), f"the documents of {what}")
    left = list(range(len(lengths)))
    for number, row in enumerate(rows):
        check_true(bool(row), f"{what}: row {number} is empty")
        total = sum(lengths[document] for document in row)
        details = {"lengths of the row": [lengths[document] for document in row], "sum": total}
        check_true(
            total <= context_length, f"{what}: row {number} exceeds {context_length}", details
        )
        longest = max(lengths[document] for document in left)
        check_true(
            lengths[row[0]] == longest,
            f"{what}: row {number} must begin with the longest document that is left",
            {"longest": longest, **details},
        )
        left.remove(row[0])
        best = longest + largest_sum([lengths[d] for d in left], context_length - longest)
        cause = (
            "the longest that fits is not always part of the fullest row: 2 + 2 fill 4, 3 does not"
        )
        if 100 * (best - total) <= best:
            cause = "a row that is nearly full is not full: continue while a larger sum is possible"
        check_true(
            total == best,
            f"{what}: other documents would fill row {number} better",
            {"possible": best, **details, "likely": Words(cause)},
        )
        for document in row[1:]:
            left.remove(document)


def largest_sum(lengths: Sequence[int], space: int) -> int:
    """Return the largest sum of some of the lengths that is at most `space`."""
    sums = 1  # bit n: the sum n is possible
    for length in lengths:
        sums |= sums << length
    return (sums & ((1 << space + 1) - 1)).bit_length() - 1


# A model for packed documents


def attention_losses(token_ids: Tensor, targets: Tensor, borders: Sequence[int]) -> Tensor:
    """Return the loss of each token, in float64, of one attention layer with positions: within each
    document between two borders, causal; positions start again at each.
    """
    generator = torch.Generator().manual_seed(5)
    embedding, places, head = (
        torch.randn(40, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    ids = token_ids.flatten()
    losses = []
    for start, end in pairwise(borders):
        x = embedding[ids[start:end]] + places[: end - start]
        scores = (x @ x.T / 8**0.5).masked_fill(
            torch.ones(end - start, end - start).triu(1).bool(), -torch.inf
        )
        logits = (scores.softmax(-1) @ x) @ head.T
        right = targets.flatten()[start:end]
        losses.append(logits.logsumexp(-1) - logits.gather(1, right[:, None])[:, 0])
    return torch.cat(losses)


# Memory


class AliveBytes(TensorCounter):
    """A counter that also tells how many bytes are alive now."""

    @property
    def alive(self) -> int:
        return self._alive


def plainly(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs)
