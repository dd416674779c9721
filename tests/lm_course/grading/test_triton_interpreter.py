"""The interpreter searches triton.language once per launch, and computes the same."""

import os
from pathlib import Path

import preloaded_python
import pytest

pytest.importorskip("triton", reason="Triton exists for Linux only")
PROJECT = Path(__file__).parents[3]

KERNELS = """
import torch
import triton
import triton.language as tl

@triton.jit
def squared(x):
    return x * x

@triton.jit
def sums_of_squares(inputs, result, broken: tl.constexpr):
    places = tl.arange(0, 8)
    total = squared(tl.load(inputs + places))
    places = places * 1 + 0
    for start in range(1, 3):
        total += squared(tl.load(inputs + 8 * start + places))
    if broken:
        tl.load(total)
    tl.store(result + places, total)
"""
PROGRAM = """
import torch
import kernels
from lm_course.grading.triton_interpreter import load_interpreter

if {once}:
    load_interpreter()
interpreter = load_interpreter() if {once} else kernels.triton.runtime.interpreter
builtin, find = kernels.tl.load, interpreter._patch_builtin
searched, overflows = [], []
semantic = interpreter.interpreter_semantic
compare = semantic.less_equal
semantic.less_equal = lambda *values: (overflows.append(1), compare(*values))[1]
interpreter._patch_builtin = lambda package, *rest: (searched.append(package), find(package, *rest))
for broken in (False, True, False):
    result = torch.zeros(8)
    try:
        kernels.sums_of_squares[(1,)](torch.arange(24.0), result, broken)
    except interpreter.InterpreterError:
        assert broken
    counts = searched.count(kernels.tl), len(overflows)
    print(result.sum().item(), *counts, kernels.tl.load is builtin)
"""


def launches(folder: Path, once: bool) -> list[tuple[float, int, int, str]]:
    """(result, searches so far, comparisons for overflow so far, whether the language is as before)
    after each of three launches, of which the second ends in an error.
    """
    (folder / "kernels.py").write_text(KERNELS)
    path = os.pathsep.join([str(PROJECT), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    done = preloaded_python.run(["-c", PROGRAM.format(once=once)], folder, environment)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(float(row[0]), int(row[1]), int(row[2]), row[3]) for row in rows]


def test_one_search_per_launch_and_no_overflow_check(tmp_path: Path) -> None:
    expected = [(4324.0, 1, 0, "True"), (0.0, 2, 0, "True"), (4324.0, 3, 0, "True")]
    assert launches(tmp_path, once=True) == expected


def test_the_interpreter_as_it_is_searches_and_checks_besides(tmp_path: Path) -> None:
    """If this fails, Triton has stopped doing so, and lm_course/grading/triton_interpreter.py can
    go.
    """
    (first, searches, overflows, _), *_ = launches(tmp_path, once=False)
    assert first == 4324.0
    assert searches >= 4
    assert overflows >= 2
