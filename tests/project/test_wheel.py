"""The whole course works from an installed wheel and an empty folder."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "-w", str(folder)]
    if find_spec("hatchling") is not None:  # otherwise pip downloads hatchling
        command.append("--no-build-isolation")
    subprocess.run(command, cwd=PROJECT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and our libraries, but not the checkout."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    # Python adds a folder named in a .pth file to the search path, but does not read the .pth files
    # inside it, such as that of an editable install.
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(places)) + "\n")
    zipfile.ZipFile(wheel).extractall(site)
    return python


def lm(python: Path, folder: Path, *arguments: str) -> str:
    return run(python, folder, "-m", "lm_course", *arguments)


def run(python: Path, folder: Path, *arguments: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LM_", "PYTHON", "PYTEST"))}
    done = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**kept, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def test_the_wheel_brings_what_the_checkout_has(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("recipes", "assignments"):
        files = [path for path in (PROJECT / folder).rglob("*") if path.is_file()]
        ours = [p.relative_to(PROJECT).as_posix() for p in files if "__pycache__" not in p.parts]
        assert len(ours) > 10
        assert {f"lm_course/{name}" for name in ours} <= set(names)
    for path in (PROJECT / "assignments").glob("*/assignment.toml"):
        assert f"lm_course/tests/assignments/{path.parent.name}_answers.toml" in names
    for path in (PROJECT / "inference" / "chat_page" / "page_files").iterdir():
        assert path.relative_to(PROJECT).as_posix() in names
    tops = {name.split("/")[0] for name in names if "dist-info" not in name}
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert tops == set(packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert not [name for name in names if "__pycache__" in name]


def test_the_course_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import lm_course; print(lm_course.__file__)")
    site = Path(where).parent.parent
    assert not site.is_relative_to(PROJECT)
    for assignment in ("a1", "a2", "a3", "a3_data", "a6"):
        screen = lm(installed, tmp_path, "start", assignment)
        handout = f"{site}/lm_course/assignments/{assignment}/README.md"
        assert f"read    {handout}#" in screen
        assert Path(handout).is_file()
    stubs = tmp_path / "workspace"
    assert len(list(stubs.rglob("*.py"))) > 8
    from lm_course.learning.assignment_file import load_assignment
    from lm_course.learning.stubs import cut_stubs

    for assignment in map(load_assignment, ("a1", "a2", "a3", "a3_data", "a6")):
        for module, text in cut_stubs(assignment).items():
            assert (stubs / assignment.package / f"{module}.py").read_text() == text
    screen = lm(installed, tmp_path, "check", "a1", "2")
    assert "a1: checking your files in workspace/" in screen
    assert "0/4     0/6  not written" in screen
    assert "hint 1 of 3" in lm(installed, tmp_path, "hint", "a1", "2")
    assert "lm pretrain" in lm(installed, tmp_path, "steps")
    screen = lm(installed, tmp_path, "check", "a1", "1", "2", "--impl", "reference")
    assert "a1.1, a1.2 pass." in screen, screen


def test_the_demo_s_recipe_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    few = ["collect.max_modules=3", "collect.include_readmes=false"]
    options = [f"--set={setting}" for setting in few]
    screen = lm(installed, tmp_path, "run", "--only", "collect", *options)
    assert "1/1 collect" in screen, screen
    assert (tmp_path / "runs" / "demo" / "pages.warc.gz").is_file()
