"""The hash of a package's code sees behaviour and stand-ins, not comments."""

from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.pipeline import code_hash as module
from lm_course.pipeline.code_hash import code_hash, package_files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.delenv(STAND_INS_VARIABLE, raising=False)
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "__init__.py").write_text('"""Stage."""\n')
    (tmp_path / "stage" / "lesson.py").write_text("def f(x):\n    return x + 1\n")
    return tmp_path / "stage"


def hash_after(package: Path, source: str) -> str:
    (package / "lesson.py").write_text(source)
    return code_hash("stage")


def test_comments_docstrings_and_formatting_do_not_count(package: Path) -> None:
    before = code_hash("stage")
    source = '"""A file."""\n# why\ndef f( x ):\n    """Add one."""\n    return (x + 1)\n'
    assert hash_after(package, source) == before


@pytest.mark.parametrize(
    "source",
    ["def f(x):\n    return x + 2\n", "def f(x, y=0):\n    return x + 1\n", "f = 'a string'\n"],
)
def test_behaviour_counts(package: Path, source: str) -> None:
    assert hash_after(package, source) != code_hash_of_original(package, source)


def code_hash_of_original(package: Path, source: str) -> str:
    (package / "lesson.py").write_text("def f(x):\n    return x + 1\n")
    original = code_hash("stage")
    (package / "lesson.py").write_text(source)
    return original


def test_a_stand_in_counts_and_its_init_file_does_not(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_hash("stage")
    workspace = tmp_path / "workspace" / "stage"
    workspace.mkdir(parents=True)
    (workspace / "lesson.py").write_text("def f(x):\n    return x - 1\n")
    (workspace / "__init__.py").write_text("never_imported = 1\n")
    assert code_hash("stage") == before
    monkeypatch.setenv(STAND_INS_VARIABLE, str(tmp_path / "workspace"))
    assert package_files("stage")["lesson.py"] == workspace / "lesson.py"
    assert package_files("stage")["__init__.py"] == package / "__init__.py"
    assert code_hash("stage") != before


def test_one_module_does_not_depend_on_its_neighbours(package: Path) -> None:
    before, whole_before = code_hash("stage.lesson"), code_hash("stage")
    (package / "other.py").write_text("x = 1\n")
    assert code_hash("stage.lesson") == before
    assert code_hash("stage") != whole_before


def test_a_syntax_error_names_file_and_line(package: Path) -> None:
    with pytest.raises(ValueError, match=r"lesson.py: line 1: not valid Python"):
        hash_after(package, "def f(:\n")
