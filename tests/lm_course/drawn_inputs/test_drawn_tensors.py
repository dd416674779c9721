"""A description of a tensor gives the same tensor each time, laid out in memory as it says."""

import pickle

import pytest
import torch
from hypothesis import strategies as st

from lm_course.drawn_inputs.code_constants import Constants, note_constants
from lm_course.drawn_inputs.drawing import draw_inputs
from lm_course.drawn_inputs.drawn_tensors import LAYOUTS, TensorInput, laid_out, shapes, tensor
from lm_course.drawn_inputs.input_spaces import Space


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4, 5)])
def test_every_layout_holds_the_values(layout: str, shape: tuple[int, ...]) -> None:
    plain = TensorInput(shape, seed=1).build()
    x = TensorInput(shape, seed=1, layout=layout).build()
    if layout == "expanded" and shape:
        plain = plain[:1].expand(shape)
    torch.testing.assert_close(x, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        ("contiguous", (12, 4, 1)),
        ("transposed", (12, 1, 3)),
        ("split", (4, 8, 1)),
        ("reversed", (1, 2, 6)),
        ("strided", (27, 9, 2)),
        ("spaced", (28, 8, 1)),
        ("padded", (27, 9, 1)),
        ("followed", (268, 4, 1)),
        ("offset", (12, 4, 1)),
        ("expanded", (0, 4, 1)),
    ],
)
def test_how_the_values_lie(layout: str, strides: tuple[int, ...]) -> None:
    assert TensorInput((2, 3, 4), layout=layout).build().stride() == strides


@pytest.mark.parametrize("layout", ["strided", "spaced", "padded", "followed", "offset"])
def test_the_memory_around_holds_no_number(layout: str) -> None:
    x = laid_out(torch.zeros(2, 3), layout)
    whole = torch.empty(0).set_(x.untyped_storage())
    assert int(whole.isnan().sum()) == len(whole) - 6


def test_ids_masks_sizes_and_types() -> None:
    ids = TensorInput((50,), "int64", seed=2, below=3).build()
    assert set(ids.tolist()) == {0, 1, 2}
    assert TensorInput((20, 3), "bool", seed=2).build().any(-1).all()
    large = TensorInput((1000,), "bfloat16", size=10.0, offset=100.0).build()
    assert large.dtype == torch.bfloat16
    assert 95 < large.float().mean() < 105
    assert 8 < large.float().std() < 12
    largest = TensorInput((9,), "float64", seed=1, size=1e100).build()
    assert largest.isfinite().all() and largest.abs().max() > 1e99


def test_axes_sizes_and_gaps_of_the_code() -> None:
    @st.composite
    def tensors(draw):
        return {"x": tensor(draw, draw(shapes(1, 3)), sizes=(1.0, 100.0))}

    note_constants({"t1.1": Constants(frozenset({37.0, 77}))})
    try:
        drawn = []
        draw_inputs(Space("t1.1", "stage.lesson.work", tensors()), 5, drawn.append)
    finally:
        note_constants({})
    made = [each["x"] for each in drawn]
    assert {38, 76, 77, 78} <= {length for x in made for length in x.shape}
    assert {1.0, 100.0, 37.0, 77.0} == {x.size for x in made}
    assert {1, 5, 36, 77} <= {x.beside for x in made}
    assert all(sum(length > 16 for length in x.shape) + (x.beside > 16) <= 1 for x in made)
    beside = TensorInput((2, 3), layout="beside", beside=4)
    assert beside.build().stride() == (7, 1)


def test_ids_in_a_row_and_between() -> None:
    def ids(order: str, below: int, length: int = 5) -> list[int]:
        made = TensorInput((1, length), "int64", seed=1, below=below, order=order)
        return made.build().tolist()[0]

    row = ids("in a row", 100)
    assert row == list(range(row[0], row[0] + 5))
    assert ids("between", 5) == [0, 3, 2, 1, 4]
    assert ids("in a row", 5) == [0, 1, 2, 3, 4]
    assert ids("in a row", 3) == [0, 1, 2, 2, 2]  # there are no more
    assert TensorInput((), "int64", below=3, order="between").build().ndim == 0


def test_a_message_shows_small_tensors_whole() -> None:
    small = TensorInput((2,), seed=1, layout="strided")
    assert repr(small) == "float32 tensor [2], strided: [0.6614, 0.2669]"
    large = TensorInput((4, 5), "float16", seed=7, size=30.0, offset=2.0)
    assert repr(large) == "float16 tensor [4, 5], of size 30, around 2, seed 7"
    assert pickle.loads(pickle.dumps(large)) == large
