"""A check catches a mistake only if it passes on correct code, and a run that does not end is said
to have no verdict.
"""

import os

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_course.grading.code_under_test import Implementation
from lm_course.grading.graded_session import GradedRun
from lm_course.learning.assignment_file import load_assignment
from lm_course.mutation_testing.generated_mutants import GeneratedMutant
from lm_course.mutation_testing.mutant_runs import run_mutants, verdict_line
from lm_course.mutation_testing.mutants import load_mutants
from lm_course.mutation_testing.source_text import Edit

FAILS_ALWAYS = """

@pytest.mark.task("t1.3")
def test_a_machine_that_is_broken(implementation):
    implementation(COUNTING)
    check_equal(1, 2, "the machine")
"""
NEVER_ENDS = """
[[mutant]]
name = "endless"
module = "counting"
find = "    return max("
replace = "    while True: pass\\n    return max("
why = "it never returns"
task = "t1.3"
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


def verdicts_of(course, **limits: int):
    assignment = load_assignment("t1", course.root)
    mutants = load_mutants(assignment, course.root)
    return list(run_mutants(assignment, mutants, course.root, **limits))


def test_a_check_that_fails_on_correct_code_catches_nothing(course) -> None:
    suite = next(course.root.glob("assignments/t1/test_*.py"))
    head, imports, rest = suite.read_text().partition('COUNTING = "toy_stage.counting"\n')
    suite.write_text(head + imports + FAILS_ALWAYS + rest)
    with pytest.raises(AssertionError, match="test_a_machine_that_is_broken fails on correct code"):
        verdicts_of(course)


def test_a_run_without_an_end_has_no_verdict(course) -> None:
    """And the mutants after it are graded all the same."""
    course.write("assignments/t1/mutants.toml", NEVER_ENDS + course.MUTANTS)
    endless, other = verdicts_of(course, processes=1, seconds=1)  # the check's own limit is ten
    assert (endless.caught, endless.message) == (False, "no verdict within 1 s")
    assert verdict_line(endless, 7) == "t1.3   endless  SURVIVED (no verdict within 1 s)"
    assert other.caught


NO_LETTERS = """
[[mutant]]
name = "no-letters"
module = "counting"
find = "dict(_counter(text))"
replace = "{}"
why = "nothing is counted"
task = "t1.2"
"""


@pytest.mark.parametrize(
    ("line", "caught_by"),
    [
        ("", "test_letters[abca]"),
        ('check = "test_letters[zz]"', "test_letters[zz]"),
    ],
)
def test_the_named_check_is_run_first(course, line: str, caught_by: str) -> None:
    course.write("assignments/t1/mutants.toml", NO_LETTERS + line)
    assert [verdict.check for verdict in verdicts_of(course)] == [caught_by]


def test_if_the_named_check_passes_the_others_are_run(course) -> None:
    suite = next(course.root.glob("assignments/t1/test_*.py"))
    suite.write_text(suite.read_text().replace('["abca", "zz"]', '["abca", "zz", ""]'))
    course.write("assignments/t1/mutants.toml", NO_LETTERS + 'check = "test_letters[]"')
    assert [verdict.check for verdict in verdicts_of(course)] == ["test_letters[abca]"]


def test_a_check_that_the_task_does_not_have(course) -> None:
    rows = course.MUTANTS + NO_LETTERS + 'check = "test_largest"'
    folder = course.write("assignments/t1/mutants.toml", rows).parent
    with pytest.raises(UserError) as caught:
        verdicts_of(course)
    assert str(caught.value) == (
        f"{folder}: no-letters: t1.2 has no check test_largest; "
        "it has test_letters[abca], test_letters[zz]"
    )


def test_a_task_without_checks(course) -> None:
    suite = next(course.root.glob("assignments/t1/test_*.py"))
    suite.write_text(suite.read_text().replace('"t1.2"', '"t1.3"'))
    course.write("assignments/t1/mutants.toml", NO_LETTERS)
    told = r't1\.2 has no checks; mark one with @pytest\.mark\.task\("t1\.2"\)$'
    with pytest.raises(UserError, match=told):
        verdicts_of(course)


@pytest.mark.parametrize(
    ("tasks", "caught_by"), [(("t1.2",), ""), (("t1.2", "t1.3"), "test_largest")]
)
def test_all_tasks_of_a_mistake_are_graded(course, tasks: tuple[str, ...], caught_by: str) -> None:
    place = course.REFERENCE.index("(counts[letter], letter)")
    edit = Edit("", place, place + len("(counts[letter], letter)"), "counts[letter]")
    mutant = GeneratedMutant(tasks, "counting", "largest", edit, "", "")
    (verdict,) = run_mutants(load_assignment("t1", course.root), [mutant], course.root)
    assert verdict.check == caught_by


def test_the_next_folder_has_its_whole_time(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that never ends shortens the limits of its own later checks alone."""
    run = object.__new__(GradedRun)
    monkeypatch.setenv(STAND_INS_VARIABLE, "")
    run.assignments, run.endless_tasks, run.results = {}, {"t1.3"}, {}
    run.implementation = Implementation("a", tmp_path, tmp_path, tmp_path)
    run.switch_to(tmp_path / "b")
    assert run.endless_tasks == set()


def planted(name: str, statement: str, task: str, check: str) -> str:
    """A row that puts a statement at the beginning of both functions."""
    first = {"t1.2": "return dict(", "t1.3": "return max("}[task]
    return (
        f'[[mutant]]\nname = "{name}"\nmodule = "counting"\nfind = "    {first}"\n'
        f"replace = '    import os, time; {statement}; {first}'\n"
        f'why = "-"\ntask = "{task}"\ncheck = "{check}"\n'
    )


def test_each_mistake_s_check_is_the_only_fork_for_it(course) -> None:
    told = 'raise ValueError(f"{os.getpid()} {os.getppid()}")'
    rows = [planted(f"m{number}", told, "t1.3", "test_largest") for number in range(3)]
    course.write("assignments/t1/mutants.toml", "\n".join(rows))
    verdicts = verdicts_of(course, processes=1)
    ids = [verdict.message.rpartition(": ")[2].split() for verdict in verdicts]
    assert len({own for own, _ in ids}) == 3, "each in a process of its own"
    assert len({parent for _, parent in ids}) == 1, "which the process of the session has forked"


def test_a_mistake_that_ends_its_process_or_hangs_is_caught(course) -> None:
    """And the next mistakes are graded."""
    rows = {
        "exit": planted("exit", "os._exit(3)", "t1.3", "test_largest"),
        "crash": planted("crash", "os.abort()", "t1.3", "test_largest"),
        "hang": planted("hang", "time.sleep(99)", "t1.2", "test_letters[zz]"),
    }
    course.write("assignments/t1/mutants.toml", "\n".join([*rows.values(), course.MUTANTS]))
    verdicts = verdicts_of(course, processes=1)
    messages = [verdict.message for verdict in verdicts]
    assert messages[0].startswith("your code ended the whole process with os._exit(3)")
    assert messages[1].startswith("the process crashed (SIGABRT)")
    assert messages[2].startswith("stopped after 2 seconds")
    assert [verdict.check for verdict in verdicts] == [
        *("test_largest", "test_largest", "test_letters[zz]", "test_largest"),
    ]


def test_a_run_past_its_limit_is_stopped_before_the_limit_of_its_check(course) -> None:
    late = course.root / "late"
    row = planted("slow", f'time.sleep(4); open("{late}", "w")', "t1.3", "test_largest")
    course.write("assignments/t1/mutants.toml", row)
    (verdict,) = verdicts_of(course, seconds=1)  # the check's own limit is ten
    assert (verdict.check, verdict.message) == ("", "no verdict within 1 s")
    assert not late.exists()
