"""Where to find files from any current folder: those of the installation (recipes, assignments) and
the user's own (runs/, workspace/).

A checkout has recipes/ and assignments/ at its root; a wheel has them inside lm_course/. The user's
files go into the home folder. Inside a checkout, that is its root; inside workspace/, the folder
that holds it; anywhere else, the current folder.

What this leaves out: the layout of a run (`lm_core.artifact_paths`).
"""

import os
from pathlib import Path

from lm_core.user_error import UserError

PROJECT = Path(__file__).resolve().parent.parent  # root of a checkout; site-packages for a wheel
ASSIGNMENTS = "assignments"
RECIPES = "recipes"
WORKSPACE = "workspace"
DRILLS = "drills"  # in the workspace
DATA = "data"
DATA_VARIABLE = "LM_DATA"
STAND_INS_LINE = "stand_ins_first("  # in the __init__.py of every stage
NOT_STAGES = ("lm_core", "lm_course")


def shipped(name: str, root: Path = PROJECT) -> Path:
    """Return a folder of the installation, such as "assignments"."""
    in_wheel = root / "lm_course" / name
    return in_wheel if in_wheel.is_dir() else root / name


def home_folder(root: Path = PROJECT, here: Path | None = None) -> Path:
    """Return the folder that holds runs/ and workspace/, as an absolute path.

    Args:
        root: the project.
        here: the folder to start from; None for the current folder.
    """
    here = here or Path.cwd()
    if _is_checkout(root) and here.is_relative_to(root):
        return root
    for folder in (here, *here.parents):
        if folder.name == WORKSPACE and any(
            each.name == DRILLS or is_stage(root / each.name) for each in folder.iterdir()
        ):
            return folder.parent
    return here


def _is_checkout(root: Path) -> bool:
    return shipped(ASSIGNMENTS, root) == root / ASSIGNMENTS


def in_home(name: str | Path) -> Path:
    """Return `name` in the home folder, relative to the current folder, as messages show it."""
    return Path(os.path.relpath(home_folder())) / name


def data_folder() -> Path:
    """Return the folder of downloaded data sets: the one that LM_DATA names, or data/ in the home
    folder.
    """
    given = os.environ.get(DATA_VARIABLE, "")
    return Path(given).expanduser() if given else in_home(DATA)


def shown(path: Path, root: Path = PROJECT) -> str:
    """Return a path as messages show it: relative to the current folder if it is inside the home
    folder, otherwise in full.
    """
    path = path.absolute()
    if not path.is_relative_to(home_folder(root)):
        return path.as_posix()
    return Path(os.path.relpath(path)).as_posix()


def handout(assignment_id: str, section: str = "", root: Path = PROJECT) -> str:
    """Return the handout of an assignment, or a section of it, as messages show it."""
    path = shown(shipped(ASSIGNMENTS, root) / assignment_id / "README.md", root)
    return f"{path}#{section}" if section else path


def below_recipes(path: Path) -> Path:
    """Return the file that recipes/... stands for: the user's own, or else the installation's."""
    if path.exists() or path.parts[:1] != (RECIPES,):
        return path
    return Path(shown(shipped(RECIPES).joinpath(*path.parts[1:])))


def recipe_file(path: Path) -> Path:
    """Return the recipe that is given by a path, or by the name of a file in recipes/.

    Raises UserError if there is no such file.
    """
    if path.exists():
        return path
    is_name = not path.suffix and path.parent == Path()
    found = below_recipes(Path(RECIPES) / f"{path}.toml" if is_name else path)
    if found.exists():
        return found
    there = ", ".join(file.stem for file in sorted(shipped(RECIPES).glob("*.toml")))
    raise UserError(f"{path}: no such recipe; give a path, or one of these names: {there}")


def is_stage(folder: Path) -> bool:
    """Return True for a package of lessons, whose modules the learner's may replace."""
    try:
        return STAND_INS_LINE in (folder / "__init__.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def project_packages(root: Path = PROJECT) -> list[Path]:
    """Return the folders of the project's own packages; site-packages also holds many others."""
    folders = sorted(path.parent for path in root.glob("*/__init__.py"))
    if _is_checkout(root):
        return folders
    return [folder for folder in folders if folder.name in NOT_STAGES or is_stage(folder)]
