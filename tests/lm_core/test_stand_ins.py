"""A file in the folder that LM_STAND_INS names is imported instead of the reference file: in this
process, under `python -m`, and in spawned workers.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE, stand_in_files, stand_ins_first

SPAWN = """
import multiprocessing
from stage.lesson import answer
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(answer(), pool.apply(answer))
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package `stage` with two modules, and a workspace that replaces one of them."""
    package = tmp_path / "house" / "stage"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from lm_core.stand_ins import stand_ins_first\n"
        "__path__ = stand_ins_first(__name__, __path__)\n"
    )
    (package / "lesson.py").write_text("def answer(): return 'reference'\n")
    (package / "other.py").write_text(
        "from stage.lesson import answer\nif __name__ == '__main__': print(answer())\n"
    )
    (tmp_path / "house" / "spawn.py").write_text(SPAWN)
    workspace = tmp_path / "workspace" / "stage"
    workspace.mkdir(parents=True)
    (workspace / "lesson.py").write_text("def answer(): return 'learner'\n")
    return tmp_path


def run_python(house: Path, *arguments: str, stand_ins: Path | None) -> str:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{house / 'house'}{os.pathsep}{root}"}
    environment.pop(STAND_INS_VARIABLE, None)
    if stand_ins is not None:
        environment[STAND_INS_VARIABLE] = str(stand_ins)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip()


def test_unset_changes_nothing(house: Path) -> None:
    assert run_python(house, "-m", "stage.other", stand_ins=None) == "reference"


def test_python_dash_m_takes_the_learners_file_and_the_reference_for_the_rest(house: Path) -> None:
    assert run_python(house, "-m", "stage.other", stand_ins=house / "workspace") == "learner"


def test_spawned_workers_take_the_learners_file(house: Path) -> None:
    script = str(house / "house" / "spawn.py")
    assert run_python(house, script, stand_ins=house / "workspace") == "learner learner"


def test_a_folder_without_this_package_changes_nothing(house: Path) -> None:
    (house / "empty").mkdir()
    assert run_python(house, "-m", "stage.other", stand_ins=house / "empty") == "reference"


def test_a_folder_that_does_not_exist_is_an_error_and_not_the_reference(house: Path) -> None:
    output = run_python(house, "-m", "stage.other", stand_ins=house / "workspcae")
    assert "no such folder" in output
    assert "reference" not in output.splitlines()


def test_search_path_keeps_the_reference_last(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STAND_INS_VARIABLE, str(house / "workspace"))
    assert stand_ins_first("stage", ["/reference"]) == [
        str(house / "workspace" / "stage"),
        "/reference",
    ]
    assert stand_in_files("stage") == [house / "workspace" / "stage" / "lesson.py"]
