"""Files, processes and floods of output that a check leaves behind are named; end to end."""

import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="isolation needs os.fork")

RIGHT_LINE = "return dict(_counter(text))"
ELSEWHERE = {
    "a file": "open('ROOT/left.txt', 'w').write(text)",
    "a file beside the command": "open('left.txt', 'x')",
    "a folder": "import os; os.makedirs('ROOT/left/inner')",
    "a file that is removed": "import os; os.remove('ROOT/pyproject.toml')",
    "a file by pathlib": "import pathlib; pathlib.Path('ROOT/left.txt').write_text(text)",
    "a file by NumPy": "import numpy; numpy.save('ROOT/left.npy', numpy.zeros(3))",
    "a file that is moved there": (
        "import os, tempfile; name = tempfile.mkstemp()[1]; os.rename(name, 'ROOT/left.txt')"
    ),
}
PROCESSES = {
    "a worker": (
        "import multiprocessing as m, time; "
        "m.get_context('fork').Process(target=time.sleep, args=(60,)).start()"
    ),
    "a pool": (
        "import multiprocessing as m; global pool; pool = m.get_context('fork').Pool(3); "
        "pool.map(len, [text])"
    ),
    "a process that cuts itself loose": (
        "import os, time\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0: time.sleep(60)\n        os._exit(0)"
    ),
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def hand_in(toy_course, lines: str) -> None:
    lines = lines.replace("ROOT", str(toy_course.root))
    code = toy_course.REFERENCE.replace(RIGHT_LINE, f"{lines}\n    {RIGHT_LINE}")
    toy_course.hand_in(code)


@pytest.mark.parametrize("what", ELSEWHERE)
def test_a_file_elsewhere_is_refused_and_fails_the_check(toy_course, what: str) -> None:
    hand_in(toy_course, ELSEWHERE[what])
    _, tasks, _ = toy_course.check("--task=t1.2", "--task=t1.3")
    assert not list(toy_course.root.glob("left*")), "nothing is written"
    assert (toy_course.root / "pyproject.toml").exists(), "nothing is removed"
    task = tasks["t1.2"]
    assert (task["status"], task["passed"], task["forbidden"]) == ("failing", 0, "")
    assert tasks["t1.3"]["status"] == "passed"
    message, where = task["problems"][0]["message"], task["problems"][0]["where"]
    assert message.startswith("your code wrote to ")
    assert "counting.py:" in where[0]


@linux
@pytest.mark.parametrize("what", PROCESSES)
def test_a_process_left_behind_is_named_and_ended(toy_course, what: str) -> None:
    hand_in(toy_course, PROCESSES[what])
    _, tasks, _ = toy_course.check("--task=t1.2")
    task = tasks["t1.2"]
    assert (task["status"], task["passed"], task["forbidden"]) == ("failing", 0, "")
    message = task["problems"][0]["message"]
    assert message.startswith("your code left ")
    assert message.endswith("running: end what it starts")
    if what == "a pool":
        assert "and 2 more processes" in message
    process = int(message.partition("(process ")[2].partition(")")[0])
    assert not Path(f"/proc/{process}").exists() or _has_ended(process)


def _has_ended(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("number", [1, 2])
def test_a_gigabyte_of_output_is_cut(toy_course, number: int) -> None:
    lines = (
        "import os\n    block = b'line of the output\\n' * 50_000\n    for _ in range(1100):\n"
        f"        try: os.write({number}, block)\n        except OSError: pass"
    )
    hand_in(toy_course, lines)
    screen, tasks, _ = toy_course.check("--task=t1.2", "--task=t1.3")
    name = {1: "standard output", 2: "standard error"}[number]
    message = tasks["t1.2"]["problems"][0]["message"]
    assert message == f"your code wrote 64 MB or more to {name}: remove the print, or print less"
    assert tasks["t1.3"]["status"] == "passed"
    assert len(screen) < 4000
    assert "lines above these" in screen


def test_what_is_printed_within_the_limit_is_kept(toy_course) -> None:
    hand_in(toy_course, "print('x' * 900_000)")
    _, tasks, done = toy_course.check("--task=t1.2")
    assert done.returncode == 0
    assert tasks["t1.2"]["status"] == "passed"
