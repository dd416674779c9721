"""Each contract is seen when it is broken, and a function that keeps all of them passes."""

import ast
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lm_course.drawn_inputs.contracts import check_contracts
from lm_course.drawn_inputs.drawn_tensors import TensorInput
from lm_course.drawn_inputs.input_spaces import Space, arguments, outcome_of_reference
from lm_course.grading.check_outcome import GradedFailure
from lm_course.learning.assignment_file import assignment_ids

PROJECT = Path(__file__).parents[3]
CODE = ("contracts", "new_objects", "differentiated")
# What a message says -> the sentence of assignments/README.md that asks for it.
ON_THE_PAGE = {
    "changes its argument": "The arguments are unchanged.",
    "the global random generator of": "are neither used nor seeded.",
    "leaves a thread running": "No thread is still running when the function returns",
    "prints; remove": "and nothing is printed",
    "gives another result when it is called again": "The same call gives the same result again.",
    "holds one object at two places": "No list, dict or array is at two places",
    "cannot be changed": "The result can be changed",
    "shares memory with its arguments": "The result belongs to the caller",
    "changes the result of an earlier call": "The result belongs to the caller",
    "that it uses again": "The result belongs to the caller",
    "keeps something of its input or its result": "an object that is called again",
    "no gradient reaches": "A gradient reaches every input",
    "the result has no gradient": "A gradient reaches every input",
    "are not the derivatives of its results": "differences of the function itself",
    "depends on PyTorch's global random generator": "do not depend on the global random generator",
    "changes the gradient that it receives": "that it receives is unchanged",
    "a second backward pass through": "A backward pass can be repeated",
    "share a parameter": "and share none",
    "start with the same": "start with different weights",
    "is another after the same": "after the same `torch.manual_seed`",
    "sets PyTorch's global random generator": "which a new object does not seed",
}
SPACE = Space("t1.1", "stage.lesson.work", arguments({"numbers": st.lists(st.integers())}))
KEPT: dict[tuple[int, ...], list[int]] = {}
CALLS: list[int] = []
SHARED: list[int] = []


def sorted_in_place(numbers):
    numbers.sort()
    return numbers


def hands_out_its_own_list(numbers):
    return KEPT.setdefault(tuple(numbers), sorted(numbers))


def fills_one_list_again(numbers):
    SHARED[:] = sorted(numbers)
    return SHARED


def changes_from_call_to_call(numbers):
    CALLS.append(1)
    return len(CALLS)


def draws_from_the_global_generator(numbers):
    return [number for number in numbers if random.random() < 2]


def seeds_numpy(numbers):
    np.random.seed(0)
    return sorted(numbers)


def seeds_torch(numbers):
    torch.manual_seed(0)
    return sorted(numbers)


def leaves_a_thread(numbers):
    threading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()
    return sorted(numbers)


def hands_out_a_read_only_array(numbers):
    array = np.array(sorted(numbers))
    array.flags.writeable = False
    return array


def prints(numbers):
    print("debug", numbers)
    return sorted(numbers)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (sorted_in_place, "work changes its argument numbers: work on a copy"),
        (lambda numbers: numbers, "the result of work shares memory with its arguments"),
        (hands_out_its_own_list, "work hands out an object that it uses again"),
        (fills_one_list_again, "work changes the result of an earlier call"),
        (changes_from_call_to_call, "work gives another result when it is called again"),
        (draws_from_the_global_generator, "the global random generator of Python"),
        (seeds_numpy, "the global random generator of NumPy"),
        (seeds_torch, "the global random generator of PyTorch"),
        (leaves_a_thread, "work leaves a thread running when it returns"),
        (prints, "work prints; remove the print"),
        (lambda numbers: [[0]] * len(numbers), "the result of work holds one object at two places"),
        (hands_out_a_read_only_array, "the result of work cannot be changed: return a copy"),
    ],
)
def test_a_broken_contract_is_named(work, sentence: str) -> None:
    KEPT.clear()
    inputs = {"numbers": [3, 1, 2]}
    with pytest.raises(GradedFailure, match=sentence):
        check_contracts(SPACE, SimpleNamespace(work=work), inputs, {"numbers": [5]})
    assert inputs == {"numbers": [3, 1, 2]}


def sentences_of(module: str) -> list[str]:
    """Return the first string of each failure in a module, without what is put into it."""
    tree = ast.parse((PROJECT / "lm_course/drawn_inputs" / f"{module}.py").read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    failing = ("_fail", "_require_same", "GradedFailure", "check_true")
    sentences = []
    for call in calls:
        if getattr(call.func, "id", "") in failing:
            parts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
            sentences += ["".join(part for part in parts if isinstance(part, str))]
    return [sentence for sentence in sentences if len(sentence) > 20]


def test_every_contract_stands_on_the_page_that_handouts_point_to() -> None:
    page = (PROJECT / "assignments/README.md").read_text(encoding="utf-8")
    section = " ".join(page.partition("## Contracts")[2].partition("\n## ")[0].split())
    asked = [sentence for module in CODE for sentence in sentences_of(module)]
    unknown = [each for each in asked if not any(part in each for part in ON_THE_PAGE)]
    assert unknown == [], "add the contract to the page, and to ON_THE_PAGE"
    unused = [part for part in ON_THE_PAGE if not any(part in each for each in asked)]
    assert unused == []
    missing = [sentence for sentence in ON_THE_PAGE.values() if sentence not in section]
    assert missing == [], "assignments/README.md does not say this any more"
    for name in assignment_ids():
        handout = (PROJECT / "assignments" / name / "README.md").read_text(encoding="utf-8")
        assert "(../README.md#contracts)" in handout, name


@pytest.mark.parametrize(
    "work", [sorted, lambda numbers: {"sum": sum(numbers)}, lambda numbers: (len(numbers), "a")]
)
def test_what_keeps_them_passes(work) -> None:
    check_contracts(SPACE, SimpleNamespace(work=work), {"numbers": [3, 1, 2]})


def test_a_tensor_that_shares_memory_is_seen() -> None:
    space = Space("t1.1", "stage.lesson.work", arguments({"x": st.none()}))
    view, copy = SimpleNamespace(work=lambda x: x[1:]), SimpleNamespace(work=lambda x: x[1:] + 0)
    with pytest.raises(GradedFailure, match="shares memory with its arguments"):
        check_contracts(space, view, {"x": torch.arange(4.0)})
    check_contracts(space, copy, {"x": torch.arange(4.0)})


def test_what_a_space_allows_is_allowed() -> None:
    allowed = Space("t1.1", "stage.lesson.work", SPACE.inputs, changes=("numbers",), prints=True)

    def work(numbers):
        print("a progress bar")
        numbers.sort()
        return len(numbers)

    check_contracts(allowed, SimpleNamespace(work=work), {"numbers": [3, 1, 2]})


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda x: x.add_(1e-9), "by less than the tolerance or beside its values"),
        (lambda x: x[1:].mul_(1), "an operation wrote to it in place"),
        (lambda x: x.as_strided((4,), (1,)).zero_(), "beside its values"),
        (lambda x: x.requires_grad_(), "its requires_grad"),
    ],
)
def test_every_change_of_a_tensor_is_seen(change, difference: str) -> None:
    def work(x):
        change(x)
        return 1

    inputs = {"x": torch.zeros(4)[::2]}
    inputs["x"].as_strided((4,), (1,))[1::2] = 5.0
    with pytest.raises(GradedFailure, match=f"work changes its argument x(?s:.*){difference}"):
        check_contracts(SPACE, SimpleNamespace(work=work), inputs)


def test_an_oracle_takes_the_place_of_the_reference() -> None:
    space = Space("t1.1", "stage.lesson.work", st.none(), oracle=lambda x: x.sum(), view=float)
    assert outcome_of_reference(space, {"x": TensorInput((2,), seed=1)}).seen == pytest.approx(
        float(TensorInput((2,), seed=1).build().sum())
    )


def test_an_expanded_result_that_shares_memory_is_seen() -> None:
    space = Space("t1.1", "stage.lesson.work", st.none())
    module = SimpleNamespace(work=lambda x: x[:1].expand(3))
    with pytest.raises(GradedFailure, match="shares memory with its arguments"):
        check_contracts(space, module, {"x": torch.arange(4.0)})
