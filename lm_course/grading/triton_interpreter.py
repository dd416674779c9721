"""Triton's interpreter, without a search that it repeats and without checks that it discards.

When a kernel is launched, the interpreter looks through all of `triton.language` and replaces its
functions; at the end of the launch it puts them back. It does the same once more for every call of
one `@triton.jit` function by another, where nothing is left to replace. With the small tensors of a
test that is about a third of all its time.

For each sum, difference and product of integers, it also computes whether the result overflows,
and discards the answer, because its option `debug` is not set. That is another quarter.
"""

import dataclasses
import importlib
from types import ModuleType
from typing import Any


def load_interpreter() -> ModuleType:
    """Import `triton.runtime.interpreter`, and let it search each module once per launch and
    compute no overflow that it does not report.

    TRITON_INTERPRET=1 must be in the environment before Triton is first imported. Another version
    of Triton, whose interpreter has other parts, is left as it is.
    """
    interpreter = importlib.import_module("triton.runtime.interpreter")
    _discard_overflow_checks(getattr(interpreter, "interpreter_builder", None))
    scope_class = getattr(interpreter, "_LangPatchScope", None)
    search = getattr(interpreter, "_patch_lang", None)
    if scope_class is None or search is None or isinstance(search, SearchPerLaunch):
        return interpreter
    interpreter._patch_lang = SearchPerLaunch(search, scope_class, interpreter.tl)
    return interpreter


def _discard_overflow_checks(builder: Any) -> None:
    """Switch the checks off where the interpreter would not report them."""
    options = getattr(builder, "options", None)
    if getattr(options, "sanitize_overflow", False) and not getattr(options, "debug", True):
        builder.options = dataclasses.replace(options, sanitize_overflow=False)


class SearchPerLaunch:
    """Takes the place of the interpreter's `_patch_lang`.

    Args:
        search: the interpreter's own function.
        scope_class: what it returns; its `restore` ends the launch.
        language: `triton.language`.
    """

    def __init__(self, search: Any, scope_class: type, language: ModuleType) -> None:
        self.search = search
        self.scope_class = scope_class
        self.languages = [language, language.core]
        self.replaced: list[ModuleType] = []  # in the launch that is running

    def __call__(self, function: Any) -> Any:
        names = function.__globals__.values()
        needed = [module for module in self.languages if any(name is module for name in names)]
        if self.replaced and all(module in self.replaced for module in needed):
            return self.scope_class()  # a call inside a launch
        scope = self.search(function)
        if not self.replaced:
            restore = scope.restore
            scope.restore = lambda: (self.replaced.clear(), restore())
        self.replaced += needed
        return scope
