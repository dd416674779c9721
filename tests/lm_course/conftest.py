"""A course of one small assignment in its own folder, on which tests run pytest and `lm`."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import preloaded_python
import pytest

from lm_course.interrupts import Interrupts

PROJECT = Path(__file__).parents[2]

PYPROJECT = """
[tool.pytest.ini_options]
addopts = "--import-mode=importlib --strict-markers --strict-config -ra --durations=10"
filterwarnings = ["error"]
"""

REFERENCE = '''"""Counting things: given constants, two tasks, and a private helper."""

from collections import Counter

LETTERS = "abc"  # given


def count_letters(text: str) -> dict[str, int]:
    """How often each letter occurs."""
    # a comment that tells how
    return dict(_counter(text))


def _counter(text: str) -> Counter:
    return Counter(text)


def largest(counts: dict[str, int]) -> str:
    """The most frequent letter; the larger one among equals."""
    return max(counts, key=lambda letter: (counts[letter], letter))
'''

OTHER = '''"""A second graded module."""

from toy_stage.counting import count_letters


def count_words(text: str) -> dict[str, int]:
    """How often each word occurs."""
    return {word: text.split().count(word) for word in text.split() if count_letters(word)}
'''

ASSIGNMENT = """
id = "t1"
title = "Counting"
package = "toy_stage"

[[task]]
id = "t1.1"
title = "An answer (written)"
questions = ["how_many"]
points = 2
minutes = 5
section = "1-how-many"
hints = ["think", "count", "three"]

[[task]]
id = "t1.2"
title = "Count letters, one by one, with a title that is too long for a narrow terminal"
module = "counting"
functions = ["count_letters"]
points = 4
minutes = 10
section = "2-count"
hints = ["first nudge", "second idea", "third, the code"]

[[task]]
id = "t1.3"
title = "The largest"
module = "counting"
functions = ["largest"]
points = 3
minutes = 10
section = "3-largest"
hints = ["a", "b", "c"]

[[task]]
id = "t1.4"
title = "Words"
module = "words"
functions = ["count_words"]
points = 1
minutes = 10
section = "4-words"
hints = ["a", "b", "c"]
"""

SUITE = '''"""The graded suite of t1."""

import pytest

from lm_course.grading.comparisons import check_equal

COUNTING = "toy_stage.counting"


@pytest.mark.task("t1.4")
def test_words(implementation):
    got = implementation("toy_stage.words").count_words("a b a")
    check_equal(got, {"a": 2, "b": 1}, 'count_words("a b a")')


@pytest.mark.task("t1.1")
def test_how_many(answers):
    check_equal(answers.number("how_many"), 3.0, "how_many")


@pytest.mark.task("t1.2")
@pytest.mark.limit(seconds=2, memory_mb=500)
@pytest.mark.parametrize("text", ["abca", "zz"])
def test_letters(implementation, text):
    expected = {letter: text.count(letter) for letter in text}
    check_equal(implementation(COUNTING).count_letters(text), expected, f"count_letters({text!r})")


@pytest.mark.task("t1.3")
def test_largest(implementation):
    got = implementation(COUNTING).largest({"a": 2, "b": 2, "c": 1})
    check_equal(got, "b", "largest of equals", {"the first was taken": "a"})
'''

MUTANTS = """
[[mutant]]
name = "first-of-equals"
module = "counting"
find = "(counts[letter], letter)"
replace = "counts[letter]"
why = "ties go to the larger letter"
task = "t1.3"
"""
# A planted mistake that no check sees, and a generated one that is listed as equal to the reference
SURVIVOR = """
[[mutant]]
name = "given-constant"
module = "counting"
find = 'LETTERS = "abc"'
replace = 'LETTERS = "abcd"'
why = "nobody checks it"
task = "t1.2"
"""
LISTED = """
[[survivor]]
module = "counting"
function = "count_letters"
operator = "cast"
original = "return dict(_counter(text))"
changed = "return _counter(text)"
reason = "a Counter is a dict"
"""


class ToyCourse:
    """The folder of a course, with methods that write files into it and run it."""

    REFERENCE = REFERENCE
    OTHER = OTHER
    ASSIGNMENT = ASSIGNMENT
    SUITE = SUITE
    MUTANTS = MUTANTS
    SURVIVOR = SURVIVOR
    LISTED = LISTED
    PROJECT = PROJECT

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("pyproject.toml", PYPROJECT)
        self.write("conftest.py", 'pytest_plugins = ["lm_course.grading.pytest_plugin"]\n')
        lines = ['"""Toy."""', "from lm_core.stand_ins import stand_ins_first"]
        lines += ["__path__ = stand_ins_first(__name__, __path__)"]
        self.write("toy_stage/__init__.py", "\n".join(lines))
        self.write("toy_stage/counting.py", REFERENCE)
        self.write("toy_stage/words.py", OTHER)
        self.write("assignments/t1/assignment.toml", ASSIGNMENT)
        self.write("assignments/t1/README.md", "# Counting\n")
        self.write("assignments/t1/test_counting.py", SUITE)
        self.write("assignments/t1/mutants.toml", MUTANTS)
        self.write("tests/assignments/t1_answers.toml", "how_many = 3\n")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def hand_in(self, counting: str, words: str = OTHER, answer: str = "3") -> None:
        """Write the learner's files."""
        self.write("workspace/toy_stage/counting.py", counting)
        self.write("workspace/toy_stage/words.py", words)
        self.write("workspace/t1/answers.toml", f"how_many = {answer}\n")

    def run(
        self, *command: str, columns: int = 80, folder: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("LM_")}
        for name in ("PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE"):
            inherited.pop(name, None)
        path = os.pathsep.join([str(PROJECT), str(self.root)])
        inherited["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # hypothesis takes longer than the checks
        return preloaded_python.run(
            command,
            cwd=folder or self.root,
            env={**inherited, "PYTHONPATH": path, "COLUMNS": str(columns), **environment},
            timeout=120,
        )

    def lm(self, folder: Path, *arguments: str) -> str:
        """Run `lm` on this course from a folder, and return what it prints."""
        code = (
            "import sys; from pathlib import Path; "
            "from lm_course import cli; from lm_course.commands import learner_commands; "
            f"learner_commands.PROJECT = Path({str(self.root)!r}); cli.main(sys.argv[1:])"
        )
        return self.run("-c", code, *arguments, folder=folder).stdout

    def check(
        self, *arguments: str, columns: int = 80
    ) -> tuple[str, dict[str, Any], subprocess.CompletedProcess[str]]:
        """Run the graded suite; return (the screen, task id -> its grade, the process)."""
        grades = self.root / "grades.json"
        grades.unlink(missing_ok=True)
        done = self.run(
            *("-m", "pytest", "assignments/t1", "--grade-json", str(grades), *arguments),
            columns=columns,
        )
        assert grades.exists(), done.stdout + done.stderr
        tasks = json.loads(grades.read_text())["assignments"][0]["tasks"]
        return done.stdout, {task["id"]: task for task in tasks}, done


@pytest.fixture(autouse=True)
def own_interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo the handler that `lm` sets to remember Ctrl-C: otherwise the next test could see an
    interrupt that was not meant for it.
    """
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Interrupts, "seen", False)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def toy_course(tmp_path: Path) -> ToyCourse:
    return ToyCourse(tmp_path)
