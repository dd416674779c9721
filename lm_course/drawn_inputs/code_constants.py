"""The numbers and texts that the code under test contains, as inputs.

A mistake often begins at a limit that its author wrote down, such as `if len(word) > 400`. No list
of usual limits holds them all, but the code does: as a fuzzer's dictionary (Zalewski, AFL, 2015),
its constants are drawn now and then, with the numbers beside them. Constants that the reference
contains too are left out: a suite's own strategies draw those. What this leaves out: constants of
other modules, and numbers that are computed while the code runs.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDED: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
LONGEST_TEXT = 24  # longer ones are messages and patterns
LARGEST_EXPONENT = 64


@dataclass(frozen=True)
class Constants:
    """Numbers and texts that stand in a module."""

    numbers: frozenset[float] = frozenset()
    texts: frozenset[str] = frozenset()

    def __sub__(self, other: "Constants") -> "Constants":
        return Constants(self.numbers - other.numbers, self.texts - other.texts)


def constants_in(source: str) -> Constants:
    """Return the constants of a module; none if it is not Python. Docstrings and the fixed parts of
    f-strings do not count.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Constants()
    skipped = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Expr)
        for part in (node.values if isinstance(node, ast.JoinedStr) else [node.value])
    }
    values = [_folded(node) for node in ast.walk(tree) if id(node) not in skipped]
    numbers = {value for value in values if isinstance(value, int | float)} - {True, False}
    texts = {value for value in values if isinstance(value, str)}
    texts |= {
        value.decode("utf-8", "ignore") for value in values if isinstance(value, bytes) and value
    }
    parts = {character for text in texts for character in text if not character.isalnum()}
    short = {text for text in texts if len(text) <= LONGEST_TEXT}
    return Constants(frozenset(filter(math.isfinite, numbers)), frozenset((short | parts) - {""}))


def constants_of_file(path: Path) -> Constants:
    """Return the constants of the module in this file; none if there is no such file."""
    try:
        return constants_in(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Constants()


def _folded(node: ast.AST) -> Any:
    """Return the value of a constant, or of operators between constants; None for other nodes."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp | ast.BinOp) and type(node.op) in FOLDED:
        sides = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
        values = [_folded(side) for side in sides]
        if all(isinstance(value, int | float) for value in values):
            if isinstance(node.op, ast.Pow | ast.LShift) and values[1] > LARGEST_EXPONENT:
                return None
            with suppress(ArithmeticError, TypeError, ValueError):
                return FOLDED[type(node.op)](*values)
    return None


_by_task: Mapping[str, Constants] = {}
_current = Constants()


def note_constants(by_task: Mapping[str, Constants]) -> None:
    """Keep the constants of the code under test, by task, for this process and its forks."""
    global _by_task
    _by_task = dict(by_task)


@contextmanager
def constants_of(task: str) -> Iterator[None]:
    """Within this block, strategies draw from the constants of the code for this task."""
    global _current
    before, _current = _current, _by_task.get(task, Constants())
    try:
        yield
    finally:
        _current = before


def whole_numbers(least: int, most: int) -> list[int]:
    """Return the whole numbers of the code, those beside them and their doubles, within these
    limits.
    """
    whole = [int(number) for number in _current.numbers if number == int(number)]
    near = {number + step for number in whole for step in (-1, 0, 1)}
    near |= {2 * number + 1 for number in whole if number > 2}  # more than two blocks of that size
    return sorted(number for number in near if least <= number <= most)


def sizes() -> list[float]:
    """Return all numbers of the code above 1, such as the limits of a clamp."""
    return sorted({abs(float(number)) for number in _current.numbers if abs(number) > 1})


def texts() -> list[str]:
    """Return the texts of the code, and the characters in them that are neither letter nor
    digit.
    """
    return sorted(_current.texts)
