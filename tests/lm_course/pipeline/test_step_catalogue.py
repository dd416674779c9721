"""Steps are found by looking into their folders; the command line reads them without importing."""

import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.settings import load_settings
from lm_core.user_error import UserError
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.step_catalogue import listed_steps, load_steps, named

PROJECT = Path(__file__).parents[3]
RECIPE = PROJECT / "recipes/demo_cpu.toml"


def test_what_is_read_is_what_is_imported() -> None:
    listed = {step.name: (step.command, step.help) for step in listed_steps()}
    assert listed == {step.name: (step.command, step.help) for step in load_steps().values()}
    assert list(listed) == list(load_steps())


def test_a_section_belongs_to_one_step() -> None:
    sections = [section for step in load_steps().values() for section in step.settings]
    assert len(sections) == len(set(sections))
    assert set(sections) | {"run"} == set(Recipe.model_fields)
    for step in load_steps().values():
        assert set(step.reads_sections) <= set(sections) - set(step.settings)


def test_the_command_line_imports_no_step() -> None:
    code = "import sys, lm_course.cli; sys.exit(any('_steps.' in name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)
    assert done.returncode == 0


def test_an_unknown_step_is_one_line() -> None:
    with pytest.raises(UserError, match="no step 'poetry'; the steps are collect, "):
        named("poetry")
    with pytest.raises(UserError, match="no step 'poetry'"):
        load_settings(Recipe, RECIPE, ['run.steps=["collect", "poetry"]'])


def test_a_section_of_a_step_that_is_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for steps that must be listed: a short list of the usual steps may be intended."""
    monkeypatch.setattr("lm_course.pipeline.recipe.WHOLE_PATH", ("collect",))
    words = r"\[tokenizer\] is given, but run.steps does not list 'tokenizer': the step would not"
    with pytest.raises(UserError, match=words):
        load_settings(Recipe, RECIPE, ['run.steps=["collect"]'])
    monkeypatch.undo()
    load_settings(Recipe, RECIPE, ['run.steps=["collect"]'])
