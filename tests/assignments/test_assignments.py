"""Every assignment grades what it should: the reference passes, the stubs earn nothing, all planted
mistakes are caught, and a solution that somebody else wrote from the handout passes too.
"""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import preloaded_python
import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.learning.stubs import cut_stubs
from lm_course.learning.written_answers import answers_template
from lm_course.mutation_testing.mutant_runs import run_mutants
from lm_course.mutation_testing.mutants import Mutant, load_mutants

PROJECT = Path(__file__).parents[2]
HERE = PROJECT / "tests" / "assignments"
FEWEST_MUTANTS = 12
IN_ONE_PROCESS = """
import sys
import pytest
from lm_course.grading import forked_check

class AllChecksOnFewerDraws:
    def pytest_runtest_setup(self, item):
        item.config.pluginmanager.get_plugin("graded-run").seen_as_stubs.clear()

    def pytest_collection_finish(self):
        from lm_course.drawn_inputs import drawing
        search = drawing._search
        drawing._search = lambda space, count, *rest: search(space, max(1, count // DIVISOR), *rest)

DIVISOR = int(sys.argv[1])
forked_check.can_isolate = lambda: False
sys.exit(pytest.main(sys.argv[2:], plugins=[AllChecksOnFewerDraws()]))
"""
FEWER_DRAWS = 5  # divides the number of drawn inputs

# The reference's own parts: a learner may do without them, and no check looks.
PRIVATE_PARTS = ("MergeQueue", "IndexedWords", "LinkedWord")


@pytest.fixture(params=assignment_ids())
def assignment(request: pytest.FixtureRequest) -> Assignment:
    return load_assignment(request.param)


def handout(assignment: Assignment) -> str:
    return (PROJECT / "assignments" / assignment.id / "README.md").read_text(encoding="utf-8")


def grades(
    assignment: Assignment, implementation: Path | str, folder: Path, divisor: int = 1
) -> dict[str, dict]:
    """Task id -> its grade, from a graded run in a process of its own.

    Its checks share that process, which takes half the time of a fork for each; all run, also those
    of a task of stubs. The number of drawn inputs is divided by `divisor`.
    """
    grade_file = folder / "grades.json"
    command = ["-c", IN_ONE_PROCESS, str(divisor)]
    command += [f"assignments/{assignment.id}"]
    command += [f"--impl={implementation}", f"--grade-json={grade_file}", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if key != STAND_INS_VARIABLE}
    done = preloaded_python.run(command, PROJECT, environment)
    assert grade_file.exists(), f"the suite did not run\n{done.stdout}{done.stderr}"
    (graded,) = json.loads(grade_file.read_text(encoding="utf-8"))["assignments"]
    return {task["id"]: task for task in graded["tasks"]}


def assert_all_points(assignment: Assignment, graded: dict[str, dict]) -> None:
    problems = [problem for task in graded.values() for problem in task["problems"]]
    assert not problems, json.dumps(problems, indent=1, ensure_ascii=False)
    assert sum(task["points"] for task in graded.values()) == pytest.approx(100)
    assert all(task["checks"] for task in graded.values())


@pytest.mark.parametrize("divisor", [FEWER_DRAWS, pytest.param(1, marks=pytest.mark.slow)])
def test_the_reference_scores_100(assignment, tmp_path, divisor):
    assert_all_points(assignment, grades(assignment, "reference", tmp_path, divisor))


def test_stubs_score_nothing_on_every_task(assignment, tmp_path):
    (tmp_path / assignment.package).mkdir()
    for module, text in cut_stubs(assignment).items():
        (tmp_path / assignment.package / f"{module}.py").write_text(text, encoding="utf-8")
    (tmp_path / assignment.id).mkdir()
    answers = tmp_path / assignment.id / "answers.toml"
    answers.write_text(answers_template(assignment), encoding="utf-8")
    graded = grades(assignment, tmp_path, tmp_path)
    assert {name: task["passed"] for name, task in graded.items() if task["passed"]} == {}
    wrong = {name: task["status"] for name, task in graded.items()}
    assert set(wrong.values()) == {"not written"}, wrong


def test_an_empty_folder_scores_nothing_on_every_task(assignment, tmp_path):
    """The reference never stands in for a file that was not handed in."""
    (tmp_path / assignment.package).mkdir()
    graded = grades(assignment, tmp_path, tmp_path)
    wrong = {name: task["status"] for name, task in graded.items()}
    assert set(wrong.values()) == {"not submitted"}, wrong


@pytest.mark.parametrize(
    ("name", "divisor"),
    [("a6", FEWER_DRAWS)]
    + [pytest.param(name, 1, marks=pytest.mark.slow) for name in assignment_ids()],
)
def test_an_independent_solution_scores_100(tmp_path, name, divisor):
    assignment = load_assignment(name)
    independent = HERE / f"{name}_independent"
    if not independent.is_dir():
        pytest.skip(f"{independent.name}/ is not written yet")
    shutil.copytree(independent / assignment.package, tmp_path / assignment.package)
    for module in assignment.modules:  # of which nobody has written another solution yet
        file = tmp_path / assignment.package / f"{module}.py"
        if not file.exists():
            shutil.copy(PROJECT / assignment.package / file.name, file)
    (tmp_path / assignment.id).mkdir()
    shutil.copy(HERE / f"{assignment.id}_answers.toml", tmp_path / assignment.id / "answers.toml")
    assert_all_points(assignment, grades(assignment, tmp_path, tmp_path, divisor))


def first_of_each_task(mutants: list) -> list[int]:
    """The positions of the mutants of a quick run, which every task has one of."""
    tasks = [mutant.task for mutant in mutants]
    return [number for number, task in enumerate(tasks) if task not in tasks[:number]]


@pytest.mark.parametrize(
    ("name", "quick"),
    [(name, True) for name in assignment_ids()]
    + [pytest.param(name, False, marks=pytest.mark.slow) for name in assignment_ids()],
)
def test_every_mutant_is_caught_by_its_task(name: str, quick: bool) -> None:
    """And every chosen row of mutants.toml is graded: none is passed over or graded twice."""
    assignment = load_assignment(name)
    path = PROJECT / "assignments" / name / "mutants.toml"
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    mutants = load_mutants(assignment)
    chosen = first_of_each_task(mutants) if quick else range(len(rows))
    rows, mutants = [rows[n] for n in chosen], [mutants[n] for n in chosen]
    verdicts = list(run_mutants(assignment, mutants, processes=1))
    assert [verdict.mutant.name for verdict in verdicts] == [row["name"] for row in rows]
    survivors = [
        f"{verdict.mutant.task} lets {verdict.mutant.name} pass {verdict.message}: "
        f"{verdict.mutant.why}"
        for verdict in verdicts
        if not verdict.caught
    ]
    assert survivors == []
    others = [
        f'{verdict.mutant.name}: check = "{verdict.check}"'
        for verdict in verdicts
        if verdict.mutant.check not in ("", verdict.check)
    ]
    assert others == [], "these are caught by another check than mutants.toml says"
    unclear = [
        f"{verdict.mutant.name}: {verdict.message}"
        for verdict in verdicts
        if verdict.message.startswith("the check could not work with")
    ]
    assert unclear == [], "a check failed with an error of its own and did not say what is wrong"


def test_every_task_is_graded_and_has_its_section(assignment):
    assert ungraded(assignment, load_mutants(assignment), PROJECT) == []
    assert len(load_mutants(assignment)) >= FEWEST_MUTANTS


def ungraded(assignment: Assignment, mutants: list[Mutant], root: Path) -> list[str]:
    """One sentence for each task without a planted mistake, a check, or its section."""
    folder = Path("assignments") / assignment.id
    suite = "\n".join(path.read_text("utf-8") for path in (root / folder).glob("test_*.py"))
    checked = set(re.findall(r"mark\.task\(\s*[\"']([\w.]+)[\"']", suite))
    sections = sections_of((root / folder / "README.md").read_text("utf-8"))
    sentences = []
    for task in assignment.tasks:
        if task.functions and task.id not in {mutant.task for mutant in mutants}:
            sentences.append(f"{task.id} has no planted mistake: add one to {folder}/mutants.toml")
        if task.id not in checked:
            mark = f'@pytest.mark.task("{task.id}")'
            sentences.append(f"{task.id} has no check: mark one with {mark} in {folder}/test_*.py")
        if task.section not in sections:
            sentences.append(
                f"{task.id} has no section: no `## ` heading of {folder}/README.md has the anchor "
                f"{task.section}"
            )
    return sentences


def test_what_a_task_lacks_is_named(tmp_path):
    folder = tmp_path / "assignments" / "a9"
    folder.mkdir(parents=True)
    rest = {"points": 50, "minutes": 1, "section": "1-f", "hints": ["a", "b", "c"]}
    graded = {"id": "a9.1", "title": "F", "module": "m", "functions": ["f"], **rest}
    asked = {"id": "a9.2", "title": "Q", "questions": ["q"], **rest, "section": "2-q"}
    bare = {**graded, "id": "a9.3", "functions": ["g"], "section": "3-g"}
    course = Assignment(id="a9", title="", package="p", task=[graded, asked, bare])
    mutant = Mutant(name="m", task="a9.1", module="m", find="x", replace="y", why="")
    (folder / "README.md").write_text("# A9\n\n## 1 F\n\n## 2. Q\n\nAbout 3-g.\n")
    marked = [f'@pytest.mark.task("{name}")\ndef test_it(): pass\n' for name in ("a9.1", "a9.2")]
    (folder / "test_1.py").write_text("".join(marked))
    assert ungraded(course, [mutant], tmp_path) == [
        "a9.3 has no planted mistake: add one to assignments/a9/mutants.toml",
        'a9.3 has no check: mark one with @pytest.mark.task("a9.3") in assignments/a9/test_*.py',
        "a9.3 has no section: no `## ` heading of assignments/a9/README.md has the anchor 3-g",
    ]


def sections_of(handout: str) -> dict[str, str]:
    """Anchor -> the text of the section."""
    sections = re.split(r"^## ", handout, flags=re.MULTILINE)[1:]
    return {anchor(section.partition("\n")[0]): section for section in sections}


def anchor(heading: str) -> str:
    """As GitHub makes it from the text of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_handout_has_a_section_for_every_task(assignment):
    text = handout(assignment)
    text_of = sections_of(text)
    for task in assignment.tasks:
        section = text_of.get(task.section, "")
        assert re.search(rf"^\*\*{re.escape(task.id)}[,:]", section, re.M), f"{task.id}: no section"
        row = (
            rf"^\| \[{re.escape(task.id)}\]\(#{re.escape(task.section)}\) \|.*\| {task.points} \|$"
        )
        assert re.search(row, text, re.M), f"{task.id}: not in the table, or with other points"
        assert all(f"`{key}`" in section for key in task.questions), (
            f"{task.id}: a question is missing"
        )
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert set(links) <= set(text_of)
    assert assignment.points == 100, "the points of an assignment add up to 100: take from others"


def test_the_handout_names_every_function_that_is_checked(assignment):
    """A method is named itself, or by its class: `Linear(d_in, d_out)` means its `__init__`."""
    text = handout(assignment)
    for task in assignment.tasks:
        for name in task.functions:
            owner, _, short = name.rpartition(".")
            if owner not in PRIVATE_PARTS:
                named = (
                    f"{short}(" in text or f"`{name}`" in text or (owner and f"{owner}(" in text)
                )
                assert named, f"{task.id}: {name} is not in the handout"
