"""The drills of the assignments: each is a mistake that the checks of its task catch."""

import re
from pathlib import Path

import pytest

from lm_course.drills.drill_file import load_drills
from lm_course.drills.hidden_mistake import hidden_mistake
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.mutation_testing.mutant_runs import run_mutants

PROJECT = Path(__file__).parents[2]
FEWEST = {"a1": 6, "a2": 8, "a3": 8, "a3_data": 8, "a6": 8}


@pytest.fixture(params=assignment_ids())
def assignment(request: pytest.FixtureRequest) -> Assignment:
    return load_assignment(request.param)


def test_every_drill_is_caught_by_its_task(assignment: Assignment) -> None:
    verdicts = list(run_mutants(assignment, load_drills(assignment), processes=1))
    missed = [verdict.mutant.name for verdict in verdicts if not verdict.caught]
    assert missed == [], "the checks of the task pass with this mistake"
    others = [
        f'{verdict.mutant.name}: check = "{verdict.check}"'
        for verdict in verdicts
        if verdict.mutant.check != verdict.check
    ]
    assert others == [], "these are caught by another check than drills.toml says"


def test_there_are_some(assignment: Assignment) -> None:
    drills = load_drills(assignment)
    assert len(drills) >= FEWEST.get(assignment.id, 1)
    sources = [drill.happened_in for drill in drills]
    assert len(set(sources)) == len(sources), "one report, one drill"


def test_the_answer_is_a_small_place_in_a_function_or_a_constant(assignment: Assignment) -> None:
    for drill in load_drills(assignment):
        mistake = hidden_mistake(drill, assignment)
        assert 1 <= len(mistake.answers) <= 4, drill.name
        assert mistake.place != "the top of the file", drill.name


def test_the_question_does_not_name_the_place(assignment: Assignment) -> None:
    for drill in load_drills(assignment):
        place = hidden_mistake(drill, assignment).place.split(".")[-1]
        asked = re.findall(r"\w+", f"{drill.name} {drill.symptom}")
        assert place not in asked, f"{drill.name} gives {place} away"


def test_the_handout_tells_of_the_drills(assignment: Assignment) -> None:
    text = (PROJECT / "assignments" / assignment.id / "README.md").read_text(encoding="utf-8")
    assert f"lm drill {assignment.id}" in text
