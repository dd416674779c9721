"""Files are found from any current folder."""

import os
import subprocess
from pathlib import Path

import preloaded_python
import pytest

from lm_core.user_error import UserError
from lm_course.locations import (
    PROJECT,
    below_recipes,
    handout,
    home_folder,
    in_home,
    project_packages,
    recipe_file,
    shipped,
    shown,
)

STAGE = "__path__ = stand_ins_first(__name__, __path__)\n"


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """site-packages as a wheel leaves it: our packages beside others."""
    root = tmp_path / "site-packages"
    for name, text in (("lm_core", ""), ("lm_course", ""), ("stage", STAGE), ("other", "")):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text(text)
    for name in ("assignments", "recipes"):
        (root / "lm_course" / name).mkdir()
    (root / "assignments").mkdir()  # somebody else's
    return root


def test_home_in_a_checkout_is_its_root(toy_course, tmp_path: Path) -> None:
    root = toy_course.root / "checkout"
    (root / "assignments").mkdir(parents=True)
    (root / "docs" / "deep").mkdir(parents=True)
    outside = toy_course.root / "outside"
    outside.mkdir()
    assert home_folder(root, root) == root
    assert home_folder(root, root / "docs" / "deep") == root
    assert home_folder(root, outside) == outside


def test_home_inside_a_workspace_is_the_folder_that_holds_it(
    site_packages: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    (mine / "workspace" / "stage" / "deep").mkdir(parents=True)
    for folder in ("workspace", "workspace/stage", "workspace/stage/deep"):
        assert home_folder(site_packages, mine / folder) == mine
    assert home_folder(site_packages, mine) == mine
    begun = tmp_path / "begun"  # with drills, and no assignment yet
    (begun / "workspace" / "drills" / "a1").mkdir(parents=True)
    assert home_folder(site_packages, begun / "workspace" / "drills" / "a1") == begun
    other = tmp_path / "workspace" / "project"  # a folder of the same name, without our stages
    (other / "other").mkdir(parents=True)
    assert home_folder(site_packages, other) == other


def test_a_wheel_has_its_folders_inside(site_packages: Path) -> None:
    assert shipped("assignments", site_packages) == site_packages / "lm_course" / "assignments"
    assert shipped("assignments") == PROJECT / "assignments"


def test_only_our_packages_count_in_site_packages(site_packages: Path) -> None:
    names = [folder.name for folder in project_packages(site_packages)]
    assert names == ["lm_core", "lm_course", "stage"]
    table = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    ours = [folder.name for folder in project_packages()]
    assert len(ours) >= 10 and all(f"| {name} |" in table for name in ours)


def test_paths_are_told_from_the_current_folder(
    toy_course, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = toy_course.root
    below = root / "docs"
    below.mkdir()
    monkeypatch.chdir(below)
    assert handout("t1", "2-count", root) == "../assignments/t1/README.md#2-count"
    assert shown(root / "workspace" / "x.py", root) == "../workspace/x.py"
    monkeypatch.chdir(root)
    assert handout("t1", root=root) == "assignments/t1/README.md"
    monkeypatch.chdir(tmp_path_factory.mktemp("outside"))
    assert handout("t1", root=root) == f"{root}/assignments/t1/README.md"


def test_runs_and_recipes_from_inside_and_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = Path("recipes/demo_cpu.toml")
    monkeypatch.chdir(PROJECT / "docs")
    assert in_home("runs") / "demo" == Path("../runs/demo")
    assert recipe_file(demo) == Path("../recipes/demo_cpu.toml")
    monkeypatch.chdir(tmp_path)
    assert in_home("runs") == Path("runs")
    assert recipe_file(demo) == PROJECT / demo
    assert recipe_file(Path("demo_cpu")) == PROJECT / demo
    for missing in ("mine.toml", "recipes/none.toml", "demo"):
        with pytest.raises(UserError, match=f"{missing}: no such recipe; .* names: .*demo_cpu,"):
            recipe_file(Path(missing))
    assert below_recipes(Path("recipes/none.toml")) == PROJECT / "recipes/none.toml"
    (tmp_path / "recipes").mkdir()
    (tmp_path / demo).write_text("")
    assert recipe_file(demo) == demo, "a person's own comes first"


def test_commands_from_an_empty_folder_and_from_below_the_root(
    toy_course, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Check the output of each command, and that nothing is written elsewhere."""
    empty = tmp_path_factory.mktemp("empty")
    elsewhere = f"{toy_course.root}/assignments/t1/README.md"
    places = ((empty, "", elsewhere), (toy_course.root / "toy_stage", "../", "../assignments/t1"))
    for folder, up, handouts in places:
        told = {
            command: toy_course.lm(folder, *command.split())
            for command in ("start t1", "check t1 2", "hint t1 2", "progress t1")
        }
        assert f"{up}workspace/toy_stage/counting.py" in told["start t1"]
        assert f"checking your files in {up}workspace/" in told["check t1 2"]
        assert f"at    {up}workspace/toy_stage/counting.py:" in told["check t1 2"]
        for screen in told.values():
            assert handouts in screen
        assert (folder / up / "workspace" / "progress.toml").is_file()
    assert [path.name for path in empty.iterdir()] == ["workspace"]
    (empty / "workspace" / "toy_stage" / "counting.py").write_text("1 / 0\n")
    below = toy_course.lm(empty / "workspace" / "toy_stage", "check", "t1.2")
    assert "at    counting.py:1 in <module>" in below, "no line of Python's own import system"


def test_lm_steps_and_lm_chat_from_an_empty_folder(tmp_path: Path) -> None:
    def lm(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return preloaded_python.run(["-m", "lm_course", *arguments], tmp_path, path)

    assert "lm pretrain" in lm("steps").stdout
    assert "lm pretrain" in lm("steps", "recipes/demo_cpu.toml").stdout
    assert "runs/demo: no checkpoint there" in lm("chat").stderr
    assert "runs/demo/shards" in lm("ablate").stderr
    assert "lm: nothing/recipe.toml" in lm("run", "nothing/recipe.toml").stderr
    assert not list(tmp_path.iterdir())
