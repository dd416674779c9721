"""A program that runs in a fork behaves like one that Python starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import preloaded_python
import pytest

FACTS = """
import os, sys
print(os.getcwd(), sys.argv[1:], os.environ.get("COLOUR"), "PYTEST_CURRENT_TEST" in os.environ)
print(__name__, helper.WHERE, sys.stdin.isatty(), repr(sys.stdin.read()))
print("an error", file=sys.stderr)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which a module that lies elsewhere is found."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "helper.py").write_text("WHERE = 'elsewhere'\n")
    return {"PYTHONPATH": str(tmp_path / "elsewhere"), "COLOUR": "blue", "PATH": os.environ["PATH"]}


@pytest.mark.parametrize("kind", ["code", "file", "module"])
@pytest.mark.parametrize("given", ["", "one\r\nthé\n"])
def test_it_says_what_python_says(tmp_path: Path, environment, kind: str, given: str) -> None:
    (tmp_path / "facts.py").write_text(f"import helper\n{FACTS}")
    program = {
        "code": ["-c", f"import helper\n{FACTS}"],
        "file": ["facts.py"],
        "module": ["-m", "facts"],
    }[kind]
    command = [*program, "one", "two words"]
    theirs = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    ours = preloaded_python.run(command, tmp_path, environment, given=given)
    assert theirs.returncode == 0, theirs.stderr
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, theirs.stdout, theirs.stderr)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('no')", 1),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.killpg(0, signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_its_exit_status(tmp_path: Path, code: str, status: int) -> None:
    assert preloaded_python.run(["-c", code], tmp_path, os.environ).returncode == status


def test_libraries_are_loaded_beforehand_and_nothing_of_ours(tmp_path: Path) -> None:
    ours = sorted(path.parent.name for path in Path(__file__).parents[2].glob("*/__init__.py"))
    code = f"import sys; print('torch' in sys.modules, [n for n in {ours} if n in sys.modules])"
    assert "lm_core" in ours
    assert preloaded_python.run(["-c", code], tmp_path, os.environ).stdout == "True []\n"


def test_a_program_past_its_time_is_killed(tmp_path: Path) -> None:
    program = preloaded_python.Program(["-c", "import time; time.sleep(60)"], tmp_path, os.environ)
    with pytest.raises(subprocess.TimeoutExpired):
        program.communicate(timeout=0.2)
    assert program.communicate() == ("", "")
    assert program.returncode == -signal.SIGKILL


COUNT = "import sys; data = sys.stdin.buffer.read(); print(len(data), data[:3], data[-2:])"


def test_input_is_bytes_however_many(tmp_path: Path) -> None:
    """More than a pipe holds, and what cannot be text."""
    given = b"\xff\x00a" + bytes(3_000_000) + b"yz"
    done = preloaded_python.run(["-c", COUNT], tmp_path, os.environ, given=given)
    assert (done.stdout, done.stderr) == ("3000005 b'\\xff\\x00a' b'yz'\n", "")
    done = preloaded_python.run(["-c", COUNT], tmp_path, os.environ)
    assert done.stdout == "0 b'' b''\n"


def test_input_that_nobody_reads_is_no_error_and_leaves_no_file_open(tmp_path: Path) -> None:
    files = Path("/proc/self/fd")
    counts = []
    for _ in range(4):
        given = bytes(3_000_000)
        done = preloaded_python.run(["-c", "print(1)"], tmp_path, os.environ, given=given)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
        counts.append(len(list(files.iterdir())) if files.is_dir() else 0)
    assert counts[-1] < counts[0] + 3, counts
