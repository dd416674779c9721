"""Each contract is seen when it is broken, and a function that keeps all of them passes."""

import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lm_course.drawn_inputs.contracts import check_contracts
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.grading.check_outcome import GradedFailure

SPACE = Space("t1.1", "stage.lesson.work", arguments({"numbers": st.lists(st.integers())}))
KEPT: dict[tuple[int, ...], list[int]] = {}
CALLS: list[int] = []


def sorted_in_place(numbers):
    numbers.sort()
    return numbers


def hands_out_its_own_list(numbers):
    return KEPT.setdefault(tuple(numbers), sorted(numbers))


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
        (changes_from_call_to_call, "work gives another result when it is called again"),
        (draws_from_the_global_generator, "the global random generator of Python"),
        (seeds_numpy, "the global random generator of NumPy"),
        (seeds_torch, "the global random generator of PyTorch"),
        (leaves_a_thread, "work leaves a thread running when it returns"),
        (prints, "work prints; remove the print"),
        (hands_out_a_read_only_array, "the result of work cannot be changed: return a copy"),
    ],
)
def test_a_broken_contract_is_named(work, sentence: str) -> None:
    KEPT.clear()
    inputs = {"numbers": [3, 1, 2]}
    with pytest.raises(GradedFailure, match=sentence):
        check_contracts(SPACE, SimpleNamespace(work=work), inputs)
    assert inputs == {"numbers": [3, 1, 2]}


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
