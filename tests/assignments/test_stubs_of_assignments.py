"""The stubs that `lm start` writes: each imports, and its tables know the values of the handout.
Files that a learner wrote before a given layer was added still work.
"""

import json
import os
import re
import typing
from pathlib import Path

import preloaded_python
import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.grading.code_under_test import Implementation, unwritten_tasks
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.learning.stubs import cut_stubs
from transformer_lm.model_config import ModelShape

PROJECT = Path(__file__).parents[2]
MLPS = typing.get_args(ModelShape.model_fields["mlp"].annotation)


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


def test_the_grader_knows_every_stub(stubs: tuple[Assignment, Path]) -> None:
    assignment, folder = stubs
    handed_in = Implementation(folder.name, folder, PROJECT, PROJECT)
    tasks = {task.id: assignment for task in assignment.tasks}
    written = {task.id for task in assignment.tasks if task.module}
    assert unwritten_tasks(handed_in, tasks) == written
    reference = Implementation("reference", PROJECT, PROJECT, PROJECT)
    assert unwritten_tasks(reference, tasks) == set()


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


# Builds a model for each value of mlp that it is given, and runs it.
BUILD = """
import torch
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters

shape = {"vocab_size": 11, "context_length": 8, "d_model": 8, "num_layers": 1, "d_ff": 12}
for mlp in VALUES:
    config = ModelConfig(**shape, num_heads=2, num_kv_heads=1, mlp=mlp)
    model = TransformerLM(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters()), mlp
    print(mlp, *model(torch.arange(8)[None]).shape)
"""


def files_from_before_the_variants(folder: Path, *names: str) -> None:
    """Copy these modules of the independent solution, which knows only the graded layers."""
    source = PROJECT / "tests" / "assignments" / "a2_independent" / "transformer_lm"
    (folder / "transformer_lm").mkdir()
    for name in names:
        text = (source / f"{name}.py").read_text(encoding="utf-8")
        assert "variants." not in text and "squared_relu" not in text, f"{name}.py is not older"
        (folder / "transformer_lm" / f"{name}.py").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["layers"], MLPS),
        (["layers", "language_model", "model_cost"], ("swiglu", "gelu")),
    ],
    ids=["layers", "layers and model"],
)
def test_older_files_of_a2_work(names: list[str], values: tuple[str, ...], tmp_path: Path) -> None:
    """The given layers need only what the handout asks for, and an older model needs none."""
    files_from_before_the_variants(tmp_path, *names)
    built = run(f"VALUES = {values}\n{BUILD}", tmp_path)
    assert built.splitlines() == [f"{value} 1 8 11" for value in values]


def test_the_given_table_of_a2_builds_every_layer(tmp_path: Path) -> None:
    """With the stub of language_model.py, as soon as layers.py is written."""
    (tmp_path / "transformer_lm").mkdir()
    stub = cut_stubs(load_assignment("a2"))["language_model"]
    (tmp_path / "transformer_lm" / "language_model.py").write_text(stub, encoding="utf-8")
    code = (
        "import torch\n"
        "from transformer_lm import language_model as m\n"
        "print(m.__file__)\n"
        "for layer in m.FEED_FORWARDS.values(): print(*layer(4, 6, True)(torch.ones(4)).shape)"
    )
    file, *shapes = run(code, tmp_path).splitlines()
    assert Path(file).parent == tmp_path / "transformer_lm"
    assert shapes == ["4"] * len(MLPS)
