"""`lm drill`: the question, right and wrong answers, and what is remembered."""

import re

import pytest
import typer
from typer.testing import CliRunner

from lm_course.drills import drill_command

FIRST = "workspace/drills/t1/the-first-wins/toy_stage/counting.py"


@pytest.fixture
def lm(course, monkeypatch: pytest.MonkeyPatch):
    """Run a command line on the small course; return (exit status, output)."""
    monkeypatch.setattr(drill_command, "PROJECT", course.root)
    monkeypatch.chdir(course.root)
    monkeypatch.setenv("COLUMNS", "80")
    app = typer.Typer()
    app.callback()(lambda: None)  # so that `drill` remains a word of the command line
    drill_command.register(app)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["drill", *arguments], catch_exceptions=False)
        return result.exit_code, result.output

    return run


def wrong_line(course) -> int:
    lines = (course.root / FIRST).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if "counts[letter])" in line)


def test_the_question_shows_the_symptom_and_not_the_answer(course, lm) -> None:
    status, printed = lm("t1")
    assert status == 0
    assert printed.splitlines() == [
        "the-first-wins, a drill of t1",
        "",
        "  Which letter is the largest depends on the order.",
        "",
        f"  read    {FIRST}",
        "  answer  lm drill t1 the-first-wins --line counting.py:NUMBER",
        "  or fix  lm drill t1 the-first-wins --check",
    ]
    assert (course.root / FIRST).is_file()
    assert not (course.root / "workspace/progress.toml").exists()
    assert "(kept as it was; delete the folder for a fresh copy)" in lm("t1")[1]


def test_the_right_line(course, lm) -> None:
    lm("t1")
    number = wrong_line(course)
    status, printed = lm("t1", "the-first-wins", "--line", f"{FIRST}:{number}")
    assert status == 0
    assert f"Right: the mistake is at toy_stage/counting.py:{number}, in largest." in printed
    assert "-    return max(counts, key=lambda letter: counts[letter])\n" in printed
    assert "+    return max(counts, key=lambda letter: (counts[letter], letter))\n" in printed
    assert "Ties go to the letter that comes first." in printed
    assert "It happened in somebody/something#12:" in printed
    assert "Results changed with the order of a file." in printed
    assert "https://github.com/somebody/something/issues/12" in printed
    assert "1 of 2 drills of t1 solved; the next: lm drill t1" in printed
    record = (course.root / "workspace/progress.toml").read_text()
    assert re.search(
        r'^"t1/the-first-wins" = { wrong = 0, solved = \d{4}-\d\d-\d\d }$', record, re.M
    )
    assert "no-words, a drill of t1" in lm("t1")[1], "without a name: the first unsolved one"


def test_three_wrong_lines(course, lm) -> None:
    for tries in (1, 2, 3):
        status, printed = lm("t1", "the-first-wins", "--line", "counting.py:6")
        assert status == 1
        assert "No mistake in line 6 of toy_stage/counting.py:\n  " + 'LETTERS = "abc"' in printed
        assert f"{tries} wrong answer{'s' if tries > 1 else ''} so far." in printed
        assert ("Hint: the mistake is in largest." in printed) == (tries == 3)
        assert "Ties go" not in printed and "something#12" not in printed
    record = (course.root / "workspace/progress.toml").read_text()
    assert '"t1/the-first-wins" = { wrong = 3 }' in record


def test_after_the_right_answer_nothing_is_counted(course, lm) -> None:
    lm("t1")
    right = str(wrong_line(course))
    lm("t1", "--line", "1")
    lm("t1", "--line", right)
    before = (course.root / "workspace/progress.toml").read_text()
    status, printed = lm("t1", "the-first-wins", "--line", "1")
    assert (status, "so far" in printed) == (1, False)
    assert lm("t1", "the-first-wins", "--line", right)[0] == 0
    assert (course.root / "workspace/progress.toml").read_text() == before


def test_the_list(course, lm) -> None:
    lm("t1", "no-words", "--line", "1")
    lm("t1", "the-first-wins", "--line", "1")
    lm("t1", "the-first-wins", "--line", str(wrong_line(course)))
    status, printed = lm("t1", "--list")
    first, second, *rest = printed.splitlines()
    assert status == 0
    assert re.fullmatch(r"the-first-wins  solved \d{4}-\d\d-\d\d, 1 wrong answer", first)
    assert second == "no-words        1 wrong answer"
    assert rest == ["", "1 of 2 drills of t1 solved"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "lm drill needs an assignment: lm drill t1"),
        (["t9"], "t9: no such assignment; available: t1"),
        (["t1", "none"], "none: no such drill; t1 has the-first-wins, no-words"),
        (["t1", "--line", "words.py:3"], "--line words.py:3: expected a line of toy_stage/count"),
        (["t1", "--line", "99"], "--line 99: expected a line of toy_stage/counting.py, such as"),
        (["t1", "--line", "3", "--check"], "expected one of --list, --line and --check"),
    ],
)
def test_bad_input_is_one_line(course, lm, arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        lm(*arguments)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)
    assert not (course.root / "workspace/progress.toml").exists()


def test_when_all_are_solved(course, lm) -> None:
    lm("t1")
    lm("t1", "--line", str(wrong_line(course)))
    lines = course.OTHER.splitlines()
    number = 2 + next(number for number, line in enumerate(lines) if "if count_letters" in line)
    assert "2 of 2 drills of t1 solved\n" in lm("t1", "--line", str(number))[1]
    with pytest.raises(ValueError, match=r"^all 2 drills of t1 are solved; to repeat one, name it"):
        lm("t1")
    assert lm("t1", "no-words")[0] == 0


PROGRAM = (
    "import sys; from pathlib import Path; "
    "from lm_course import cli; from lm_course.commands import learner_commands; "
    "from lm_course.drills import drill_command; "
    "learner_commands.PROJECT = drill_command.PROJECT = Path.cwd(); "
    "cli.main(['drill', *sys.argv[1:]])"
)


def test_the_checks_of_its_task_decide_about_a_fix(course) -> None:
    unfixed = course.run("-c", PROGRAM, "t1", "--check")
    assert unfixed.returncode == 1
    assert "Not fixed yet: t1.3 does not pass.\n1 wrong answer so far." in unfixed.stdout
    path = course.root / FIRST
    path.write_text(path.read_text().replace("counts[letter])", "(counts[letter], letter))"))
    fixed = course.run("-c", PROGRAM, "t1", "--check")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert "t1.2" not in fixed.stdout, "only the checks of its task"
    assert "Right: the mistake is at toy_stage/counting.py" in fixed.stdout
    record = (course.root / "workspace/progress.toml").read_text()
    assert '"t1.3"' not in record, "the task itself is not done by it"
    assert re.search(r'"t1/the-first-wins" = { wrong = 1, solved = ', record)


def test_a_check_that_was_no_answer_is_not_counted(course) -> None:
    course.write("assignments/t1/test_counting.py", "import nowhere\n")
    stopped = course.run("-c", PROGRAM, "t1", "--check")
    assert stopped.returncode not in (0, 1), stopped.stdout
    assert not (course.root / "workspace/progress.toml").exists()


def test_bad_input_exits_with_2(course) -> None:
    done = course.run("-c", PROGRAM, "t1", "none")
    assert done.returncode == 2
    assert done.stderr == "lm: none: no such drill; t1 has the-first-wins, no-words\n"
