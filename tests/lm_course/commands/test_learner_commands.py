"""`lm start`, `lm check`, `lm hint`, `lm progress`: their output, and the files that they keep."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from lm_course.commands import learner_commands

SOLUTION = "    return dict(_counter(text))\n"


@pytest.fixture
def lm(toy_course, monkeypatch: pytest.MonkeyPatch):
    """Run a command line on the small course; errors are raised as exceptions."""
    monkeypatch.setattr(learner_commands, "PROJECT", toy_course.root)
    monkeypatch.chdir(toy_course.root)
    monkeypatch.setenv("COLUMNS", "80")
    app = typer.Typer()
    learner_commands.register(app)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def files(toy_course) -> dict[str, str]:
    workspace = toy_course.root / "workspace"
    return {
        path.relative_to(workspace).as_posix(): path.read_text()
        for path in sorted(workspace.rglob("*"))
        if path.is_file()
    }


def test_start_writes_stubs_and_says_what_to_do(toy_course, lm) -> None:
    assert lm("start", "t1").splitlines() == [
        "t1: Counting",
        "4 tasks, 10 points, about 35 minutes",
        "",
        "  wrote       workspace/toy_stage/counting.py   2 functions",
        "  wrote       workspace/toy_stage/words.py      1 function",
        "  wrote       workspace/t1/answers.toml         1 answer",
        "",
        "Next: t1.1 An answer (written), about 5 minutes",
        "  read    assignments/t1/README.md#1-how-many",
        "  write   your answers in workspace/t1/answers.toml",
        "  check   lm check t1.1",
        "  stuck?  lm hint t1.1",
    ]
    assert sorted(files(toy_course)) == [
        *("t1/answers.toml", "toy_stage/counting.py", "toy_stage/words.py"),
    ]
    _, tasks, _ = toy_course.check()
    assert [task["points"] for task in tasks.values()] == [0, 0, 0, 0]
    assert {task["status"] for task in tasks.values()} == {"not written"}


def test_start_keeps_what_was_written(toy_course, lm) -> None:
    lm("start", "t1")
    toy_course.write("workspace/toy_stage/counting.py", "mine = 1\n")
    toy_course.write("workspace/t1/answers.toml", "how_many = 3\n")
    before = files(toy_course)
    printed = lm("start", "t1")
    assert files(toy_course) == before
    assert "  kept        workspace/toy_stage/counting.py" in printed
    assert "  as shipped  workspace/toy_stage/words.py" in printed
    assert "--force replaces them with stubs, after a backup" in printed


def test_force_makes_backups_and_overwrites_none(toy_course, lm) -> None:
    lm("start", "t1")
    stub = files(toy_course)["toy_stage/counting.py"]
    for text in ("first = 1\n", "second = 2\n"):
        toy_course.write("workspace/toy_stage/counting.py", text)
        printed = lm("start", "t1", "--force")
    assert "  replaced    workspace/toy_stage/counting.py  (yours: counting.py.bak-2)" in printed
    after = files(toy_course)
    assert after["toy_stage/counting.py"] == stub
    assert after["toy_stage/counting.py.bak-1"] == "first = 1\n"
    assert after["toy_stage/counting.py.bak-2"] == "second = 2\n"
    assert "toy_stage/words.py.bak-1" not in after, "as shipped: nothing to keep"


def test_hints_come_one_after_the_other_and_are_remembered(toy_course, lm) -> None:
    assert "No hint read yet: lm hint t1.2" in lm("hint", "t1.2", "--again")
    first = lm("hint", "t1.2")
    assert "hint 1 of 3\n  first nudge\n" in first
    assert "second" not in first
    assert "Next hint: lm hint t1.2" in first
    assert "hint 2 of 3\n  second idea\n" in lm("hint", "t1", "2")
    last = lm("hint", "t1.2")
    assert "hint 3 of 3\n  third, the code\n" in last
    assert "That was the last hint" in last
    assert "hint 3 of 3" in lm("hint", "t1.2")
    again = lm("hint", "t1.2", "--again")
    assert re.findall(r"hint \d", again) == ["hint 1", "hint 2", "hint 3"]
    assert '"t1.2" = { passed = 0, checks = 0, hints = 3 }' in files(toy_course)["progress.toml"]


def test_a_hint_is_printed_as_it_is_written(toy_course, lm) -> None:
    """Nothing in it is markup or an emoji's name: Python code looks like both."""
    text = toy_course.ASSIGNMENT.replace("first nudge", "pairs[bold] of d[:key:] is [/bold] 12")
    toy_course.write("assignments/t1/assignment.toml", text)
    assert "hint 1 of 3\n  pairs[bold] of d[:key:] is [/bold] 12\n" in lm("hint", "t1.2")


def test_progress_over_all_assignments(toy_course, lm) -> None:
    text = toy_course.ASSIGNMENT.replace("t1", "t2").replace("Counting", "Later")
    toy_course.write("assignments/t2/assignment.toml", text)
    lm("hint", "t1.3")
    toy_course.hand_in(toy_course.REFERENCE)
    toy_course.check("--task=t1.1", "--task=t1.2")
    printed = lm("progress")
    assert "\n\nt2: " in printed, "a blank line between assignments"
    assert "t1: Counting\n2 of 4 tasks, 6 of 10 points\n" in printed
    assert "t2: Later\n0 of 4 tasks, 0 of 10 points\n" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("t1.2")]
    assert re.search(r"… +4/4 +\d{4}-\d\d-\d\d$", row.rstrip())
    (row,) = [line for line in printed.splitlines() if line.startswith("t1.3")]
    assert row.split()[-2:] == ["0/3", "1"]
    assert "Next: t1.3 The largest" in printed
    assert "  write   largest in workspace/toy_stage/counting.py" in printed
    assert max(map(len, printed.splitlines())) <= 80
    only = lm("progress", "t2")
    assert "t2: Later" in only and "t1: Counting" not in only
    assert "Next: t2.1" in only


@pytest.mark.parametrize("columns", [50, 60])
def test_in_a_narrow_terminal_titles_give_way(toy_course, lm, monkeypatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    toy_course.hand_in(toy_course.REFERENCE)
    toy_course.check("--task=t1.1", "--task=t1.2")
    lines = lm("progress").splitlines()
    assert lines[3].split() == ["task", "title", "best", "reached", "hints"]
    assert all(re.search(r"\d/\d +\d{4}-\d\d-\d\d$", line.rstrip()) for line in lines[4:6])
    assert "…" in lines[5]
    assert max(map(len, lines[:8])) <= columns


@pytest.mark.parametrize(
    ("arguments", "tasks"),
    [
        (["t1"], []),
        (["t1", "t1.3"], ["--task=t1.3"]),
        (["t1.3", "t1.2"], ["--task=t1.3", "--task=t1.2"]),
        (["t1", "2", "t1.3"], ["--task=t1.2", "--task=t1.3"]),
        (["t1", "2", "3", "2"], ["--task=t1.2", "--task=t1.3"]),
        (["t1.2", "3"], ["--task=t1.2", "--task=t1.3"]),
    ],
)
def test_check_runs_pytest_and_ends_as_it_ends(
    toy_course, lm, monkeypatch: pytest.MonkeyPatch, arguments: list[str], tasks: list[str]
) -> None:
    (toy_course.root / "workspace" / "t1").mkdir(parents=True)
    calls = []
    monkeypatch.setattr(pytest, "main", lambda given: calls.append(given) or 1)
    for name in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "HYPOTHESIS_STORAGE_DIRECTORY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(SystemExit) as ended:
        learner_commands.check(arguments, None)
    assert ended.value.code == 1
    (command,) = calls
    root = toy_course.root
    assert f"--rootdir={root}" in command
    assert command[command.index(str(root / "assignments" / "t1")) + 1 :] == tasks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="isolation needs os.fork")
def test_ctrl_c_leaves_time_for_the_table(toy_course) -> None:
    begun = toy_course.root.with_suffix(".begun")  # a learner's code may not write beside itself
    toy_course.hand_in(
        f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)\n"
        "count_letters = largest = None\n"
    )
    suite = toy_course.SUITE.replace("seconds=2", "seconds=50")
    toy_course.write("assignments/t1/test_counting.py", suite)
    code = (
        "from pathlib import Path\n"
        "from lm_course.commands import learner_commands\n"
        "learner_commands.PROJECT = Path.cwd()\n"
        "learner_commands.check(['t1.2'], None)\n"
    )
    path = os.pathsep.join([str(toy_course.root), str(toy_course.PROJECT)])
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=toy_course.root,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for _ in range(3000):
        if begun.exists():
            break
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    screen, _ = run.communicate(timeout=30)
    assert "stopped early" in screen
    assert run.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["start", "t9"], "t9: no such assignment; available: t1"),
        (
            ["check", "t1", "2"],
            "workspace: it has no files for t1 yet; `lm start t1` writes the stubs",
        ),
        (["check", "t9"], "t9: no such assignment"),
        (["check", "t1", "t1.9"], "t1.9: no such task; t1 has t1.1"),
        (["check", "t1", "9"], "t1.9: no such task; t1 has t1.1"),
        (["check", "t1.2", "9"], "t1.9: no such task; t1 has t1.1"),
        (["check", "2"], "2: no such assignment; available: t1"),
        (["check", "t1", "t2.1"], "t2.1: no such task; t1 has t1.1, t1.2"),
        (["check", "t1", "two"], "two: no such task; t1 has t1.1, t1.2"),
        (["check", "t1", "2.5"], "2.5: no such task; t1 has t1.1, t1.2"),
        (["hint", "t1"], "t1: expected one task, for example t1.1"),
        (["hint", "t1", "2", "3"], "t1 2 3: expected one task, for example t1.1"),
        (["hint", "t1", "9"], "t1.9: no such task"),
        (["hint", "t1.9"], "t1.9: no such task"),
        (["check", "1.2"], "1.2: did you mean t1.2?"),
        (["check", "T1.2"], "T1.2: did you mean t1.2?"),
        (["check", "1", "2"], "1: did you mean t1? (name the assignment before the task: t1 1)"),
        (["hint", "1.2"], "1.2: did you mean t1.2?"),
        (["progress", "T1"], "T1: did you mean t1?"),
        (["progress", "t9"], "t9: no such assignment"),
        (["start", "1"], "1: did you mean t1?"),
        (["start"], "lm start needs an assignment: lm start t1"),
        (
            ["check"],
            "lm check needs an assignment or a task: lm check t1 for all of it, or lm check t1.2",
        ),
        (["hint"], "lm hint needs a task: lm hint t1.2 (lm progress shows which task is next)"),
    ],
)
def test_unknown_ids_are_one_line(lm, arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        lm(*arguments)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_the_commands_load_without_pytest() -> None:
    """Somebody who only runs recipes may not have installed it."""
    code = "import sys, lm_course.commands.learner_commands; sys.exit('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0


def test_a_learner_s_way_to_the_first_passed_task(toy_course, lm) -> None:
    lm("start", "t1")
    path = toy_course.root / "workspace/toy_stage/counting.py"
    stub = path.read_text()
    assert SOLUTION not in stub
    assert "_counter" not in stub, "the helper would give the solution away"
    assert "how" not in stub.split("count_letters")[1].split('"""')[2].split("raise")[0]
    body = stub[stub.index("    # 4 points") : stub.index('letters")') + len('letters")\n')]
    path.write_text(stub.replace(body, "    return dict(Counter(text))\n"))
    screen, tasks, _ = toy_course.check("--task=t1.2")
    assert tasks["t1.2"]["status"] == "passed"
    assert (
        "t1.2 passes. For the next task: lm progress t1. For the whole assignment: lm check t1"
        in screen
    )
    assert "1 of 4 tasks, 4 of 10 points" in lm("progress")


@pytest.mark.parametrize("group", [[], ["tokenizer"]])
def test_a_bare_lm_shows_its_help_and_no_empty_error(group: list[str]) -> None:
    command = [sys.executable, "-m", "lm_course", *group]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Commands" in done.stdout
    assert done.stderr == ""


HEAVY = ("triton", "torch._dynamo", "torch._inductor", "sympy", "numba", "scipy")
HEAVY += ("matplotlib", "transformers", "pyarrow", "anyio")


def test_a_task_without_triton_loads_no_more_than_it_needs(toy_course) -> None:
    """`lm check` spends nearly all its time on imports; those in a forked check also count."""
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(toy_course.PROJECT)!r})\n"
        "from lm_course import cli\n"
        "from lm_course.grading import forked_check\n"
        f"loaded = lambda: sorted(set({HEAVY}) & set(sys.modules))\n"
        "run, screen = forked_check.run_check, os.dup(1)\n"  # pytest keeps what a check prints
        "def run_and_tell(check, *rest):\n"
        "    def told():\n"
        "        check()\n"
        "        os.write(screen, f'in a check: {loaded()}\\n'.encode())\n"
        "    return run(told, *rest)\n"
        "forked_check.run_check = run_and_tell\n"
        "try:\n"
        "    cli.main(['check', 'a2', '1', '4', '--impl', 'reference'])\n"
        "finally:\n"
        "    print('in the end:', loaded(), 'torch' in sys.modules)\n"
    )
    done = toy_course.run("-c", code)
    assert "a2.1, a2.4 pass." in done.stdout, done.stdout + done.stderr
    assert "in the end: [] True" in done.stdout
    in_checks = re.findall(r"in a check: (\[.*?\])", done.stdout)
    assert len(in_checks) > 20
    assert set(in_checks) == {"[]"}
