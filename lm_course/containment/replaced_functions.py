"""Functions that the grader uses, compared before and after each check.

Code under test that replaces one of them (`builtins.all`, `torch.allclose`, a comparison of the
grader) would decide its own grade. What this leaves out: a function that is put back before the
check ends.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = (
    *("builtins", "math", "json", "copy", "random", "pickle", "threading", "pytest", "numpy"),
    *("torch", "torch.nn.functional", "torch.testing"),
)
CLASSES = ("torch.Tensor",)
# PyTorch replaces functions itself when it loads more of itself.
CHANGING = {"torch", "torch.nn.functional", "torch.testing", "Tensor", "numpy"}


class GraderFunctions:
    """The functions and classes as they are when this object is made.

    Args:
        suites: the folder of the graded suites.
        is_learner: says whether a file is the learner's.
    """

    def __init__(self, suites: Path, is_learner: Callable[[str], bool]) -> None:
        self._is_learner = is_learner
        self._kept = [
            (owner, name, value)
            for owner in _owners(suites)
            for name, value in vars(owner).items()
            if callable(value) or isinstance(value, staticmethod | classmethod | property)
        ]

    def replaced(self) -> str:
        """Return the name of one that is another object now; "" if all are the same."""
        for owner, name, value in self._kept:
            now = vars(owner).get(name, None)
            if now is not value and (owner.__name__ not in CHANGING or self._is_theirs(now)):
                return f"{owner.__name__}.{name}"
        return ""

    def _is_theirs(self, value: Any) -> bool:
        code = getattr(value, "__code__", None)
        if code is None:
            module = sys.modules.get(getattr(value, "__module__", None) or "")
            return self._is_learner(getattr(module, "__file__", None) or "")
        return self._is_learner(code.co_filename)


def _owners(suites: Path) -> Iterator[Any]:
    """Yield the modules, and the classes that the grader's modules define."""
    for name in LIBRARIES:
        if name in sys.modules:
            yield sys.modules[name]
    for name in CLASSES:
        module, _, attribute = name.rpartition(".")
        if module in sys.modules:
            yield getattr(sys.modules[module], attribute)
    for module in list(sys.modules.values()):
        if not _is_grader_s(module, suites):
            continue
        yield module
        own = [value for value in vars(module).values() if isinstance(value, type)]
        yield from (each for each in own if each.__module__ == module.__name__)


def _is_grader_s(module: ModuleType, suites: Path) -> bool:
    if module.__name__.partition(".")[0] == "lm_course":
        return True
    file = getattr(module, "__file__", None)
    return bool(file) and Path(file).is_relative_to(suites)
