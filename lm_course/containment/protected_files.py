"""The files that the code under test has no reason to open, and the places it may write to.

What this leaves out: a copy of the reference under other names, or within an archive that is not a
wheel.
"""

import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from lm_course.locations import DRILLS, WORKSPACE

OF_ANOTHER_PROCESS = re.compile(r"/proc/(self|thread-self|\d+)/(task/\d+/)?(mem|fd|environ)\b")
DEVICES = "/dev/"
LM_COURSE = Path(__file__).parents[1]


class ProtectedFiles:
    """Says what a file is to the grader.

    Args:
        learner: the folder under test.
        root: the project.
        answers: for each package that the learner writes, its modules and folders that hold
            answers: "merge_training", "compiled".
        started_in: the folder in which the command was started.
    """

    def __init__(
        self,
        learner: Path,
        root: Path,
        answers: Mapping[str, Collection[str]],
        started_in: Path,
    ) -> None:
        packages = [learner / package for package in answers]
        # A folder that also holds the project, such as that of `--impl .`, is not all theirs.
        whole = not root.resolve().is_relative_to(learner.resolve())
        theirs = [learner] if whole else packages
        both = [*map(folder_prefix, theirs), *(str(each.absolute()) + os.sep for each in theirs)]
        self.learner = tuple(dict.fromkeys(both))
        self.root = folder_prefix(root)
        each = [
            rf"/{package}/(?:__pycache__/)?(?:{'|'.join(names)})(?:/|\.py$|\.[\w.-]+\.pyc$)"
            for package, names in answers.items()
        ]
        self._answers = re.compile("|".join(each))
        folders = (LM_COURSE, *(Path(self.root) / name for name in ("assignments", "tests")))
        self.grader = tuple(folder_prefix(folder) for folder in folders)
        self._history = self.root + ".git/"
        self._temporary = folder_prefix(Path(tempfile.gettempdir()))
        homes = (self.root, folder_prefix(started_in), *self.learner)
        self._home = tuple(home for home in homes if not self._temporary.startswith(home))

    def secret(self, path: str) -> str:
        """Return what is wrong with opening this file: "opened ... of the reference"; "" if it may
        be opened.
        """
        found = OF_ANOTHER_PROCESS.match(path) or OF_ANOTHER_PROCESS.match(os.path.realpath(path))
        if found:
            return f"opened {found[0]}"
        path = os.path.realpath(path)
        if path.startswith(self.learner) and not self._in_a_drill(path):
            return ""
        if path.startswith(self.grader[0]):
            return f"opened lm_course/{path[len(self.grader[0]) :]} of the grader"
        if path.startswith(self.grader):
            return f"opened {path[len(self.root) :]} of the suite"
        if path.startswith(self._history):
            return "opened the history of this project (.git)"
        if path.endswith((".whl", ".egg")):
            return f"opened the wheel {Path(path).name}"
        answer = self._answers.search(path)
        if answer:
            name = path[answer.start() + 1 :].replace("__pycache__/", "")
            name = re.sub(r"(\w+)\.[\w.-]+\.pyc$", r"\1.py", name)
            return f"opened {name} of the reference"
        return ""

    def _in_a_drill(self, path: str) -> bool:
        """Return whether this file is in a drill, most of which is the reference; not if that drill
        is the folder under test.
        """
        drills = f"/{WORKSPACE}/{DRILLS}/"
        return drills in path and not any(drills in folder for folder in self.learner)

    def elsewhere(self, path: str) -> str:
        """Return this path if the code under test may not write there; "" if it may."""
        if path.startswith(DEVICES):
            return ""
        path = os.path.realpath(path)
        in_temporary = path.startswith(self._temporary) and not path.startswith(self._home)
        return "" if in_temporary else path


def folder_prefix(path: str | Path) -> str:
    """Return how the paths of all files in a folder begin."""
    return os.path.realpath(path).rstrip(os.sep) + os.sep
