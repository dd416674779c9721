"""Docstrings to pairs: paragraphs by hand, and a small source file."""

import pytest

from data_pipeline.instructions.docstring_answers import (
    Pair,
    answer_of,
    name_hash,
    pairs_in_file,
    question_about,
    simplify_markup,
)


@pytest.mark.parametrize(
    ("docstring", "answer"),
    [
        ("Remove the common\n    white space.\n\n    More.", "Remove the common white space."),
        ("fill(text) -> string\n\nReformat exactly one text.", "Reformat exactly one text."),
        ("return the larger of two values", "Return the larger of two values."),
        ("Like :func:`~os.join` yet ``x`` is all of it.", "Like `os.join` yet `x` is all of it."),
        ("See the `manual <https://x.org>`_ for this.", "See the manual for this."),
        ("Short one.", None),
        (">>> f(1) + f(2) + f(3)\n3", None),
        ("The following values are allowed here:\n\n- a", None),
        ("f(x, y, z, t, u) -> int", None),
        ("Parameters\n----------\nx : the value of x", None),
        ("x = 1; y = 2; 3 + 4 / 5 * 6 - 7 == 8 ** 9", None),
        ("", None),
    ],
)  # fmt: skip
def test_first_paragraphs(docstring, answer):
    assert answer_of(docstring, 20, 100) == answer


def test_a_long_paragraph_is_cut_to_whole_sentences():
    text = (
        "The first sentence, e.g. this one. The second sentence is here. " + "Then a third. " * 20
    )
    assert (
        answer_of(text, 20, 70) == "The first sentence, e.g. this one. The second sentence is here."
    )
    assert answer_of("One sentence " + "without an end " * 20, 20, 70) is None


def test_markup():
    assert (
        simplify_markup("a :py:class:`X` and\n  :ref:`the text <label>`") == "a `X` and `the text`"
    )


SOURCE = '''"""Tools for counting sheep at night."""
import sys

def count(sheep):
    """Count the sheep that jump over the fence."""
    def inner():
        """This one is inside a function and hidden."""

def _private():
    """This function is private and hidden from all."""

if sys.platform:
    async def wait():
        """Wait until the next sheep has arrived."""

class Sheep:
    """An animal that helps people to fall asleep."""
    @property
    def color(self):
        """The colour of the wool, usually white."""
    def jump(self):
        """Jump over the fence and land on grass."""
    def __init__(self):
        """Create a sheep with four legs and wool."""

class _Wolf:
    """This class is private and hidden from all."""
    def howl(self):
        """Howl at the moon, loud and long, hidden."""
'''


def test_a_source_file(tmp_path):
    path = tmp_path / "sheep.py"
    path.write_text(SOURCE)
    pairs = pairs_in_file(path, "farm.sheep", 20, 400)
    assert [(pair.name, pair.kind) for pair in pairs] == [
        ("farm.sheep", "module"),
        ("farm.sheep.count", "function"),
        ("farm.sheep.wait", "function"),
        ("farm.sheep.Sheep", "class"),
        ("farm.sheep.Sheep.color", "property"),
        ("farm.sheep.Sheep.jump", "method"),
    ]
    assert pairs[1] == Pair(
        "farm.sheep.count", "farm.sheep", "function", "Count the sheep that jump over the fence."
    )


def test_a_file_that_does_not_parse(tmp_path):
    path = tmp_path / "old.py"
    path.write_text("print 'hello'")
    with pytest.raises(SyntaxError):
        pairs_in_file(path, "old", 20, 400)


def test_questions_name_the_thing_and_vary():
    questions = {
        question_about(Pair(f"m.f{n}", "m", "function", "x")).replace(f"m.f{n}", "f")
        for n in range(30)
    }
    assert questions == {
        "What does `f` do?",
        "What does the function `f` do?",
        "What is the purpose of the function `f`?",
    }


def test_the_hash_is_the_same_on_every_machine():
    assert name_hash("textwrap.dedent") == 0xAE569C59F69F6110  # sha256sum, first 16 digits
