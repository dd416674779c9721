"""The constants of the code under test are found, and drawn as inputs."""

import pytest
from hypothesis import strategies as st

from lm_course.drawn_inputs import code_constants
from lm_course.drawn_inputs.code_constants import (
    Constants,
    constants_in,
    constants_of,
    constants_of_file,
    note_constants,
)
from lm_course.drawn_inputs.constant_strategies import (
    near_constants,
    sizes_of_code,
    texts_of_code,
)
from lm_course.drawn_inputs.drawing import draw_inputs
from lm_course.drawn_inputs.input_spaces import Space, arguments

CODE = '''
"""A docstring of 77 words."""
LIMIT = 4 * 100
NAME, ENDS = "</w>", b"\\xc3\\xa9"


def work(x):
    """Another, of 78."""
    if len(x) > 1 << 12 or x < -20.5 or 10**1000 or 1 << 10**9 or 1 / 0 or True:
        raise ValueError(f"{x}: more than 79 of them")
    return x.strip(" \\t"), "a long message that nobody takes for a token"
'''


def test_numbers_and_texts_of_a_module() -> None:
    found = constants_in(CODE)
    assert found.numbers >= {400, 4096, -20.5, 1000}
    assert not {77, 78, 79, True} & (found.numbers - {1})
    assert found.texts == {"</w>", "é", " \t", "<", "/", ">", " ", "\t"}


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "9" * 400,
        "x = (((2**64)**64)**64)**64",
        "x = 2**40 * 2**40",
        "x = '\\ud800'",
        "x = ''",
        f"TABLE = {list(range(1000, 1100))}",
        f"TABLE = {dict.fromkeys(range(1000, 1100), 0)}",
        "x = " + " + ".join(["'a'"] * 3000),
        "x = " + "-" * 3000 + "a",
        "x = " + " + ".join(["7"] * 100),  # of its parts, only the short sums count
    ],
)
def test_constants_that_are_no_input(source: str) -> None:
    found = constants_in(source)
    assert all(abs(number) <= 100 or number == 2**40 for number in found.numbers)
    assert found.texts <= {"a"}


def test_no_more_than_a_hundred() -> None:
    lines = [f"x{number} = {number}, 'k{number}'" for number in range(1000)]
    found = constants_in("\n".join(lines))
    assert len(found.numbers) == len(found.texts) == 100


@pytest.mark.parametrize("source", ["def :", "\0", ""])
def test_what_is_not_python_has_none(source: str) -> None:
    assert constants_in(source) == Constants()


def test_a_file_that_is_not_there_or_not_utf_8_has_none(tmp_path) -> None:
    assert constants_of_file(tmp_path / "none.py") == Constants()
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'")
    assert constants_of_file(tmp_path / "latin.py") == Constants()


SPACE = Space(
    "t1.1",
    "stage.lesson.work",
    arguments(
        {
            "number": near_constants(st.integers(0, 3), 0, 900),
            "size": sizes_of_code(st.just(1.0), 100.0),
            "text": texts_of_code(st.just("a")),
        }
    ),
)


def drawn(constants: Constants) -> list[dict[str, object]]:
    note_constants({"t1.1": constants})
    try:
        found: list[dict[str, object]] = []
        draw_inputs(SPACE, 1, found.append)
        return found
    finally:
        note_constants({})


def test_they_are_drawn_with_their_neighbours_and_the_usual_values_more_often() -> None:
    inputs = drawn(Constants(frozenset({400, 7000, -20.5}), frozenset({"</w>"})))
    numbers = [each["number"] for each in inputs]
    assert {399, 400, 401, 801} <= set(numbers) <= {0, 1, 2, 3, 399, 400, 401, 801}
    assert sum(number > 3 for number in numbers) < len(numbers) / 2
    assert {each["size"] for each in inputs} == {1.0, 20.5}
    assert {each["text"] for each in inputs} == {"a", "</w>"}


def test_without_constants_of_its_own_code_is_tried_with_the_usual_values() -> None:
    usual = drawn(Constants())
    assert {each["number"] for each in usual} == {0, 1, 2, 3}
    assert usual == drawn(Constants(frozenset({7000}), frozenset()))[: len(usual)]


def test_an_input_has_one_large_number_of_the_code() -> None:
    """Two long axes, or many long words, would take a right solution minutes."""
    space = Space(
        "t1.1",
        "stage.lesson.work",
        arguments({name: near_constants(st.just(0), 0, 500) for name in "abcd"}),
    )
    note_constants({"t1.1": Constants(frozenset({400, 5}))})
    try:
        inputs: list[dict[str, int]] = []
        draw_inputs(space, 3, inputs.append)
    finally:
        note_constants({})
    large = [sum(number > 16 for number in each.values()) for each in inputs]
    assert set(large) == {0, 1}
    assert max(sum(0 < number < 16 for number in each.values()) for each in inputs) > 1


def test_they_hold_for_one_task_only() -> None:
    note_constants({"t1.1": Constants(frozenset({400}))})
    try:
        with constants_of("t1.2"):
            assert code_constants.whole_numbers(0, 500) == []
        with constants_of("t1.1"):
            assert code_constants.whole_numbers(0, 500) == [399, 400, 401]
        assert code_constants.whole_numbers(0, 500) == []
    finally:
        note_constants({})
