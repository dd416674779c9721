"""Weights as drawn inputs for a6.18 to a6.20: ties, zeros, one sign, outliers, the smallest floats.

Normal random numbers almost never lie halfway between two codes, so one pattern consists of halves
around a scale that is a power of two.
"""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_tensors import FLOATS, LAYOUTS, SEEDS, laid_out

PATTERNS = ("normal", "normal", "halves", "halves", "one sign", "zeros", "outlier", "tiny")
BROKEN = ("nan", "infinity", "minus infinity")
SIZES = (1.0, 2.0**-6, 2.0**8)


@dataclass(frozen=True)
class WeightInput:
    """A weight that can be built.

    Attributes:
        shape: its axes; the last has the columns.
        dtype, layout, seed: as in `TensorInput`.
        size: a power of two that multiplies all values.
        pattern: one of PATTERNS or BROKEN.
        limit: for "halves": the largest magnitude.
        every: for "halves", how many columns share a scale; for "zeros", how many are 0 together.
        positive: for "halves": how far above 0 the range of a group ends; None for a symmetric one.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: str
    seed: int
    size: float
    pattern: str
    limit: int
    every: int
    positive: float | None = None

    def build(self) -> Tensor:
        """Return a new tensor, the same for equal descriptions."""
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        if self.pattern == "halves":
            x = self._halves(generator)
        elif self.pattern == "one sign":
            x = (x.abs() + 2) * (-1) ** self.seed
        elif self.pattern == "zeros":
            start = self.seed % 3 * self.every
            x[..., start : start + self.every] = 0
            x[: self.seed % 2] = 0
        elif self.pattern == "outlier":
            x.view(-1)[self.seed % x.numel()] = 50.0
        elif self.pattern == "tiny":
            x = x * 2.0**-143
        elif self.pattern in BROKEN:
            value = {"nan": "nan", "infinity": "inf", "minus infinity": "-inf"}[self.pattern]
            x.view(-1)[self.seed % x.numel()] = float(value)
        size = 1.0 if self.pattern == "tiny" else self.size
        return laid_out((x * size).to(getattr(torch, self.dtype)), self.layout)

    def _halves(self, generator: torch.Generator) -> Tensor:
        low, high = -self.limit, self.limit
        if self.positive is not None:
            low, high = self.positive - self.limit, self.positive
        steps = torch.randint(int(2 * (high - low)) + 1, self.shape, generator=generator)
        x = low + steps.double() / 2
        x[..., :: self.every] = high if self.positive is not None or self.seed % 2 else low
        if self.positive is not None:
            x[..., 1 :: self.every] = low
        return x


@st.composite
def weights(draw, shapes, limit, every, positives=(None,), dtypes=FLOATS, rare=True):
    """Draw a weight; one in nine is not finite, if `rare`."""
    pattern = draw(st.sampled_from([*PATTERNS, *(["broken"] if rare else [])]))
    dtype = draw(st.sampled_from(("float32", *dtypes)))
    if pattern == "tiny" and dtype == "float16":
        pattern = "normal"
    return WeightInput(
        shape=draw(shapes),
        dtype=dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        seed=draw(SEEDS),
        size=draw(st.sampled_from(SIZES)) if dtype != "float16" else 1.0,
        pattern=draw(st.sampled_from(BROKEN)) if pattern == "broken" else pattern,
        limit=limit,
        every=every,
        positive=draw(st.sampled_from(positives)),
    )


@dataclass(frozen=True)
class CodesInput:
    """Whole numbers that can be built: of "int8" from -127, of "uint8" from 0, up to `most`."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    seed: int
    most: int

    def build(self) -> Tensor:
        """Return a new tensor, the same for equal descriptions."""
        generator = torch.Generator().manual_seed(self.seed)
        least = -self.most if self.dtype == "int8" else 0
        codes = torch.randint(least, self.most + 1, self.shape, generator=generator)
        return laid_out(codes.to(getattr(torch, self.dtype)), self.layout)


def codes(draw, shape, dtype, most):
    """Draw codes of this shape."""
    layout = draw(st.sampled_from(LAYOUTS))
    return CodesInput(shape, dtype, layout, draw(SEEDS), most)


row_lengths = near_constants(st.integers(1, 12), 1, 300)
row_counts = near_constants(st.integers(1, 4), 1, 300)
group_sizes = near_constants(st.sampled_from([1, 2, 3, 4, 5, 8, 32]), 1, 300)
