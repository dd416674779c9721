"""Solutions that look for the answers, or that decide their own grade, graded from end to end."""

import os

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="isolation needs os.fork")

RIGHT_LINE = "return dict(_counter(text))"
LOAD = """
    import importlib.util
    spec = importlib.util.spec_from_file_location("theirs", PATH)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    return theirs.count_letters(text)"""
WORKER = """
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return {len(x): 1 for x in pool.map(_read, ["ROOT/toy_stage/counting.py"])}


def _read(path):
    return open(path).read()


def unused():
    pass"""

CHEATS = {
    "the reference by its path": (
        LOAD.replace("PATH", "'ROOT/toy_stage/counting.py'"),
        "your code opened toy_stage/counting.py of the reference: a task is graded on your own "
        "code alone",
    ),
    "the reference behind the package's path": (
        LOAD.replace("PATH", "__import__('toy_stage').__path__[-1] + '/counting.py'"),
        "your code opened toy_stage/counting.py of the reference",
    ),
    "a copy of the reference in another folder": (
        LOAD.replace("PATH", "'ROOT/copy/toy_stage/counting.py'"),
        "your code opened toy_stage/counting.py of the reference",
    ),
    "a drill, most of which is the reference": (
        LOAD.replace("PATH", "'ROOT/workspace/drills/t1/some/toy_stage/counting.py'"),
        "your code opened toy_stage/counting.py of the reference",
    ),
    "its compiled form": (
        "open('ROOT/toy_stage/__pycache__/counting.cpython-312.pyc', 'rb')",
        "your code opened toy_stage/counting.py of the reference",
    ),
    "through a link": (
        "import os, tempfile; link = tempfile.mkdtemp() + '/x'; "
        "os.symlink('ROOT/toy_stage', link); return open(link + '/counting.py').read()",
        "your code opened toy_stage/counting.py of the reference",
    ),
    "and catches the refusal": (
        "try: open('ROOT/toy_stage/counting.py')\n    except OSError: pass\n    " + RIGHT_LINE,
        "your code opened toy_stage/counting.py of the reference",
    ),
    "in a thread": (
        "import threading; path = 'ROOT/toy_stage/counting.py'\n"
        "    t = threading.Thread(target=open, args=(path,)); t.start(); t.join(); " + RIGHT_LINE,
        "your code opened toy_stage/counting.py of the reference",
    ),
    "in a worker process": (WORKER, "your code opened toy_stage/counting.py of the reference"),
    "by a library that reads for it": (
        "import numpy; return numpy.fromstring(numpy.loadtxt('ROOT/toy_stage/counting.py', str))",
        "your code opened toy_stage/counting.py of the reference",
    ),
    "an answer without a task": (
        "from toy_stage.solved import count_letters as other; return other(text)",
        "your code opened toy_stage/solved.py of the reference",
    ),
    "the suite": (
        "return open('ROOT/assignments/t1/test_counting.py').read()",
        "your code opened assignments/t1/test_counting.py of the suite",
    ),
    "the written answers": (
        "return open('ROOT/tests/assignments/t1_answers.toml').read()",
        "your code opened tests/assignments/t1_answers.toml of the suite",
    ),
    "the grader, imported": (
        "from lm_course.grading import comparisons; comparisons.check_equal = print",
        "your code names lm_course.grading of the grader",
    ),
    "the grader, among the loaded modules": (
        "import sys; sys.modules['lm_course.grading.comparisons'].check_equal = print",
        "your code names lm_course.grading.comparisons of the grader",
    ),
    "a function of the grader, found in some way": (
        "import sys; sys.modules['_course.grading.comparisons'.replace('_', 'lm_', 1)]"
        ".check_equal = lambda *x: None",
        "your code replaced lm_course.grading.comparisons.check_equal",
    ),
    "a builtin": (
        "import builtins; builtins.isinstance = lambda *x: True; " + RIGHT_LINE,
        "your code replaced builtins.isinstance, which the grader uses",
    ),
    "the frames above": (
        "import sys; return sys._getframe(1).f_locals['expected']",
        "your code looked at the frames of the grader (sys._getframe)",
    ),
    "the frames above, by inspect": (
        "import inspect; return inspect.stack()[1].frame.f_locals['expected']",
        "your code looked at the frames of the grader",
    ),
    "the frames above, by an exception": (
        "try: 1 / 0\n    except Exception as e: return e.__traceback__.tb_frame.f_back.f_locals",
        "your code looked at the frames of the grader (tb_frame)",
    ),
    "all objects": (
        "import gc; return [x for x in gc.get_objects() if x == 'expected']",
        "your code searched the objects of the grader (gc)",
    ),
    "the memory of the process": (
        "return open('/proc/self/mem', 'rb')",
        "your code opened /proc/self/mem",
    ),
    "another folder of stand-ins": (
        "import os; os.environ.pop('LM_STAND_INS'); " + RIGHT_LINE,
        "your code changed LM_STAND_INS",
    ),
    "the grader's end": (
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
        "your code sent a signal to the grader",
    ),
    "another program": (
        "import subprocess; subprocess.run(['true']); " + RIGHT_LINE,
        "your code started another program",
    ),
    "another program, in place of this one": (
        "import os; os.execv('/bin/true', ['true'])",
        "your code replaced its process by another program",
    ),
    "the library of the system": (
        "import ctypes; ctypes.CDLL(None).getpid(); " + RIGHT_LINE,
        "your code loaded a compiled library (ctypes)",
    ),
    "the counting of steps": (
        "import sys; sys.settrace(None); " + RIGHT_LINE,
        "your code called sys.settrace, as a debugger does (breakpoint)",
    ),
    "an outcome of its own": (
        'import os\n    told = b\'{"status": "passed"}\\0\'\n    for n in range(3, 64):\n'
        "        try: os.write(n, told)\n"
        "        except OSError: pass\n    os._exit(0)",
        "your code wrote to the grader's pipe",
    ),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_it_is_named_and_its_task_scores_nothing(toy_course, cheat: str) -> None:
    lines, sentence = CHEATS[cheat]
    drill = "workspace/drills/t1/some/toy_stage/counting.py"
    for name in ("toy_stage/solved.py", "copy/toy_stage/counting.py", drill):
        toy_course.write(name, toy_course.REFERENCE)
    assignment = toy_course.ASSIGNMENT.replace(
        'package = "toy_stage"', 'package = "toy_stage"\nanswer_modules = ["solved"]'
    )
    toy_course.write("assignments/t1/assignment.toml", assignment)
    lines = lines.replace("ROOT", str(toy_course.root))
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, lines))
    screen, tasks, done = toy_course.check("--task=t1.2", "--task=t1.3")
    assert done.returncode == 1, screen + done.stderr
    assert tasks["t1.2"]["forbidden"].startswith(sentence), tasks["t1.2"]
    assert (tasks["t1.2"]["status"], tasks["t1.2"]["points"]) == ("not allowed", 0)
    assert "Fix first: t1.2" in screen


def test_a_forbidden_act_in_one_check_costs_the_whole_task(toy_course) -> None:
    line = f"open('{toy_course.root}/toy_stage/words.py') if text == 'zz' else 0; {RIGHT_LINE}"
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, line))
    screen, tasks, _ = toy_course.check()
    assert [tasks[name]["points"] for name in ("t1.2", "t1.3", "t1.4")] == [0, 3, 1]
    assert "t1.2" in screen
    assert "0/4     0/2  not allowed" in screen


COUNTED = """
class TooMuch(BaseException):
    pass


class Counter:
    stopped = False

    def trace(self, frame, event, argument):
        self.stopped = True
        raise TooMuch


@pytest.mark.task("t1.2")
def test_steps(implementation):
    count_letters = implementation(COUNTING).count_letters
    counter = Counter()
    sys.settrace(counter.trace)
    try:
        count_letters("abca")
    except TooMuch:
        pass
    check_equal(counter.stopped, False, "whether count_letters was stopped")
"""


def test_slow_code_that_a_check_stops_is_not_accused(toy_course) -> None:
    """Python ends the tracing in the frame of the code that is stopped."""
    suite = toy_course.SUITE.replace("import pytest\n", "import sys\n\nimport pytest\n", 1)
    toy_course.write("assignments/t1/test_counting.py", suite + COUNTED)
    toy_course.hand_in(toy_course.REFERENCE)
    screen, tasks, _ = toy_course.check("--task=t1.2")
    assert tasks["t1.2"]["status"] == "failing", screen
    assert "whether count_letters was stopped" in screen


LEGITIMATE = '''
import collections, contextlib, dataclasses, functools, inspect, io, json, linecache, logging
import multiprocessing, tempfile, threading, traceback, typing, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

Point = collections.namedtuple("Point", "x y")
log = logging.getLogger(__name__)


@dataclasses.dataclass
class Kept:
    text: str


@functools.lru_cache
def _cached(text):
    return Counter(text)


def _counter(text):
    """A docstring may name lm_course.grading."""
    log.warning("counted %s", text, stack_info=True)
    warnings.warn("old", stacklevel=3)
    try:
        raise ValueError("mine")
    except ValueError:
        traceback.format_exc()
        log.exception("caught", exc_info=True)
    inspect.signature(_cached)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text")
        path.write_text(text)
        path.rename(Path(folder, "other"))
        assert Path(folder, "other").read_text() == text
        with open("/dev/null", "w") as nowhere:
            print(text, file=nowhere)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map(_cached, text)
    with ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(_cached, text))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(_cached, text))
    process = multiprocessing.get_context("fork").Process(target=_cached, args=("a",))
    process.start()
    process.join()
    return sum(parts, Counter())


def _unused(text):
'''


def test_legitimate_code_is_let_be(toy_course) -> None:
    """Worker processes, temporary files, logging with the stack, caches, threads."""
    suite = toy_course.SUITE.replace("seconds=2", "seconds=30")
    toy_course.write("assignments/t1/test_counting.py", suite)
    code = toy_course.REFERENCE.replace("def _counter(text: str) -> Counter:\n", LEGITIMATE)
    toy_course.hand_in(code)
    screen, tasks, done = toy_course.check("-v")
    assert done.returncode == 0, screen + done.stderr
    assert {task["status"] for task in tasks.values()} == {"passed"}


def test_the_project_s_own_folder_may_be_named(toy_course) -> None:
    """The folder then holds the suite, too, whose acts are not the learner's."""
    toy_course.write("t1/answers.toml", "how_many = 3\n")
    suite = toy_course.SUITE.replace("import pytest", "import sys\nimport pytest")
    suite = suite.replace(
        "    expected =", "    sys._getframe(), open(__file__).close()\n    expected ="
    )
    toy_course.write("assignments/t1/test_counting.py", suite)
    _, tasks, done = toy_course.check("--impl", ".", "--task=t1.2", "--task=t1.4")
    assert done.returncode == 0
    assert {task["status"] for task in tasks.values()} == {"passed"}


def test_a_workspace_behind_a_link_is_watched(toy_course) -> None:
    line = f"open('{toy_course.root}/toy_stage/counting.py'); {RIGHT_LINE}"
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, line))
    (toy_course.root / "workspace").rename(toy_course.root / "elsewhere")
    (toy_course.root / "workspace").symlink_to(toy_course.root / "elsewhere")
    _, tasks, _ = toy_course.check("--task=t1.2", "--task=t1.3")
    assert [task["status"] for task in tasks.values()] == ["not allowed", "passed"]


def test_a_given_file_is_the_grader_s_own_copy(toy_course) -> None:
    toy_course.write("toy_stage/given/__init__.py", "")
    toy_course.write("toy_stage/given/launcher.py", "from toy_stage.words import count_words\n")
    assignment = toy_course.ASSIGNMENT.replace(
        'package = "toy_stage"', 'package = "toy_stage"\ngiven_modules = ["given"]'
    )
    toy_course.write("assignments/t1/assignment.toml", assignment)
    suite = toy_course.SUITE.replace('"toy_stage.words")', '"toy_stage.given.launcher")')
    toy_course.write("assignments/t1/test_counting.py", suite)
    toy_course.hand_in(toy_course.REFERENCE, words="def count_words(text):\n    pass\n")
    toy_course.write("workspace/toy_stage/given/__init__.py", "")
    toy_course.write("workspace/toy_stage/given/launcher.py", toy_course.OTHER)
    _, tasks, _ = toy_course.check()
    assert tasks["t1.4"]["status"] == "failing"


def test_a_module_that_is_missing_is_not_taken_from_the_reference(toy_course) -> None:
    toy_course.hand_in(toy_course.REFERENCE)
    (toy_course.root / "workspace/toy_stage/counting.py").unlink()
    _, tasks, _ = toy_course.check()
    assert tasks["t1.4"]["status"] == "not submitted"
    assert "counting.py is missing" in tasks["t1.4"]["problems"][0]["message"]


TORCH_SUITE = """
import pytest
import torch

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.comparisons import check_equal


@pytest.mark.task("t1.2")
@pytest.mark.limit(seconds=30)
@pytest.mark.parametrize("text", ["abca", "zz"])
def test_letters(implementation, text):
    q = torch.ones(1, 1, 3, 4)
    torch.nn.functional.scaled_dot_product_attention(q, q, q)
    expected = {letter: text.count(letter) for letter in text}
    got = implementation("toy_stage.counting").count_letters(text)
    check_equal(got, expected, f"count_letters({text!r})")
"""
SOFTMAX = """
    import torch
    from threading import Thread
    from torch.nn.functional import scaled_dot_product_attention
    q = torch.ones(1, 1, 3, 4)
    torch.softmax(q, -1)
    CALL
    """
CALLS = {
    "torch.nn.functional": "text == 'zz' and scaled_dot_product_attention(q, q, q)",
    "torch.ops": "torch.ops.aten.scaled_dot_product_attention.default(q, q, q)",
    "a thread": "t = Thread(target=lambda: scaled_dot_product_attention(q, q, q)); t.start(); "
    "t.join()",
    "a given file": "from toy_stage.given import attend; attend(q)",
    "none": "pass",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_the_task_forbids(toy_course, call: str) -> None:
    """By the learner's code: a check and a given file may call what they like."""
    toy_course.write(
        "toy_stage/given.py",
        "from torch.nn.functional import *\n\n\n"
        "def attend(q):\n    return scaled_dot_product_attention(q, q, q)\n",
    )
    assignment = toy_course.ASSIGNMENT.replace(
        'package = "toy_stage"', 'package = "toy_stage"\ngiven_modules = ["given"]'
    ).replace(
        'functions = ["count_letters"]',
        'functions = ["count_letters"]\nforbidden_calls = ["scaled_dot_product"]',
    )
    toy_course.write("assignments/t1/assignment.toml", assignment)
    toy_course.write("assignments/t1/test_counting.py", TORCH_SUITE)
    lines = SOFTMAX.replace("CALL", CALLS[call]) + RIGHT_LINE
    toy_course.hand_in(toy_course.REFERENCE.replace(RIGHT_LINE, lines))
    _, tasks, _ = toy_course.check("--task=t1.2")
    if call in ("a given file", "none"):
        assert (tasks["t1.2"]["status"], tasks["t1.2"]["passed"]) == ("passed", 2)
    else:
        assert tasks["t1.2"]["forbidden"] == (
            "your code called PyTorch's scaled_dot_product_attention: this task asks you to write "
            "it yourself"
        )
        assert (tasks["t1.2"]["status"], tasks["t1.2"]["points"]) == ("not allowed", 0)
