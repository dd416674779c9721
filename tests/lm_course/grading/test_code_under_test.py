"""The code that is checked, and the libraries that are loaded before the first check."""

import os
from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.grading.code_under_test import (
    choose_implementation,
    unwritten_tasks,
    use_implementation,
)
from lm_course.learning.assignment_file import Assignment, load_assignment


@pytest.fixture
def assignment(toy_course) -> Assignment:
    return load_assignment("t1", toy_course.root)


def test_the_workspace_once_it_is_begun(toy_course, assignment: Assignment) -> None:
    root = toy_course.root
    assert choose_implementation(None, [assignment], root, root).name == "reference"
    toy_course.hand_in(toy_course.REFERENCE)
    chosen = choose_implementation(None, [assignment], root, root)
    assert (chosen.name, chosen.folder) == ("workspace", root / "workspace")
    assert chosen.answers_file(assignment) == root / "workspace/t1/answers.toml"
    assert choose_implementation("reference", [assignment], root, root).is_reference


def test_a_folder_is_found_from_where_the_command_was_given(
    toy_course, assignment: Assignment
) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    root = toy_course.root
    (root / "elsewhere").mkdir()
    (root / "workspace").rename(root / "elsewhere/mine")
    chosen = choose_implementation("mine", [assignment], root, root / "elsewhere")
    assert chosen.folder == root / "elsewhere/mine"
    assert chosen.module_file(assignment, "words") == chosen.folder / "toy_stage/words.py"


@pytest.mark.parametrize("given", ["workspace", "nowhere"])
def test_a_folder_that_is_not_there(toy_course, assignment: Assignment, given: str) -> None:
    with pytest.raises(ValueError, match=f"--impl {given}: no such folder"):
        choose_implementation(given, [assignment], toy_course.root, toy_course.root)


def test_libraries_are_loaded_and_the_learner_s_code_is_not(
    toy_course, assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STAND_INS_VARIABLE, "")
    toy_course.hand_in("import wave\nimport no_such_library\nimport toy_stage.words\n1 / 0\n")
    toy_course.write("workspace/toy_stage/broken.py", "def f(:\n")
    chosen = choose_implementation(None, [assignment], toy_course.root, toy_course.root)
    code = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "from pathlib import Path\n"
        "from lm_course.learning.assignment_file import load_assignment\n"
        "from lm_course.grading.code_under_test import choose_implementation, use_implementation\n"
        "root = Path.cwd()\n"
        "assignment = load_assignment('t1', root)\n"
        "use_implementation(choose_implementation(None, [assignment], root, root), [assignment])\n"
        "print('wave' in sys.modules, 'toy_stage' in sys.modules, os.environ['LM_STAND_INS'])\n"
    )
    done = toy_course.run("-c", code)
    assert done.stdout.split() == ["True", "False", str(chosen.folder)], done.stderr


def test_a_stage_that_is_loaded_already_is_our_mistake(
    toy_course, assignment: Assignment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "toy_stage", os)
    chosen = choose_implementation(None, [assignment], toy_course.root, toy_course.root)
    with pytest.raises(AssertionError, match="toy_stage was imported before"):
        use_implementation(chosen, [assignment])


def test_a_task_is_unwritten_while_all_its_functions_are_stubs(
    toy_course, assignment: Assignment
) -> None:
    root = toy_course.root
    tasks = {task.id: assignment for task in assignment.tasks}
    chosen = choose_implementation(None, [assignment], root, root)
    assert unwritten_tasks(chosen, tasks) == set()
    toy_course.hand_in(toy_course.REFERENCE)
    chosen = choose_implementation(None, [assignment], root, root)
    assert unwritten_tasks(chosen, tasks) == set()
    task = next(task for task in assignment.tasks if task.module)
    file = chosen.module_file(assignment, task.module)
    (name,) = task.functions
    stub = f'raise NotImplementedError("{task.id}: write {name}")'
    for body in (stub, f'"""It counts."""\n    {stub}'):
        file.write_text(f"def {name}(text):\n    {body}\n")
        assert task.id in unwritten_tasks(chosen, tasks)
    for body in (
        f"return text  # {stub}",
        f"return text\n    {stub}",
        f"if text:\n        {stub}\n    return text",
        f"text += 1\n    {stub}",
        'raise NotImplementedError("t9.9: write it")',
        f"{stub} +",
        f"return {'-' * 100_000}1\n    {stub}",
    ):
        file.write_text(f"def {name}(text):\n    {body}\n")
        assert task.id not in unwritten_tasks(chosen, tasks), body
    file.write_text(f"def other(text):\n    {stub}\n")
    assert task.id not in unwritten_tasks(chosen, tasks), "its function is not there"
    file.unlink()
    assert task.id in unwritten_tasks(chosen, tasks)
