"""Results are compared at any depth: types, keys, lengths, dtypes, shapes, nearly equal numbers."""

import re

import numpy as np
import pytest
import torch

from lm_course.drawn_inputs.result_comparison import first_difference

ONE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ([1, (2, "a")], [1, (2, "a")]),
        ({"x": ONE}, {"x": ONE + 1e-6}),
        ((ONE, [ONE]), (ONE, [ONE])),
        (np.array([1, 2], dtype=np.int32), np.array([1, 2], dtype=np.int32)),
    ],
)
def test_the_same(got, expected) -> None:
    assert first_difference(got, expected) == ""


@pytest.mark.parametrize(
    ("got", "expected", "words"),
    [
        ([1, [2]], [1, (2,)], "expected a tuple at index 0|wrong"),
        ([True], [1], "wrong|expected"),
        ({"x": ONE}, {"x": ONE + 0.01}, r"\['x'\] is wrong"),
        ({"x": ONE}, {"y": ONE}, "the keys of"),
        ((ONE,), [ONE], "the type of"),
        ([ONE, ONE], [ONE], "the length of"),
        (ONE.double(), ONE, "the dtype of"),
        (ONE[:1], ONE, "shape"),
        (ONE.tolist(), ONE, "Tensor"),
        (torch.tensor([1.0, float("nan")]), ONE, "wrong"),
        (np.array([1, 3], dtype=np.int32), np.array([1, 2], dtype=np.int32), "wrong"),
    ],
)
def test_a_difference_is_named(got, expected, words: str) -> None:
    assert re.search(words, first_difference(got, expected))
