"""The messages of `make` during installation and after a failure, with a fake Python and pip."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
# Creates the requested environment from itself; its pip exits with the given status.
case "$*" in
  --version) echo "Python 3.11.0" ;;
  "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip"*) echo "pip was called: $*"; exit {status} ;;
  "-m pytest"*"-m not slow") echo "tests run" ;;
  "-m pytest"*) echo "all tests run" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(folder: Path, target: str, pip_status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `make` on the project, with its virtual environment in a temporary folder.

    `make test` runs these tests itself, so the variables of the outer make are removed: with them,
    the inner make would also print the directory that it enters.
    """
    python = folder / "python"
    python.write_text(PYTHON.replace("{status}", str(pip_status)))
    python.chmod(0o755)
    command = ["make", target, f"PYTHON={python}", f"VENV={folder / 'venv'}"]
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )


def test_each_long_step_is_announced_before_it_begins(tmp_path: Path) -> None:
    lines = make(tmp_path, "test").stdout.splitlines()
    assert lines[0].startswith("Set-up, done once: Python 3.11.0, torch")
    assert "a few minutes" in lines[1]
    assert "nothing for some minutes" in lines[2]
    assert lines[3].startswith("pip was called: -m pip install")
    assert "--quiet" not in lines[3], "pip's own progress shows"
    assert lines[4].startswith("The last package")
    assert lines[6].startswith("Set-up is done. For the command lm: source ")
    assert lines[7:] == [lines[7], "tests run"]
    assert lines[7].endswith("are left out: make test-all")


def test_the_second_time_says_nothing_of_set_up(tmp_path: Path) -> None:
    make(tmp_path, "setup")
    again = make(tmp_path, "test").stdout
    assert "Set-up" not in again
    assert again.splitlines()[-1] == "tests run"
    assert make(tmp_path, "test-all").stdout.splitlines()[-1] == "all tests run"


def test_when_pip_fails_it_ends_in_words_and_nothing_counts_as_installed(tmp_path: Path) -> None:
    done = make(tmp_path, "demo", pip_status=1)
    assert done.returncode == 2
    assert "make: pip could not install the packages: its last lines above say why" in done.stderr
    assert "The whole path" not in done.stdout
    assert not (tmp_path / "venv" / "installed").exists()


def test_no_name_of_a_test_is_long_or_holds_packed_bytes(request):
    """Check the test names of the current session.

    The bytes that gzip writes change every second, and pytest -n stops if two processes name a test
    differently.
    """
    named = [item.name for item in request.session.items]
    assert [name for name in named if "\\x1f\\x8b" in name or len(name) > 250] == []
