"""The pages of digit_rule.py: sums of small numbers, and prose.

What a model is tested on is held out by a hash of both operands, so that no order of them is
trained on.
"""

import ast
import random
import re
import sysconfig
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lm_core.random_state import derived_seed

MOST_DIGITS = 3  # of an operand
SUMS_PER_PAGE = 4  # about 50 bytes
PROSE_PIECE = 160  # characters
PROSE_SHARE = 0.1  # of the pages
PAGES_PER_STEP = 8
HELD_OUT = 20  # one in this many


class Sum(NamedTuple):
    """One line; the prompt ends before the answer's first digit."""

    left: int
    right: int

    @property
    def prompt(self) -> str:
        return f"{self.left} + {self.right} = "

    @property
    def answer(self) -> str:
        return f"{self.left + self.right}\n"

    @property
    def is_held_out(self) -> bool:
        pair = f"{min(self)}+{max(self)}"
        return zlib.crc32(pair.encode()) % HELD_OUT == 0


def random_sum(generator: random.Random, held_out: bool) -> Sum:
    """Return a sum whose operands are below 10, 100, ..., 10 ** MOST_DIGITS, each bound equally
    often.
    """
    while True:
        found = Sum(*(generator.randrange(10 ** generator.randint(1, MOST_DIGITS)) for _ in "ab"))
        if found.is_held_out == held_out:
            return found


def sums_page(generator: random.Random, held_out: bool) -> str:
    sums = [random_sum(generator, held_out) for _ in range(SUMS_PER_PAGE)]
    return "".join(found.prompt + found.answer for found in sums)


def standard_library_docstrings() -> str:
    """Read the docstrings from the sources, without imports, which can have side effects."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(filter(None, found)) + "\n"


def prose_pieces(text: str) -> tuple[list[str], list[str]]:
    """Return (training pieces, held-out pieces), cut before whitespace; every 20th block of 50 is
    held out.
    """
    pieces = re.findall(rf"(?s).{{1,{PROSE_PIECE}}}(?=\s|\Z)", text)
    split: tuple[list[str], list[str]] = ([], [])
    for number, piece in enumerate(pieces):
        split[number // 50 % HELD_OUT == HELD_OUT - 1].append(piece)
    return split


def pages_of_step(seed: int, step: int, prose: Sequence[str]) -> list[str]:
    """Return a step's pages, which depend only on seed and step: every rule reads the same text."""
    generator = random.Random(derived_seed(seed, "pages", step))
    return [
        generator.choice(prose)
        if generator.random() < PROSE_SHARE
        else sums_page(generator, held_out=False)
        for _ in range(PAGES_PER_STEP)
    ]
