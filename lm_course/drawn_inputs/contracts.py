"""Contracts: what holds for every graded function, whatever it computes.

Each is one sentence of `assignments/README.md`, and is checked on inputs drawn from the function's
space. What this leaves out: whether the results are right (drawn_checks.py), and what a check
of its own must count, such as work and memory.
"""

import copy
import random
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from types import ModuleType
from typing import Any

import numpy as np

from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, built, outcome_of
from lm_course.drawn_inputs.new_objects import check_new_objects
from lm_course.drawn_inputs.result_comparison import first_difference
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import message_of, shown


def check_contracts(
    space: Space,
    module: ModuleType,
    inputs: Mapping[str, Any],
    others: Mapping[str, Any] | None = None,
) -> None:
    """Call the function with these inputs, several times, and fail with the contract it breaks.

    Args:
        space: the function's.
        module: the module under test.
        inputs: drawn from the space; left as they are.
        others: other inputs, with which the function is called in between.
    """
    name = space.function
    before, given = _copy_of(inputs), _copy_of(inputs)
    state, threads = _random_states(), threading.active_count()
    first = outcome_of(space, module, given)
    _require_unchanged(space, given, before)
    if not space.seeds:
        for library in _changed_states(state):
            if library == "PyTorch" and space.makes is not None:
                continue  # new weights are drawn from it
            _fail(
                f"{name} uses or seeds the global random generator of {library}; a function that "
                "draws numbers takes a generator of its own",
                {},
            )
    if threading.active_count() > threads:
        _fail(f"{name} leaves a thread running when it returns", {})
    if isinstance(first, Raised):
        return
    if first.printed and not (space.prints or inputs.get("verbose")):
        _fail(f"{name} prints; remove the print before you hand it in", {"printed": first.printed})
    _check_result(space, module, first, before, given, others)
    if space.makes is not None:
        check_new_objects(space, module, before)


def _check_result(
    space: Space,
    module: ModuleType,
    first: Returned,
    before: Mapping[str, Any],
    given: Mapping[str, Any],
    others: Mapping[str, Any] | None,
) -> None:
    """Check that the result belongs to the caller, and that further calls give the same."""
    name = space.function
    if _holds_one_object_twice(first.value):
        _fail(
            f"the result of {name} holds one object at two places: a caller who changes one "
            "changes the other too",
            {},
        )
    kept = copy.deepcopy(first.seen)
    if others is not None:
        outcome_of(space, module, _copy_of(others))
        if difference := first_difference(space.viewed(first.value), kept):
            _fail(
                f"{name} changes the result of an earlier call when it is called with other inputs",
                {"changed": difference, "between": shown(dict(others))},
            )
    second = outcome_of(space, module, _copy_of(before))
    _require_same(second, kept, f"{name} gives another result when it is called again")
    if hasattr(first.value, "check_differences"):
        first.value.check_differences(name)
        first.value.check_backward(name)
    try:
        _spoil(first.value)
    except ValueError as error:  # NumPy's, for an array that is read-only
        _fail(f"the result of {name} cannot be changed: return a copy", {"NumPy says": str(error)})
    for argument, difference in _changed(space, given, before):
        _fail(
            f"the result of {name} shares memory with its arguments: a caller who changes the "
            "result changes them too",
            {"changed": f"{argument}: {difference}"},
        )
    third = outcome_of(space, module, _copy_of(before))
    _require_same(
        third,
        kept,
        f"{name} hands out an object that it uses again: after a caller changed the result of one "
        "call, the next call is wrong",
    )
    if hasattr(first.value, "results_again"):
        first.value.move_leaves()
        first.value.results = first.value.results_again()
        if difference := first_difference(space.viewed(first.value), kept):
            _fail(
                f"{name} keeps something of its input or its result: the next call of the same "
                "object is wrong if the result was changed, or its input's memory held others",
                {"different": difference},
            )


def _copy_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return built(copy.deepcopy(dict(inputs)))


def _require_unchanged(space: Space, given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for argument, difference in _changed(space, given, before):
        _fail(
            f"{space.function} changes its argument {argument}: work on a copy",
            {"changed": difference},
        )


def _changed(
    space: Space, given: Mapping[str, Any], before: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield (argument, difference) for each that was changed and may not be."""
    for argument in given:
        if argument in space.changes:
            continue
        difference = first_difference(given[argument], before[argument])
        if not difference and hasattr(given[argument], "untyped_storage"):
            difference = _difference_of_memory(given[argument], before[argument])
        if difference:
            yield argument, difference


def _difference_of_memory(given: Any, before: Any) -> str:
    """Return how a tensor whose values are nearly the same was changed; "" if it was not."""
    torch = sys.modules["torch"]
    memory = [torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()) for x in (given, before)]
    if not torch.equal(*memory):
        return "its memory, by less than the tolerance or beside its values"
    if given._version != before._version:
        return "an operation wrote to it in place, though its values are the same again"
    if given.requires_grad != before.requires_grad:
        return "its requires_grad"
    return ""


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
    _, numbers, place, *_ = np.random.get_state()  # loaded here, should the code under test load it
    states["NumPy"] = numbers.tobytes(), place
    if "torch" in sys.modules:
        states["PyTorch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return states


def _changed_states(before: Mapping[str, Any]) -> list[str]:
    after = _random_states()
    return [library for library, state in before.items() if after[library] != state]


def _holds_one_object_twice(value: Any) -> bool:
    """Return whether a list, dict or array is at two places of a value."""
    seen: set[int] = set()

    def again(part: Any) -> bool:
        if isinstance(part, str | bytes) or not (
            isinstance(part, list | tuple | Mapping) or hasattr(part, "dtype")
        ):
            return False
        if not isinstance(part, tuple):
            if id(part) in seen:
                return True
            seen.add(id(part))
        if isinstance(part, Mapping):
            return any(map(again, part.values()))
        return isinstance(part, list | tuple) and any(map(again, part))

    return again(value)


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
    elif hasattr(value, "results_again"):
        _spoil(value.results)
    elif hasattr(value, "fill") and hasattr(value, "dtype"):
        value.fill(7)
