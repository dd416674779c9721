"""Generated mistakes of every assignment: each task has some, and they are caught by their tasks
unless survivors.toml says why no check can catch them.
"""

import pytest

from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.mutation_testing.generated_mutants import GeneratedMutant, generate_mutants, sample
from lm_course.mutation_testing.mutant_runs import run_mutants
from lm_course.mutation_testing.survivors import load_survivors

FEWEST = 6  # for a task with functions, on average
MOST_LISTED = 0.1  # of all; what is not listed must be caught


@pytest.fixture(scope="module", params=assignment_ids())
def generated(request: pytest.FixtureRequest) -> tuple[Assignment, list[GeneratedMutant]]:
    assignment = load_assignment(request.param)
    return assignment, sample(generate_mutants(assignment))


def test_every_task_has_generated_mistakes(generated) -> None:
    assignment, mutants = generated
    with_functions = {task.id for task in assignment.tasks if task.functions}
    assert {mutant.tasks[0] for mutant in mutants} == with_functions
    assert len(mutants) >= FEWEST * len(with_functions)
    assert len({mutant.name for mutant in mutants}) == len(mutants)


def test_every_listed_survivor_is_generated_and_has_a_reason(generated) -> None:
    assignment, mutants = generated
    listed = load_survivors(assignment, mutants)
    assert len(listed) <= MOST_LISTED * len(mutants)


@pytest.mark.slow
def test_the_others_are_caught(generated) -> None:
    assignment, mutants = generated
    listed = load_survivors(assignment, mutants)
    verdicts = list(run_mutants(assignment, mutants))
    survivors = {verdict.mutant.key for verdict in verdicts if not verdict.caught}
    names = {mutant.key: mutant.name for mutant in mutants}
    assert sorted(names[key] for key in survivors - listed.keys()) == []
    assert sorted(names[key] for key in listed.keys() - survivors) == [], "remove these rows"
