"""Shared parts of the spaces of functions on ranks: groups, contracts, tolerances.

A rank works on copies, so what a function does to its arguments, to the random generators and to
standard output is looked at here, in the rank. Nothing here imports the code under test.
"""

import contextlib
import io
import random
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import strategies as st
from ranks import RECORD, kept_ranks, on_kept_ranks
from torch import Tensor, nn

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import laid_out
from lm_course.drawn_inputs.input_spaces import Space, built
from lm_course.drawn_inputs.result_comparison import Within
from lm_course.grading.comparisons import check_true

GROUPS = ("None", "all", "own")  # the default, the same ranks in a new group, each rank alone
groups = st.sampled_from(GROUPS)
_groups: dict[str, Any] = {}


def group_of(name: str, rank: int, size: int) -> Any:
    """Return the group of this rank; made once, by all ranks together."""
    if not _groups:
        _groups["None"] = None
        _groups["all"] = dist.new_group(list(range(size)))
        alone = [dist.new_group([each]) for each in range(size)]
        _groups["own"] = alone[rank]
    return _groups[name]


def on_two_ranks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a space's `call` for `function(module, rank, group, **inputs)`: the list of the ranks'
    results. `inputs` must have "group", one of GROUPS.
    """

    @cache
    def of_module(module: ModuleType) -> Callable[..., Any]:
        def run(rank: int, size: int, inputs: dict[str, Any]) -> Any:
            inputs = dict(inputs)
            group = group_of(inputs.pop("group"), rank, size)
            RECORD.clear()
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                result = function(module, rank, group, **built(inputs))
            for each in RECORD.started():
                check_true(
                    group is None or not each.of_all,
                    f"your code starts {each} among all ranks: pass it the group",
                )
            check_true(not output.getvalue(), "your code prints", {"printed": output.getvalue()})
            return result

        return run

    def call(module: ModuleType, **inputs: Any) -> list[Any]:
        return on_kept_ranks(2, of_module(module), inputs)

    return call


@contextlib.contextmanager
def leaving_alone(*tensors: Tensor) -> Any:
    """Fail if the block changes these tensors, or uses a global random generator."""
    before = [x.detach().clone() for x in tensors]
    states = _states()
    yield
    check_true(_states() == states, "a global random generator was used or seeded")
    for x, kept in zip(tensors, before, strict=True):
        check_true(
            torch.equal(x.detach().nan_to_num(7.0), kept.nan_to_num(7.0)),
            "an argument was changed: work on a copy",
        )


def _states() -> list[Any]:
    numbers = np.random.get_state()
    return [random.getstate(), numbers[1].tobytes(), torch.get_rng_state().numpy().tobytes()]


SEEDS = st.integers(0, 99)
few = near_constants(st.sampled_from([1, 2, 3, 4, 1, 2, 3, 4, 0]), 1, 70)
shapes = st.lists(few, max_size=3).map(lambda axes: tuple(axes[:1] + [min(a, 5) for a in axes[1:]]))


def whole_numbers(seed: int, shape: tuple[int, ...], dtype: str = "float64") -> Tensor:
    """Return numbers whose sums are exact in every type."""
    values = torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed))
    return values.to(getattr(torch, dtype))


@st.composite
def parameter_lists(
    draw: Any,
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16", "float16"),
    least: int = 0,
) -> list[Any]:
    """Draw parameters: shape, type, whether it is trained, how it lies in memory."""
    one = st.tuples(
        shapes,
        st.sampled_from(dtypes),
        st.sampled_from([True, True, True, False]),
        st.sampled_from(["contiguous", "contiguous", "transposed", "strided", "spaced"]),
    )
    return draw(st.lists(one, min_size=least, max_size=near(draw, 5)))


def near(draw: Any, most: int) -> int:
    return draw(near_constants(st.integers(1, most), 1, 40))


def parameters_of(described: list[Any], seed: int) -> list[nn.Parameter]:
    """Return the parameters, with values by the seed."""
    made = []
    for number, (shape, dtype, trained, layout) in enumerate(described):
        values = laid_out(whole_numbers(seed + 100 * number, shape, dtype), layout)
        made.append(nn.Parameter(values, trained))
    return made


def close(value: Any) -> Any:
    """Return the value with a tolerance for each tensor, by its type."""
    if isinstance(value, Tensor):
        rtol, atol = {torch.float64: (1e-9, 1e-11), torch.float32: (1e-4, 1e-5)}.get(
            value.dtype, (2e-2, 1e-2)
        )
        return Within(value, rtol, atol) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: close(each) for key, each in value.items()}
    return [close(each) for each in value] if isinstance(value, list | tuple) else value


def check_on_ranks(spaces: list[Space]) -> Callable[..., None]:
    """Return the first check of drawn_checks, at whose end the ranks are ended.

    The second one, of the contracts, would see only copies that ranks have sent. What can be broken
    here is checked above. All inputs of a space are tried in the same two processes, so what one
    call leaves behind reaches the next.
    """
    as_the_reference, _ = drawn_checks(spaces)

    @wraps(as_the_reference)
    def ended(**arguments: Any) -> None:
        with kept_ranks():
            as_the_reference(**arguments)

    return pytest.mark.limit(seconds=60)(ended)
