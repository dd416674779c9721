"""The stubs that `lm start` writes: each imports, and its tables know the values of the handout."""

import json
import os
import re
from pathlib import Path

import preloaded_python
import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.learning.stubs import cut_stubs

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=assignment_ids())
def stubs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """An assignment and the folder of its stubs."""
    assignment = load_assignment(request.param)
    folder = tmp_path_factory.mktemp("stubs")
    (folder / assignment.package).mkdir()
    for module, text in cut_stubs(assignment).items():
        (folder / assignment.package / f"{module}.py").write_text(text, encoding="utf-8")
    return assignment, folder


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, STAND_INS_VARIABLE: str(folder), "PYTHONPATH": str(PROJECT)}
    done = preloaded_python.run(["-c", code], folder, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_stub_imports_and_is_the_one_that_is_used(stubs: tuple[Assignment, Path]) -> None:
    assignment, folder = stubs
    names = [f"{assignment.package}.{module}" for module in assignment.modules]
    code = f"import importlib\nfor name in {names}: print(importlib.import_module(name).__file__)"
    files = [Path(line) for line in run(code, folder).splitlines()]
    assert files == [folder / assignment.package / f"{name}.py" for name in assignment.modules]


def test_the_tables_of_a2_know_every_value_that_its_handout_names(
    stubs: tuple[Assignment, Path],
) -> None:
    assignment, folder = stubs
    if assignment.id != "a2":
        pytest.skip("about a2")
    code = (
        "import json\n"
        "from transformer_lm import language_model as m, model_cost as c\n"
        "print(json.dumps([list(m.NORMS), list(m.FEED_FORWARDS), list(c.INWARD_MATRICES)]))"
    )
    norms, feed_forwards, inward = json.loads(run(code, folder))
    handout = (PROJECT / "assignments" / "a2" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(norm|mlp)` \| ([^|]+) \|", handout, re.M))
    named = {setting: re.findall(r'`"(\w+)"`', row) for setting, row in rows.items()}
    assert norms == named["norm"]
    assert feed_forwards == inward == named["mlp"]
