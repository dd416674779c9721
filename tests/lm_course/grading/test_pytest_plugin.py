"""The graded run as a learner sees it: a small course in a folder, graded by a real pytest."""

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="isolation needs os.fork")

RIGHT_LINE = "return dict(_counter(text))"


def test_the_reference_passes_and_is_said_to_be_checked(toy_course) -> None:
    screen, tasks, done = toy_course.check()
    assert done.returncode == 0, screen + done.stderr
    assert screen.splitlines()[0] == (
        "t1: you have no workspace yet; checking the reference instead"
    )
    assert {task["status"] for task in tasks.values()} == {"passed"}
    assert [line.split()[0] for line in screen.splitlines() if line.startswith("t1.")] == [
        *("t1.1", "t1.2", "t1.3", "t1.4"),
    ]
    assert "total" in screen
    assert screen.splitlines()[-2:] == [
        "You have no workspace yet: this was the reference.",
        "Begin with `lm start t1`.",
    ]
    assert "For the next task" not in toy_course.check("--task=t1.2")[0]
    assert "All of t1 passes." in toy_course.check("--impl=reference")[0]
    assert not (toy_course.root / "workspace").exists()


STUB = 'raise NotImplementedError("t1.2: write count_letters")'


def test_of_a_task_of_stubs_only_the_first_check_runs(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, STUB))
    screen, tasks, _ = toy_course.check()
    assert tasks["t1.2"]["status"] == "not written"
    assert [problem["message"] for problem in tasks["t1.2"]["problems"]] == [
        "count_letters is not written yet",
        "not run: no function of t1.2 is written yet",
    ]
    assert tasks["t1.3"]["status"] == "passed"
    assert "  count_letters is not written yet" in screen.splitlines()
    assert "not run" in toy_course.check("-v")[0]


@pytest.mark.parametrize(
    ("body", "passed"),
    [
        (f"# {STUB}\n    {RIGHT_LINE}", 2),
        (f"{RIGHT_LINE}\n    {STUB}", 2),
        (f'if text == "abca":\n        {STUB}\n    {RIGHT_LINE}', 1),
        (f'if text == "zz":\n        {STUB}\n    {RIGHT_LINE}', 1),
    ],
)
def test_a_stub_that_is_left_somewhere_costs_no_other_check(toy_course, body, passed) -> None:
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, body))
    _, tasks, _ = toy_course.check()
    assert tasks["t1.2"]["passed"] == passed
    assert all("not run" not in problem["message"] for problem in tasks["t1.2"]["problems"])


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_screen_of_a_mistake(toy_course, columns: int) -> None:
    broken = toy_course.REFERENCE.replace("(counts[letter], letter)", "counts[letter]")
    toy_course.hand_in(broken.replace("return max", 'print("looking")\n    return max'))
    screen, tasks, done = toy_course.check(columns=columns)
    assert done.returncode == 1
    assert max(map(len, screen.splitlines())) <= columns
    assert screen.splitlines()[0] == "t1: checking your files in workspace/"
    assert tasks["t1.3"]["status"] == "failing"
    assert "Fix first: t1.3 The largest" in screen
    for line in (
        "  largest of equals: wrong from index 0 on",
        "    expected  'b'",
        "    got       'a'",
        "    likely    the first was taken",
        "  Your code printed:",
        "  | looking",
        "  read  assignments/t1/README.md#3-largest",
        "  hint  lm hint t1.3",
    ):
        assert line in screen.splitlines()
    for noise in ("Traceback", "test session starts", "slowest", "FAILED", "short test summary"):
        assert noise not in screen


def test_a_forgotten_return_is_told_by_the_name_of_the_function(toy_course) -> None:
    """Wherever None causes an error: in the check, or in the learner's next function."""
    toy_course.hand_in(
        toy_course.REFERENCE.replace(RIGHT_LINE, 'print("here")\n    _counter(text)')
    )
    suite = toy_course.SUITE.replace("implementation(COUNTING).count_letters(text)", "dict(GOT)")
    suite = suite.replace("GOT", "implementation(COUNTING).count_letters(text)")
    toy_course.write("assignments/t1/test_counting.py", suite)
    words = toy_course.OTHER.replace("if count_letters(word)", "if len(count_letters(word))")
    toy_course.write("workspace/toy_stage/words.py", words)
    screen, tasks, _ = toy_course.check()
    sentence = "count_letters returned None; is `return` missing?"
    for task_id in ("t1.2", "t1.4"):
        messages = [problem["message"] for problem in tasks[task_id]["problems"]]
        assert {message.partition("\n")[0] for message in messages} == {sentence}
    assert screen.count("| here") == 1, "the second run of the check is silent"


def test_not_submitted_is_neither_failing_nor_the_reference(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    (toy_course.root / "workspace/toy_stage/words.py").unlink()
    (toy_course.root / "workspace/t1/answers.toml").unlink()
    screen, tasks, _ = toy_course.check()
    statuses = [task["status"] for task in tasks.values()]
    assert statuses == ["not submitted", "passed", "passed", "not submitted"]
    assert tasks["t1.4"]["points"] == 0
    message = "workspace/toy_stage/words.py is missing; `lm start t1` writes its stub"
    assert tasks["t1.4"]["problems"][0]["message"] == message
    assert "Next: t1.1" in screen


def test_a_suite_that_imports_by_itself_does_not_reach_the_reference(toy_course) -> None:
    line = 'got = implementation("toy_stage.words").count_words("a b a")'
    own = "from toy_stage.words import count_words\n    got = count_words('a b a')"
    assert line in toy_course.SUITE
    toy_course.write("assignments/t1/test_counting.py", toy_course.SUITE.replace(line, own))
    toy_course.hand_in(toy_course.REFERENCE)
    assert toy_course.check()[1]["t1.4"]["status"] == "passed"
    (toy_course.root / "workspace/toy_stage/words.py").unlink()
    assert toy_course.check()[1]["t1.4"]["status"] == "not submitted"


def test_not_written_and_waiting_for_another_task(toy_course) -> None:
    stub = 'raise NotImplementedError("t1.2: write count_letters")'
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, stub), answer='""')
    screen, tasks, _ = toy_course.check()
    statuses = [task["status"] for task in tasks.values()]
    assert statuses == ["not written", "not written", "passed", "not written"]
    message = "this needs count_letters, which is not written yet (task t1.2)"
    assert tasks["t1.4"]["problems"][0]["message"] == message
    assert "Next: t1.1 An answer (written)" in screen


def test_a_syntax_error_costs_that_module_only(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE, words="def count_words(:\n    pass\n")
    screen, tasks, _ = toy_course.check()
    assert [task["passed"] for task in tasks.values()] == [1, 2, 1, 0]
    assert "workspace/toy_stage/words.py, line 1, is not valid Python: " in screen
    assert "def count_words(:" in screen


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("while True: pass", "stopped after 2 seconds: an endless loop"),
        ("return bytearray(10 << 30)", "your code asked for more memory than this check allows"),
        ("import sys; sys.exit(0)", "your code called sys.exit(0)"),
        ("import os; os._exit(0)", "your code ended the whole process with os._exit(0)"),
        ("return count_letters(text)", "your code calls itself without end (RecursionError)"),
        ("import ctypes; ctypes.string_at(0)", "the process crashed (SIGSEGV)"),
    ],
)
def test_an_accident_costs_its_checks_and_names_its_line(
    toy_course, line: str, sentence: str
) -> None:
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, line), words=toy_course.OTHER)
    screen, tasks, done = toy_course.check("--task=t1.2", "--task=t1.3")
    assert done.returncode == 1, screen + done.stderr
    assert (tasks["t1.2"]["passed"], tasks["t1.3"]["passed"]) == (0, 1)
    assert sentence in screen
    if "while" in line:
        last = tasks["t1.2"]["problems"][1]["message"]
        assert "stopped after 0.3 seconds" in last, "the second check of a task has less time"
    if "_exit" not in line:
        assert "workspace/toy_stage/counting.py:11 in count_letters" in screen


def test_an_import_that_never_ends(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE + "\nwhile LETTERS:\n    pass\n")
    toy_course.write(
        "conftest.py",
        'pytest_plugins = ["lm_course.grading.pytest_plugin"]\n'
        "from lm_course.grading import code_under_test\n"
        "code_under_test.SECONDS_TO_IMPORT = 1.5\n",
    )
    screen, tasks, _ = toy_course.check()
    assert [task["passed"] for task in tasks.values()] == [1, 0, 0, 0]
    messages = {
        problem["message"]
        for name in ("t1.2", "t1.3", "t1.4")
        for problem in tasks[name]["problems"]
    }
    assert messages == {"stopped after 1.5 seconds: an endless loop, or far too much work"}, (
        "the checks do not wait again"
    )
    assert "stopped after 1.5 seconds" in screen
    assert re.search(r"workspace/toy_stage/counting\.py:2[23] in <module>", screen)


NOTE = "\nwith open('FILE', 'a') as file: file.write('counting\\n')\n"


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("", 2),  # in the trial and in the session
        ("import threading; threading.Event()", 2),
        ("print('hello')", 5),  # in the trial and in every check
        ("import sys; print('hello', file=sys.stderr)", 5),
        ("import threading, time; threading.Thread(target=time.sleep, args=(1,)).start()", 5),
        ("raise KeyError", 5),
        ("raise SystemExit", 5),
    ],
)
def test_a_quiet_module_is_imported_once_for_all_checks(toy_course, line: str, times: int) -> None:
    record = toy_course.root.with_suffix(".imports")  # a learner's code may not write beside itself
    toy_course.hand_in(f"{toy_course.REFERENCE}{NOTE.replace('FILE', str(record))}{line}\n")
    _, tasks, _ = toy_course.check()
    assert sum(tasks[name]["checks"] for name in ("t1.2", "t1.3", "t1.4")) == 4
    assert record.read_text().count("counting") == times


def test_what_a_module_prints_when_it_is_imported_is_shown(toy_course) -> None:
    toy_course.hand_in("print('here I am')\n" + toy_course.REFERENCE.replace("letter)", "'a')"))
    screen, tasks, _ = toy_course.check()
    assert tasks["t1.3"]["status"] == "failing"
    assert "  | here I am" in screen.splitlines()


def test_ctrl_c_stops_the_run(toy_course) -> None:
    begun = toy_course.root.with_suffix(".begun")
    wait = f"import time; open({str(begun)!r}, 'w').close(); time.sleep(60)"
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, wait))
    suite = toy_course.SUITE.replace("seconds=2", "seconds=50")
    toy_course.write("assignments/t1/test_counting.py", suite)
    path = os.pathsep.join([str(toy_course.root), *sys.path])
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "assignments/t1"],
        cwd=toy_course.root,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(3000):
        if begun.exists():
            break
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    screen, _ = run.communicate(timeout=30)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, screen
    assert "stopped early" in screen
    assert "KeyboardInterrupt" not in screen
    assert re.search(r"t1\.2 .* 0/2  not run", screen)
    assert not (toy_course.root / "workspace/progress.toml").exists()


@pytest.mark.parametrize(
    "arguments",
    [("-k", "abca"), ("assignments/t1/test_counting.py",), ("--impl", "reference"), ("-x",)],
)
def test_a_part_of_the_checks_is_no_result(toy_course, arguments: tuple[str, ...]) -> None:
    toy_course.hand_in(toy_course.REFERENCE, answer="4")
    toy_course.check(*arguments)
    assert not (toy_course.root / "workspace/progress.toml").exists()


def test_a_part_of_the_checks_shows_its_tasks_only(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    screen, tasks, _ = toy_course.check("-k", "abca or largest")
    assert {name: task["checks"] for name, task in tasks.items()} == {"t1.2": 1, "t1.3": 1}
    assert (
        screen.splitlines()[-1] == "t1.2, t1.3 pass. For the next task: lm progress t1. "
        "For the whole assignment: lm check t1"
    )


def test_progress_is_recorded_and_the_best_result_stays(toy_course) -> None:
    record = toy_course.root / "workspace/progress.toml"
    toy_course.hand_in(toy_course.REFERENCE, answer="4")
    toy_course.check("--task=t1.3")
    assert [line.split()[0] for line in record.read_text().splitlines()[2:]] == ['"t1.3"']
    toy_course.check()
    assert '"t1.2" = { passed = 2, checks = 2' in record.read_text()
    assert '"t1.1"' not in record.read_text(), "no check of it has passed"
    toy_course.hand_in("", answer="3")
    toy_course.check()
    assert '"t1.2" = { passed = 2, checks = 2' in record.read_text(), "the best result stays"
    assert '"t1.1" = { passed = 1, checks = 1' in record.read_text()


def test_a_broken_record_is_told_and_harms_nothing(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    toy_course.write("workspace/progress.toml", "no = = toml")
    screen, tasks, done = toy_course.check()
    assert done.returncode == 0
    assert tasks["t1.3"]["status"] == "passed"
    assert "not recorded: " in screen


def test_a_folder_of_any_name(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    (toy_course.root / "workspace").rename(toy_course.root / "theirs")
    screen, tasks, _ = toy_course.check("--impl", "theirs")
    assert screen.splitlines()[0] == "t1: checking the files in theirs"
    assert {task["status"] for task in tasks.values()} == {"passed"}
    assert not (toy_course.root / "theirs/progress.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--impl", "nowhere"], "--impl nowhere: no such folder; `lm start t1` makes workspace"),
        (["--impl", "tests"], "expected toy_stage/ in that folder"),
        (["--task", "t1.9"], "t1.9: no such task; t1 has t1.1, t1.2"),
        (["--task", "t2.1"], "t2.1: not a task of t1"),
        (["tests"], "run them separately"),
    ],
)
def test_wrong_options_are_one_line(toy_course, arguments: list[str], complaint: str) -> None:
    done = toy_course.run("-m", "pytest", "assignments/t1", *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("find", "replace", "complaint"),
    [
        ('@pytest.mark.task("t1.1")\n', "", "test_how_many: mark it with @pytest.mark.task"),
        ('@pytest.mark.task("t1.1")', '@pytest.mark.task("t1.8")', "t1.8: no such task"),
        ('COUNTING = "toy', 'import nowhere\nCOUNTING = "toy', "the suite itself is broken"),
    ],
)
def test_mistakes_of_the_suite_are_told(
    toy_course, find: str, replace: str, complaint: str
) -> None:
    assert find in toy_course.SUITE
    toy_course.write("assignments/t1/test_counting.py", toy_course.SUITE.replace(find, replace))
    done = toy_course.run("-m", "pytest", "assignments/t1")
    assert done.returncode not in (0, 1)
    assert complaint in done.stdout + done.stderr


def test_code_under_test_is_not_imported_outside_a_check(toy_course) -> None:
    fixture = (
        "@pytest.fixture\ndef early(implementation):\n    return implementation(COUNTING)\n\n\n"
    )
    suite = toy_course.SUITE.replace(
        '@pytest.mark.task("t1.3")\ndef test_largest(implementation)',
        fixture + '@pytest.mark.task("t1.3")\ndef test_largest(implementation, early)',
    )
    toy_course.write("assignments/t1/test_counting.py", suite)
    _, tasks, _ = toy_course.check()
    assert "inside the test function" in tasks["t1.3"]["problems"][0]["message"]


def test_other_tests_are_left_alone(toy_course) -> None:
    toy_course.write("tests/test_own.py", "def test_own():\n    assert True\n")
    done = toy_course.run("-m", "pytest", "tests")
    assert done.returncode == 0
    assert "1 passed" in done.stdout
    assert "test session starts" in done.stdout
    done = toy_course.run("-m", "pytest")
    assert "1 passed" in done.stdout, "a run of everything leaves assignments/ out"


def test_junit_and_verbose_output_for_those_who_want_it(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE, answer="4")
    report = toy_course.root / "junit.xml"
    screen, _, _ = toy_course.check("-v", f"--junit-xml={report}")
    assert "test session starts" in screen
    assert "Traceback" in screen
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) == 5
    assert sum(case.find("failure") is not None for case in cases) == 1
    properties = {case.find("properties/property").get("value") for case in cases}
    assert properties == {"t1.1", "t1.2", "t1.3", "t1.4"}


def test_a_check_that_cannot_run_here_is_not_counted(toy_course) -> None:
    suite = toy_course.SUITE.replace(
        "    got = implementation(COUNTING).largest",
        '    pytest.skip("no GPU")\n    got = implementation(COUNTING).largest',
    )
    toy_course.write("assignments/t1/test_counting.py", suite)
    screen, tasks, done = toy_course.check()
    assert done.returncode == 0
    assert tasks["t1.3"]["status"] == "skipped"
    assert "7/7" in screen


def test_a_quick_edit_of_the_same_size_is_seen(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    path = toy_course.root / "workspace/toy_stage/counting.py"
    assert toy_course.check("--task=t1.3")[1]["t1.3"]["status"] == "passed"
    before = path.stat()
    path.write_text(path.read_text().replace("max(counts", "min(counts"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert toy_course.check("--task=t1.3")[1]["t1.3"]["status"] == "failing"
