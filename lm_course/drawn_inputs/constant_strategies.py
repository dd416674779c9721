"""Strategies of Hypothesis for one field of an input, which draw from the constants of the code
under test (code_constants.py) one time out of three; from the usual values if the code has no
constants of its own that fit, or if another field has a large one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from lm_course.drawn_inputs import code_constants


@st.composite
def _or_own(
    draw: st.DrawFn, usual: st.SearchStrategy[Any], own: Callable[[], Sequence[Any]]
) -> Any:
    fitting = own()
    if not fitting or draw(st.integers(0, 2)) != 1:
        return draw(usual)
    drawn = draw(st.sampled_from(fitting))
    if not isinstance(drawn, str | float):
        code_constants.take(drawn)
    return drawn


def near_constants(usual: st.SearchStrategy[int], least: int, most: int) -> st.SearchStrategy[int]:
    """Draw whole numbers; some are those of the code, or beside them, from `least` to `most`."""
    return _or_own(usual, lambda: code_constants.whole_numbers(least, most))


def sizes_of_code(usual: st.SearchStrategy[float], most: float) -> st.SearchStrategy[float]:
    """Draw the size of a tensor's values; some are the numbers of the code."""
    return _or_own(usual, lambda: [size for size in code_constants.sizes() if size <= most])


def texts_of_code(usual: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw short texts; some are those that the code contains."""
    return _or_own(usual, code_constants.texts)
