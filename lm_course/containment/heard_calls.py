"""Classes and Python functions of PyTorch whose calls `CallsWatch` hears, too.

PyTorch's modes see the operations on tensors, but neither a class such as DistributedDataParallel
nor a function that is written in Python, such as clip_grad_norm_. A suite names those that its
tasks forbid, before any code under test is imported. A module that is not loaded yet is changed
when it is imported, for some of them load for seconds.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from lm_course.containment import counted_work

_awaited: dict[str, tuple[str, ...]] = {}  # module -> names in it


def hear_calls(names: Mapping[str, Collection[str]]) -> None:
    """Let `CallsWatch` hear the calls of these functions and constructors.

    Args:
        names: the names by module, such as {"torch.nn.utils": ["clip_grad_norm_"]}. A function is
            heard by the modules that are listed, a class by every name.
    """
    if not any(isinstance(finder, _Awaited) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Awaited())
    for module, listed in names.items():
        if module in sys.modules:
            _hear(sys.modules[module], listed)
        else:
            _awaited[module] = tuple(listed)


class _Awaited(MetaPathFinder):
    """Finds the modules that are awaited, and changes them once they are loaded."""

    def find_spec(
        self, fullname: str, path: Any = None, target: object = None
    ) -> ModuleSpec | None:
        if fullname not in _awaited:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def load(module: ModuleType) -> None:
                execute(module)
                _hear(module, _awaited.pop(fullname, ()))

            spec.loader.exec_module = load  # type: ignore[method-assign]
        return spec


def _hear(module: ModuleType, names: Collection[str]) -> None:
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, type):
            if "__init__" in vars(value):
                value.__init__ = _heard(value.__init__, value.__name__)  # type: ignore[misc]
        elif callable(value):
            setattr(module, name, _heard(value, name))


def _heard(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    if hasattr(function, "heard_as"):
        return function

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        for listener in counted_work.listeners():
            listener.hear(call)
        return function(*arguments, **named)

    call.__name__ = name
    call.heard_as = name  # type: ignore[attr-defined]
    return call
