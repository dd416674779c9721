"""Contracts: what holds for every graded function, whatever it computes.

Each is one sentence of `assignments/README.md`, and is checked on inputs drawn from the function's
space. What this leaves out: whether the results are right (drawn_checks.py), and what a check
of its own must count, such as work and memory.
"""

import copy
import random
import sys
import threading
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet
from types import ModuleType
from typing import Any

from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, outcome_of
from lm_course.drawn_inputs.result_comparison import first_difference
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import message_of, shown


def check_contracts(space: Space, module: ModuleType, inputs: Mapping[str, Any]) -> None:
    """Call the function with these inputs, several times, and fail with the contract it breaks.

    Args:
        space: the function's.
        module: the module under test.
        inputs: drawn from the space; left as they are.
    """
    name = space.function
    before = copy.deepcopy(dict(inputs))
    given = copy.deepcopy(dict(inputs))
    state, threads = _random_states(), threading.active_count()
    first = outcome_of(space, module, given)
    _require_unchanged(space, given, before)
    if not space.seeds:
        for library, (old, new) in _changed_states(state).items():
            _fail(
                f"{name} uses or seeds the global random generator of {library}; a function that "
                "draws numbers takes a generator of its own",
                {"before": old, "after": new},
            )
    if threading.active_count() > threads:
        _fail(f"{name} leaves a thread running when it returns", {})
    if isinstance(first, Raised):
        return
    if first.printed and not space.prints:
        _fail(f"{name} prints; remove the print before you hand it in", {"printed": first.printed})
    kept = copy.deepcopy(first.seen)
    second = outcome_of(space, module, copy.deepcopy(before))
    _require_same(second, kept, f"{name} gives another result when it is called again")
    _spoil(first.value)
    if difference := first_difference(given, _without_changes(space, given, before)):
        _fail(
            f"the result of {name} shares memory with its arguments: a caller who changes the "
            "result changes them too",
            {"changed": difference},
        )
    third = outcome_of(space, module, copy.deepcopy(before))
    _require_same(
        third,
        kept,
        f"{name} hands out an object that it uses again: after a caller changed the result of one "
        "call, the next call is wrong",
    )


def _require_unchanged(space: Space, given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for argument in given:
        if argument in space.changes:
            continue
        if difference := first_difference(given[argument], before[argument]):
            _fail(
                f"{space.function} changes its argument {argument}: work on a copy",
                {"changed": difference},
            )


def _without_changes(
    space: Space, given: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    return {name: given[name] if name in space.changes else before[name] for name in before}


def _require_same(again: Returned | Raised, kept: Any, sentence: str) -> None:
    if isinstance(again, Raised):
        _fail(sentence, {"first": shown(kept), "then": f"{again.kind}: {again.message}"})
    if difference := first_difference(again.seen, kept):
        _fail(sentence, {"different": difference})


def _fail(sentence: str, values: Mapping[str, str]) -> None:
    raise GradedFailure(message_of(sentence, values))


def _random_states() -> dict[str, Any]:
    """Return the state of every global random generator that is loaded."""
    states: dict[str, Any] = {"Python": random.getstate()}
    if "numpy" in sys.modules:
        states["NumPy"] = repr(sys.modules["numpy"].random.get_state()[1:3])
    if "torch" in sys.modules:
        states["PyTorch"] = sys.modules["torch"].get_rng_state().tolist()
    return states


def _changed_states(before: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    after = _random_states()
    return {
        library: (shown(state), shown(after[library]))
        for library, state in before.items()
        if after[library] != state
    }


def _spoil(value: Any) -> None:
    """Change a result in place, as a caller may who owns it."""
    if isinstance(value, MutableMapping):
        for each in list(value.values()):
            _spoil(each)
        value.clear()
    elif isinstance(value, MutableSequence):
        for each in list(value):
            _spoil(each)
        del value[:]
    elif isinstance(value, MutableSet):
        value.clear()
    elif isinstance(value, tuple):
        for each in value:
            _spoil(each)
    elif hasattr(value, "fill_") and hasattr(value, "detach"):
        value.detach().fill_(7)
    elif hasattr(value, "fill") and hasattr(value, "dtype"):
        value.fill(7)
