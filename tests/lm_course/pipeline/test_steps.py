"""The table of steps: what a name brings along."""

from pathlib import Path

import pytest

from lm_core.settings import load_settings
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.steps import steps_named, steps_to_run

RECIPE = Path(__file__).parents[3] / "recipes/demo_cpu.toml"


def names(overrides: list[str], *wanted: str) -> list[str]:
    return [step.name for step in steps_to_run(wanted, load_settings(Recipe, RECIPE, overrides))]


def test_a_step_on_the_users_own_pages_looks_at_them_first():
    own = ['pages.warc_files=["mine.warc.gz"]']
    assert names(own, "documents") == ["collect", "documents"]
    assert names(own, "collect", "documents") == ["collect", "documents"]
    assert names(own, "tokenizer") == ["tokenizer"], "it does not read them"
    assert names([], "documents") == ["documents"], "collecting takes work: it must be asked for"


def test_an_unknown_step_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no step 'dokuments'; the steps are collect, instr"):
        names([], "dokuments")
    with pytest.raises(ValueError, match="no step"):
        steps_named(["build"])
