"""The rules for folders in docs/architecture.md hold, and the READMEs list every file."""

import ast
import re
from pathlib import Path

import pytest

from lm_course.learning.assignment_file import assignment_ids, load_assignment

PROJECT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in PROJECT.glob("*/__init__.py"))
STAGES = [path for path in PACKAGES if path.name not in ("lm_core", "lm_course")]
SUBFOLDERS = sorted(path.parent for package in PACKAGES for path in package.glob("*/__init__.py"))
MOST_FILES = 12  # in one folder


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(PROJECT)) for path in paths]


def modules_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")} - {"__init__.py"}


def files_of_tables(readme: str) -> dict[str, list[str]]:
    """Map each folder ("" for the top level) to the files that the README's tables list for it."""
    found: dict[str, list[str]] = {"": []}
    for table in re.findall(
        r"^\| (?:lesson|file|folder) \|.*\n\|[-|]+\n((?:\|.*\n)+)", readme, re.M
    ):
        folder = ""
        for row in table.splitlines():
            cells = [cell.strip() for cell in row.strip("|").split(" | ")]
            if re.fullmatch(r"`\w+/`", cells[0]):
                folder = cells[0].strip("`/")
            cell = cells[1] if folder else cells[0]
            found.setdefault(folder, []).extend(re.findall(r"`(\w+\.py)`", cell))
    return found


@pytest.mark.parametrize("folder", PACKAGES + SUBFOLDERS, ids=names(PACKAGES + SUBFOLDERS))
def test_a_folder_shows_no_more_than_a_dozen_files(folder: Path) -> None:
    assert len(modules_in(folder)) <= MOST_FILES, "this folder serves two purposes: split it in two"


@pytest.mark.parametrize("folder", SUBFOLDERS, ids=names(SUBFOLDERS))
def test_a_subfolder_serves_one_purpose_that_it_names(folder: Path) -> None:
    assert len(modules_in(folder)) >= 2, "one file needs no folder"
    assert not list(folder.glob("*/*.py")), "folders are one level deep"
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    row = f"| `{folder.relative_to(PROJECT)}` | {' '.join((said or '').split())} |"
    assert row in text, f"docs/architecture.md should have the row {row}"


def test_the_table_of_folders_names_no_other() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+/\w+)` \|", text, re.M)) == names(SUBFOLDERS)


@pytest.mark.parametrize("package", PACKAGES, ids=names(PACKAGES))
def test_the_readme_lists_every_file_once(package: Path) -> None:
    listed = files_of_tables((package / "README.md").read_text(encoding="utf-8"))
    folders = {"": package, **{f.name: f for f in SUBFOLDERS if f.parent == package}}
    for name in sorted(listed.keys() | folders.keys()):
        files = modules_in(folders[name]) if name in folders else set()
        assert sorted(listed.get(name, [])) == sorted(files), (
            f"{package.name}/README.md: one row for each file of {package.name}/{name}"
        )


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_the_top_of_a_stage_holds_its_lessons(stage: Path) -> None:
    """Its only other files are given files that a lesson imports, marked in the README's table."""
    text = (stage / "README.md").read_text(encoding="utf-8")
    given = set(re.findall(r"^\| `(\w+\.py)` \(given\) \|", text, re.M))
    lessons = modules_in(stage) - given
    sources = [(stage / name).read_text(encoding="utf-8") for name in lessons]
    for name in given:
        imported = f"{stage.name}.{Path(name).stem} import"
        assert any(imported in source for source in sources), f"no lesson imports {name}: move it"


@pytest.mark.parametrize("assignment", [load_assignment(name) for name in assignment_ids()])
def test_graded_modules_are_lessons(assignment) -> None:
    stage = PROJECT / assignment.package
    text = (stage / "README.md").read_text(encoding="utf-8")
    for module in assignment.modules:
        assert (stage / f"{module}.py").is_file()
        assert f"`{module}.py` (given)" not in text


def test_a_file_that_the_readme_leaves_out_is_seen() -> None:
    lessons = "| lesson | what |\n|---|---|\n| `a.py` | x |\n"
    rows = "| `f/` | `b.py`, `c.py` | y |\n|  | `d.py` | z |\n"
    folders = f"| folder | file | what |\n|---|---|---|\n{rows}"
    found = {"": ["a.py"], "f": ["b.py", "c.py", "d.py"]}
    assert files_of_tables(f"{lessons}\n{folders}\nProse.\n") == found
