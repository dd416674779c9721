"""All steps, one module each, found by looking into two folders.

`listed_steps` reads each step's name, command and help from the source text, so that `lm --help`
imports none of the steps; `load_steps` imports them.
"""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lm_core.user_error import UserError
from lm_course.pipeline.code_hash import syntax_tree
from lm_course.pipeline.step import Step

FOLDERS = ("data_steps", "model_steps")
GROUPS = ("data", "tokenizer", "scaling")  # of commands: `lm data collect`
LM_COURSE = Path(__file__).parents[1]
WHOLE_PATH = (
    "collect", "instructions", "documents", "tokenizer", "shards", "pretrain", "sft", "dpo",
    "evaluation", "samples", "scaling", "report",
)  # fmt: skip


class ListedStep(NamedTuple):
    """The facts about a step that the command line needs."""

    name: str
    command: str
    help: str


def listed_steps() -> list[ListedStep]:
    """Return the name, command and help of every step, without importing it.

    Raises:
        UserError: a step's file does not say them as the command line needs them.
    """
    return sorted(_steps_by_module().values(), key=lambda step: _place(step.name))


def _steps_by_module() -> dict[str, ListedStep]:
    """Return the dotted name of every module that defines a step, with what is read from it."""
    found: dict[Path, ListedStep] = {}
    for folder in FOLDERS:
        for path in sorted((LM_COURSE / folder).glob("*.py")):
            value = None if path.stem == "__init__" else _assigned_step(path)
            if value is None:
                continue
            step = _read_step(path, value)
            for other, earlier in found.items():
                for what in ("name", "command"):
                    if getattr(step, what) == getattr(earlier, what):
                        raise UserError(
                            f"{path}: {what} is {getattr(step, what)!r}, which is also that of the "
                            f"step in {other.parent.name}/{other.name}; choose another"
                        )
            found[path] = step
    return {f"lm_course.{path.parent.name}.{path.stem}": step for path, step in found.items()}


def _place(name: str) -> int:
    return WHOLE_PATH.index(name) if name in WHOLE_PATH else len(WHOLE_PATH)


def _assigned_step(path: Path) -> ast.expr | None:
    """Return the value of STEP in this file; None if it defines no step."""
    for statement in syntax_tree(path).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if "STEP" in [ast.unparse(target) for target in targets]:
            return statement.value  # type: ignore[attr-defined]
    return None


def _read_step(path: Path, value: ast.expr) -> ListedStep:
    """Return the step that `STEP = Step(name="...", ...)` defines; UserError names its mistake."""
    given = {}
    if isinstance(value, ast.Call):
        given = {keyword.arg: keyword.value for keyword in value.keywords}
    texts = []
    for key in ListedStep._fields:
        node = given.get(key)
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value):
            found = "nothing" if node is None else ast.unparse(node)
            raise UserError(
                f"{path}: {key} of the step should be a plain string, found {found}; write "
                f'STEP = Step({key}="...", ...), because `lm --help` reads it without an import'
            )
        texts.append(node.value)
    step = ListedStep(*texts)
    if not re.fullmatch(rf"lm (({'|'.join(GROUPS)}) )?[a-z][a-z0-9-]*", step.command):
        raise UserError(
            f"{path}: command should be `lm NAME` or `lm GROUP NAME` with a group of "
            f"{', '.join(GROUPS)}, found {step.command!r}"
        )
    return step


@cache
def load_steps() -> dict[str, Step]:
    """Import all steps and return them by name."""
    steps = [importlib.import_module(module).STEP for module in _steps_by_module()]
    return {step.name: step for step in sorted(steps, key=lambda step: _place(step.name))}


def named(name: str) -> Step:
    """Return the step of this name; if there is none, raise UserError with the list of names."""
    steps = load_steps()
    if name not in steps:
        raise UserError(f"no step {name!r}; the steps are {', '.join(steps)}")
    return steps[name]
