"""All steps, one module each, found by looking into two folders.

`listed_steps` reads each step's name, command and help from the source text, so that `lm --help`
imports none of the steps; `load_steps` imports them.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lm_core.user_error import UserError
from lm_course.pipeline.step import Step

FOLDERS = ("data_steps", "model_steps")
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


def step_modules() -> list[str]:
    """Return the dotted names of the modules that define a step."""
    return [
        f"lm_course.{folder}.{path.stem}"
        for folder in FOLDERS
        for path in sorted((LM_COURSE / folder).glob("*.py"))
        if path.stem != "__init__" and _definition(path) is not None
    ]


def listed_steps() -> list[ListedStep]:
    """Return the name, command and help of every step, without importing it."""
    found = []
    for module in step_modules():
        path = LM_COURSE / f"{module.partition('.')[2].replace('.', '/')}.py"
        definition = _definition(path)
        assert definition is not None
        given = {keyword.arg: keyword.value for keyword in definition.keywords}
        found.append(ListedStep(*(ast.literal_eval(given[key]) for key in ListedStep._fields)))
    return sorted(found, key=lambda step: _place(step.name))


def _place(name: str) -> int:
    return WHOLE_PATH.index(name) if name in WHOLE_PATH else len(WHOLE_PATH)


def _definition(path: Path) -> ast.Call | None:
    """Return the call in `STEP = Step(...)` in this file; None if it defines no step."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.Assign)
            and [ast.unparse(target) for target in statement.targets] == ["STEP"]
            and isinstance(statement.value, ast.Call)
        ):
            return statement.value
    return None


@cache
def load_steps() -> dict[str, Step]:
    """Import all steps and return them by name."""
    steps = [importlib.import_module(module).STEP for module in step_modules()]
    return {step.name: step for step in sorted(steps, key=lambda step: _place(step.name))}


def named(name: str) -> Step:
    """Return the step of this name; if there is none, raise UserError with the list of names."""
    steps = load_steps()
    if name not in steps:
        raise UserError(f"no step {name!r}; the steps are {', '.join(steps)}")
    return steps[name]
