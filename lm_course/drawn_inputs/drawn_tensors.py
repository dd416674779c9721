"""Tensors as drawn inputs: a seed, a shape, a type, and how the values lie in memory.

Hypothesis would need a decision for every element, so a strategy draws this description, and the
tensor is built just before the call. The memory around the values holds NaN (or the largest
integer), so that code which reads a tensor as if it were contiguous is wrong by more than a little.
What this leaves out: devices other than the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from lm_course.drawn_inputs.constant_strategies import near_constants, sizes_of_code

FLOATS = ("float32", "float64", "bfloat16", "float16")
# How the values lie: in a row; with the last two axes swapped; with the two before the last swapped
# (heads that a layer has split); with all axes in reverse; every second value; every second row;
# within longer rows; behind one other value; with other rows behind the last; equal along the first
# axis, which is stored once.
LAYOUTS = (
    "contiguous",
    "transposed",
    "split",
    "reversed",
    "strided",
    "spaced",
    "beside",
    "even",
    "padded",
    "offset",
    "offset",
    "followed",
    "expanded",
)
ORDERS = ("random", "random", "in a row", "between")
MOST_SHOWN = 6  # values in a message


@dataclass(frozen=True)
class TensorInput:
    """A tensor that can be built.

    Attributes:
        shape: its axes.
        dtype: "float32", "int64", "bool".
        layout: one of LAYOUTS.
        seed: of the values.
        size, offset: standard deviation and mean of a float tensor.
        below: for integers: one more than the largest. The least is 0.
        order: for integers: "random"; "in a row", which begins anywhere below the largest; or
            "between", a row in which all but the ends have changed places.
        beside: for the layout "beside": how many values follow each row.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    seed: int = 0
    size: float = 1.0
    offset: float = 0.0
    below: int = 2
    order: str = "random"
    beside: int = 1

    def build(self) -> Tensor:
        """Return a new tensor, the same for equal descriptions."""
        dtype = getattr(torch, self.dtype)
        return laid_out(self._values(dtype), self.layout, self.beside)

    def _values(self, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if dtype == torch.bool:  # every row has a True
            values = torch.rand(self.shape, generator=generator)
            return (values > 0.5) | (values == values.amax(-1, keepdim=True))
        if not dtype.is_floating_point:
            values = torch.randint(self.below, self.shape, generator=generator)
            return (values if self.order == "random" else self._rows(values)).to(dtype)
        values = torch.randn(self.shape, generator=generator).double()  # a float32 ends at 3e38
        return (values * self.size + self.offset).to(dtype)

    def _rows(self, values: Tensor) -> Tensor:
        """Return rows of successive integers, as far as there are so many."""
        if not self.shape:
            return values
        length = self.shape[-1]
        places = torch.arange(length)
        if self.order == "between":
            places[1:-1] = places[1:-1].flip(0)
        start = values[..., :1] % max(1, self.below - length + 1)
        return (start + places).clamp(max=self.below - 1)

    def __repr__(self) -> str:
        words = [f"{self.dtype} tensor {list(self.shape)}"]
        words += [self.layout] if self.layout != "contiguous" else []
        words += [f"{self.beside} more"] if self.layout == "beside" else []
        words += [self.order] if self.order != "random" else []
        words += [f"of size {self.size:g}"] if self.size != 1 else []
        words += [f"around {self.offset:g}"] if self.offset else []
        if math.prod(self.shape) > MOST_SHOWN:
            return ", ".join([*words, f"seed {self.seed}"])
        return f"{', '.join(words)}: {_rounded(self.build().tolist())}"


def laid_out(x: Tensor, layout: str, beside: int = 1) -> Tensor:
    """Return a tensor of these values that lies in memory as `layout` says; one axis is needed for
    most, and two for the others.
    """
    if x.ndim == 0 or (x.ndim == 1 and layout in ("transposed", "reversed", "spaced")):
        layout = "contiguous"
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "split" and x.ndim > 2:
        return x.transpose(-2, -3).contiguous().transpose(-2, -3)
    if layout == "reversed":
        axes = list(range(x.ndim))[::-1]
        return x.permute(axes).contiguous().permute(axes)
    if layout == "expanded":
        return x[:1].clone().expand(x.shape)
    if layout in ("contiguous", "split"):
        return x
    if layout == "offset":
        return _nothing(x, (x.numel() + 1,))[1:].view(x.shape).copy_(x)
    *leading, rows, width = (1, *x.shape) if x.ndim == 1 else x.shape
    if layout == "spaced":
        view = _nothing(x, (*leading, 2 * rows + 1, width))[..., 1::2, :]
    elif layout == "strided":
        view = _nothing(x, (*leading, rows, 2 * width + 1))[..., 1::2]
    elif layout == "beside":
        view = _nothing(x, (*leading, rows, width + beside))[..., :width]
    elif layout == "even":
        view = _nothing(x, (*leading, rows, 2 * width))[..., ::2]
    elif layout == "followed":
        view = _nothing(x, (*leading, rows + 64, width))[..., :rows, :]
    else:
        assert layout == "padded", f"no layout is called {layout}"
        view = _nothing(x, (*leading, rows, width + 5))[..., 2 : 2 + width]
    view = view[0] if x.ndim == 1 else view
    view.copy_(x)
    return view


def _nothing(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if x.dtype.is_floating_point:
        return torch.full(shape, math.nan, dtype=x.dtype)
    return torch.full(
        shape, 0 if x.dtype == torch.bool else torch.iinfo(x.dtype).max, dtype=x.dtype
    )


def _rounded(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_rounded, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


SEEDS = st.integers(0, 99)
LONGEST_AXIS = 2100
_beside = near_constants(st.sampled_from([1, 1, 2, 3, 5]), 1, LONGEST_AXIS)


@cache
def shapes(least: int, most: int, longest: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Return the strategy for shapes of `least` to `most` axes, 1 to `longest` long; one axis may
    be as long as a number in the code.
    """
    usual = st.lists(st.integers(1, longest), min_size=least, max_size=most)
    own = near_constants(st.just(0), longest + 1, LONGEST_AXIS)
    return st.builds(_with_axis, usual, own, st.integers(0, most))


def _with_axis(shape: list[int], length: int, axis: int) -> tuple[int, ...]:
    """Return the shape with this length in place of one axis; 0: as it is."""
    if length and shape:
        shape = [1 if other > 3 else other for other in shape]
        shape[axis % len(shape)] = length
    return tuple(shape)


@cache
def _fields(*choices: tuple[Any, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Return the strategy for a seed and one of each: to make it takes longer than to draw."""
    return st.tuples(SEEDS, *map(st.sampled_from, choices))


def tensor(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    shape: tuple[int, ...],
    dtypes: tuple[str, ...] = FLOATS,
    sizes: tuple[float, ...] = (1.0,),
    offsets: tuple[float, ...] = (0.0,),
    layouts: tuple[str, ...] = LAYOUTS,
) -> TensorInput:
    """Draw a float tensor of this shape."""
    seed, dtype, layout, size, offset = draw(_fields(dtypes, layouts, sizes, offsets))
    if len(sizes) > 1:
        size = draw(sizes_of_code(st.just(size), max(sizes)))
    return TensorInput(shape, dtype, layout, seed, size, offset, beside=draw(_beside))


def integers(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    shape: tuple[int, ...],
    below: int,
    layouts: tuple[str, ...] = LAYOUTS,
) -> TensorInput:
    """Draw a tensor of ids from 0 up."""
    seed, layout, order = draw(_fields(layouts, ORDERS))
    return TensorInput(shape, "int64", layout, seed, below=below, order=order, beside=draw(_beside))


def mask(draw: Callable[[st.SearchStrategy[Any]], Any], shape: tuple[int, ...]) -> TensorInput:
    """Draw a bool tensor with a True in every row."""
    seed, layout = draw(_fields(LAYOUTS))
    return TensorInput(shape, "bool", layout, seed)
