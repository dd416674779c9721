"""The numbers and texts that the code under test contains, as inputs.

A mistake often begins at a limit that its author wrote down, such as `if len(word) > 400`. No list
of usual limits holds them all, but the code does: as a fuzzer's dictionary (Zalewski, AFL, 2015),
its constants are drawn now and then, with the numbers beside them. Constants that the reference
contains too are left out: a suite's own strategies draw those. So are large tables. What this
leaves out: constants of other modules, and numbers that are computed while the code runs.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
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
LONGEST_TABLE = 30  # a longer list or dict holds data, not limits
LARGEST = 2**63
MOST = 100  # numbers, and texts, of one module
SMALL = 16  # numbers up to here may occur several times in one input


@dataclass(frozen=True)
class Constants:
    """Numbers and texts that stand in a module."""

    numbers: frozenset[float] = frozenset()
    texts: frozenset[str] = frozenset()

    def __sub__(self, other: "Constants") -> "Constants":
        return Constants(self.numbers - other.numbers, self.texts - other.texts)


def constants_in(source: str) -> Constants:
    """Return the constants of a module; none if it is not Python, or too deep to be read.

    Docstrings, the fixed parts of f-strings and the elements of large tables do not count.
    """
    try:
        values = list(_values(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Constants()
    numbers = [value for value in values if _is_number(value)]
    texts = [value for value in values if isinstance(value, str)]
    texts += [value.decode("utf-8", "ignore") for value in values if isinstance(value, bytes)]
    parts = [character for text in texts for character in text if not character.isalnum()]
    short = [text for text in texts if 0 < len(text) <= LONGEST_TEXT]
    writable = dict.fromkeys(text for text in [*short, *parts] if _is_writable(text))
    return Constants(
        frozenset(list(dict.fromkeys(numbers))[:MOST]), frozenset(list(writable)[:MOST])
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_writable(text: str) -> bool:
    """Return whether a file can hold it: half of a surrogate pair has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def constants_of_file(path: Path) -> Constants:
    """Return the constants of the module in this file; none if there is no such file."""
    try:
        return constants_in(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Constants()


def _values(node: ast.AST) -> Iterator[Any]:
    """Yield the constants below a node, and what operators between them give."""
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.List | ast.Tuple | ast.Set) and len(node.elts) > LONGEST_TABLE:
        return
    if isinstance(node, ast.Dict) and len(node.keys) > LONGEST_TABLE:
        return
    if isinstance(node, ast.Constant | ast.UnaryOp | ast.BinOp):
        yield _folded(node, [])
    for child in ast.iter_child_nodes(node):
        yield from _values(child)


def _folded(node: ast.AST, budget: list[None]) -> Any:
    """Return the value of a constant, or of up to ten operators between constants; None for other
    nodes, and for numbers that are too large to be a limit.
    """
    budget.append(None)
    if len(budget) > 10:
        return None
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(node, ast.UnaryOp | ast.BinOp) and type(node.op) in FOLDED:
        sides = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
        values = [_folded(side, budget) for side in sides]
        if any(type(each) not in (int, float) for each in values):
            return None
        if isinstance(node.op, ast.Pow | ast.LShift) and abs(values[1]) > 64:
            return None
        with suppress(ArithmeticError, TypeError, ValueError):
            value = FOLDED[type(node.op)](*values)
    too_large = type(value) in (int, float) and not -LARGEST <= value <= LARGEST
    return None if too_large else value


class _Current:
    """The constants that are drawn from now, and whether this input has a large number yet."""

    constants = Constants()
    large_taken = False


_by_task: Mapping[str, Constants] = {}


def note_constants(by_task: Mapping[str, Constants]) -> None:
    """Keep the constants of the code under test, by task, for this process and its forks."""
    global _by_task
    _by_task = dict(by_task)


@contextmanager
def constants_of(task: str) -> Iterator[None]:
    """Within this block, strategies draw from the constants of the code for this task."""
    before, _Current.constants = _Current.constants, _by_task.get(task, Constants())
    begin_input()
    try:
        yield
    finally:
        _Current.constants = before


def begin_input() -> None:
    """Call this before each input is drawn: it may take one number above SMALL from the code, so
    that its size stays within bounds.
    """
    _Current.large_taken = False


def take(number: float) -> None:
    """Note that a number of the code was drawn."""
    _Current.large_taken = _Current.large_taken or number > SMALL


def whole_numbers(least: int, most: int) -> list[int]:
    """Return the whole numbers of the code, those beside them and their doubles, within these
    limits.
    """
    return _whole_numbers(
        _Current.constants, least, min(most, SMALL) if _Current.large_taken else most
    )


@lru_cache(maxsize=1000)
def _whole_numbers(constants: Constants, least: int, most: int) -> list[int]:
    whole = [int(number) for number in constants.numbers if number == int(number)]
    near = {number + step for number in whole for step in (-1, 0, 1)}
    near |= {2 * number + 1 for number in whole if number > 2}  # more than two blocks of that size
    return sorted(number for number in near if least <= number <= most)


def sizes() -> list[float]:
    """Return the absolute values of the code's numbers that are above 1, such as the limits of a
    clamp.
    """
    return _sizes(_Current.constants)


@lru_cache(maxsize=100)
def _sizes(constants: Constants) -> list[float]:
    return sorted({abs(float(number)) for number in constants.numbers if abs(number) > 1})


def texts() -> list[str]:
    """Return the texts of the code, and the characters in them that are neither letter nor
    digit.
    """
    return _texts(_Current.constants)


@lru_cache(maxsize=100)
def _texts(constants: Constants) -> list[str]:
    return sorted(constants.texts)
