"""Functions that the grader uses, compared before and after each check.

Code under test that replaces one of them (`builtins.all`, `torch.allclose`, a comparison of the
grader) would decide its own grade. What this leaves out: a function that is put back before the
check ends.
"""

import builtins
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# What the grader uses of libraries. Comparing one function in a fork copies its page of memory, so
# whole libraries would cost milliseconds.
LIBRARIES = {
    "math": "isclose isnan isfinite isinf sqrt",
    "copy": "deepcopy copy",
    "json": "dumps loads",
    "pickle": "dumps loads",
    "random": "getstate setstate",
    "threading": "Thread active_count _start_new_thread _start_joinable_thread",
    "pytest": "fail raises skip",
    "numpy": "abs all allclose any array array_equal asarray isclose isfinite isnan max",
    "torch": "all allclose any equal isclose isfinite isinf isnan manual_seed randn tensor zeros",
    "torch.Tensor": "__eq__ abs all amax any detach double item max numpy tolist",
}
# PyTorch replaces functions itself when it loads more of itself.
CHANGING = {"torch", "Tensor", "numpy"}
GRADER = (
    "lm_course.containment.counted_work",
    "lm_course.drawn_inputs",
    "lm_course.grading.check_outcome",
    "lm_course.grading.comparisons",
    "lm_course.grading.forked_check",
    "lm_course.grading.tensor_comparisons",
)


class GraderFunctions:
    """The functions and classes as they are when this object is made.

    Args:
        suites: the folder of the graded suites.
        is_learner: says whether a file is the learner's.
    """

    def __init__(self, suites: Path, is_learner: Callable[[str], bool]) -> None:
        self._is_learner = is_learner
        self._kept = [
            (owner, name, vars(owner)[name])
            for owner, names in _owners(suites)
            for name in names
            if name in vars(owner) and _decides(vars(owner)[name])
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


def _decides(value: Any) -> bool:
    return callable(value) or isinstance(value, staticmethod | classmethod | property)


def _owners(suites: Path) -> Iterator[tuple[Any, Collection[str]]]:
    """Yield modules and classes, each with the names to compare."""
    yield builtins, list(vars(builtins))
    for name, used in LIBRARIES.items():
        if name in sys.modules:
            yield sys.modules[name], used.split()
    if "torch" in sys.modules:
        yield sys.modules["torch"].Tensor, LIBRARIES["torch.Tensor"].split()
    for module in list(sys.modules.values()):
        if not _is_grader_s(module, suites):
            continue
        yield module, [name for name in vars(module) if not name.startswith("test_")]
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield value, list(vars(value))


def _is_grader_s(module: ModuleType, suites: Path) -> bool:
    if module.__name__.startswith(GRADER):
        return True
    file = getattr(module, "__file__", None)
    return bool(file) and Path(file).is_relative_to(suites)
