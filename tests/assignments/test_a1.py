"""Assignment a1 grades what it should: the reference passes, the stubs earn nothing, every planted
mistake is caught, and a solution that somebody else wrote from the handout passes too.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.assignment_file import load_assignment
from lm_course.mutants import Mutant, load_mutants, run_mutant, run_mutants
from lm_course.stubs import cut_stubs
from lm_course.written_answers import answers_template
from tokenizer_bpe import input_checks

PROJECT = Path(__file__).parents[2]
HERE = PROJECT / "tests" / "assignments"
INDEPENDENT = HERE / "a1_independent"
A1 = load_assignment("a1")
HANDOUT = (PROJECT / "assignments" / "a1" / "README.md").read_text(encoding="utf-8")


def grades(implementation: Path | str, folder: Path) -> dict[str, dict]:
    """Task id -> its grade, from a graded run in a process of its own."""
    grade_file = folder / "grades.json"
    command = [sys.executable, "-m", "pytest", "assignments/a1", f"--impl={implementation}"]
    command += [f"--grade-json={grade_file}", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if key != STAND_INS_VARIABLE}
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert grade_file.exists(), f"the suite did not run\n{done.stdout}{done.stderr}"
    (graded,) = json.loads(grade_file.read_text(encoding="utf-8"))["assignments"]
    return {task["id"]: task for task in graded["tasks"]}


def assert_all_points(graded: dict[str, dict]) -> None:
    problems = [problem for task in graded.values() for problem in task["problems"]]
    assert not problems, json.dumps(problems, indent=1, ensure_ascii=False)
    assert sum(task["points"] for task in graded.values()) == pytest.approx(100)
    assert all(task["checks"] for task in graded.values())


def test_the_reference_scores_100(tmp_path):
    assert_all_points(grades("reference", tmp_path))


def test_stubs_score_nothing_on_every_task(tmp_path):
    (tmp_path / "tokenizer_bpe").mkdir()
    for module, text in cut_stubs(A1).items():
        (tmp_path / "tokenizer_bpe" / f"{module}.py").write_text(text, encoding="utf-8")
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / "answers.toml").write_text(answers_template(A1), encoding="utf-8")
    graded = grades(tmp_path, tmp_path)
    assert {name: task["passed"] for name, task in graded.items() if task["passed"]} == {}
    assert {task["status"] for task in graded.values()} == {"not written"}


def test_an_empty_folder_scores_nothing_on_every_task(tmp_path):
    """The reference never stands in for a file that was not handed in."""
    (tmp_path / "tokenizer_bpe").mkdir()
    graded = grades(tmp_path, tmp_path)
    assert {task["status"] for task in graded.values()} == {"not submitted"}


@pytest.mark.skipif(not INDEPENDENT.is_dir(), reason="a1_independent/ is not written yet")
def test_an_independent_solution_scores_100(tmp_path):
    shutil.copytree(INDEPENDENT / "tokenizer_bpe", tmp_path / "tokenizer_bpe")
    (tmp_path / "a1").mkdir()
    shutil.copy(HERE / "a1_answers.toml", tmp_path / "a1" / "answers.toml")
    assert_all_points(grades(tmp_path, tmp_path))


@pytest.mark.slow
def test_every_mutant_is_caught_by_its_task():
    survivors, unclear = [], []
    for verdict in run_mutants(A1, load_mutants(A1)):
        if not verdict.caught:
            mutant = verdict.mutant
            survivors.append(f"{mutant.task} lets {mutant.name} pass: {mutant.why}")
        if verdict.message.startswith("the check could not work with"):
            unclear.append(f"{verdict.mutant.name}: {verdict.message}")
    assert survivors == []
    assert unclear == [], "a check stumbled in place of saying what is wrong"


RULE = "the larger pair of byte strings must win"


@pytest.mark.parametrize(
    ("task", "module", "find", "replace", "told"),
    [
        (
            "a1.4",
            "naive_training",
            "key=lambda pair: (pairs[pair], pair)",
            "key=pairs.get",
            "first",
        ),
        (
            *("a1.4", "naive_training", "key=lambda pair: (pairs[pair], pair)"),
            *("key=lambda pair: (pairs[pair], [-byte for byte in pair[0] + pair[1]])", "smaller"),
        ),
        (
            *("a1.6", "pretokenization", "for piece in [*pieces, text[end:]] if piece]"),
            *("for piece in [*pieces, text[end:]]]", "drop empty pieces"),
        ),
        (
            *("a1.6", "input_checks", 'raise ValueError(f"special token {position} is empty'),
            *('raise AssertionError(f"special token {position} is empty', "by another error"),
        ),
        (
            *("a1.2", "naive_training", "    return pairs\n", "    return pairs.items()\n"),
            "count_pairs gives a dict_items: a dict is asked for",
        ),
        (
            *("a1.2", "naive_training", "    return pairs\n", ""),
            "count_pairs returned None; is `return` missing?",
        ),
        (
            *("a1.9", "naive_training", "return dict(enumerate(tokens)), merges"),
            *("return merges, dict(enumerate(tokens))", "gives (merges, vocab): the vocabulary"),
        ),
        (
            *("a1.9", "naive_training", "return dict(enumerate(tokens)), merges"),
            *("dict(enumerate(tokens)), merges", "returned None; is `return` missing?"),
        ),
    ],
    ids=["first", "smaller", "empty", "assert", "items", "no-return", "swapped", "none"],
)
def test_a_common_mistake_is_told_by_its_cause(task, module, find, replace, told):
    if told in ("first", "smaller"):
        told = "to the pair seen first: " if told == "first" else "to the smaller pair: "
        told += RULE
    assignment = A1
    if module == "input_checks":  # given to learners, who may write it anew
        tasks = [*A1.tasks, A1.tasks[1].model_copy(update={"id": "a1.99", "module": module})]
        assignment = A1.model_copy(update={"tasks": tasks})
    mutant = Mutant(name="mistake", task=task, module=module, find=find, replace=replace, why="")
    assert told in run_mutant(assignment, mutant).message


def test_every_task_has_its_mutants():
    planted = {mutant.task for mutant in load_mutants(A1)}
    assert planted == {task.id for task in A1.tasks if task.functions}


def anchor(heading: str) -> str:
    """As GitHub makes it from the text of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_handout_has_a_section_for_every_task():
    sections = re.split(r"^## ", HANDOUT, flags=re.MULTILINE)[1:]
    text_of = {anchor(text.partition("\n")[0]): text for text in sections}
    for task in A1.tasks:
        text = text_of[task.section]
        assert f"**{task.id}, {task.points} points" in text, f"{task.id}: id or points differ"
        assert f"| [{task.id}](#{task.section}) |" in HANDOUT, f"{task.id}: not in the table"
        assert all(f"`{key}`" in text for key in task.questions), (
            f"{task.id}: a question is missing"
        )
    links = re.findall(r"\]\(#([^)]+)\)", HANDOUT)
    assert set(links) <= set(text_of)
    assert A1.points == 100


def test_the_handout_shows_the_given_checks_as_they_are():
    for name in ("check_special_tokens", "check_vocab_size", "utf8_bytes", "check_merges"):
        parameters = inspect.signature(getattr(input_checks, name)).parameters
        shown = re.search(rf"^{name}\((.*?)\) -> ", HANDOUT, re.MULTILINE | re.DOTALL)
        assert re.findall(r"(\w+): ", shown[1]) == list(parameters)


def test_the_handout_names_every_function_that_is_checked():
    for task in A1.tasks:
        for name in task.functions:
            short = name.rpartition(".")[2]
            if not name.startswith(("MergeQueue", "IndexedWords", "LinkedWord")):
                assert f"{short}(" in HANDOUT, f"{task.id}: {name} is not in the handout"
