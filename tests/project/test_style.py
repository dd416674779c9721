"""ruff passes, every dependency is explained, and no file names a local path or package host."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [PROJECT / name for name in listed.stdout.split("\n") if name]
    return [path for path in paths if path.exists()]  # git still lists a file that was just deleted


@pytest.mark.parametrize("arguments", [["format", "--check"], ["check"]], ids=["format", "lint"])
def test_ruff(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [
        re.split(r"[<>=;\[ ]", dependency)[0]
        for dependency in project["dependencies"] + project["optional-dependencies"]["dev"]
    ]
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [name for name in names if f"| {name} |" not in text]
    assert not missing, f"CONTRIBUTING.md does not explain these dependencies: {missing}"


def test_no_machine_paths_and_no_package_hosts() -> None:
    forbidden = re.compile(
        r"/home/(?!nobody)[a-z]|/Users/[a-z]|/root/|/work/|files\.pythonhosted|pypi\.org/simple"
    )
    for path in tracked_files():
        if path.suffix in (".png", ".svg", ".gz", ".bin") or path == Path(__file__):
            continue
        found = forbidden.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(PROJECT)}: {found and found[0]}"
