"""Steps are found by looking into their folders; the command line reads them without importing."""

import os
import subprocess
import sys
from pathlib import Path

import preloaded_python
import pytest

from lm_core.settings import load_settings
from lm_core.user_error import UserError
from lm_course.pipeline import step_catalogue
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


STEP = 'STEP = Step(name="one", command="lm one", help="Do it.", run=run)\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            STEP.replace('help="Do it.", ', ""),
            "two.py: help of the step should be .*, found nothing",
        ),
        (
            STEP.replace('"Do it."', '""'),
            "help of the step should be a plain string, found ''; write ",
        ),
        (
            STEP.replace('"Do it."', "f'Do {it}.'"),
            r"help of .* found f'Do \{it\}.'; write STEP = Step",
        ),
        (STEP.replace('"lm one"', "COMMAND"), "command of the step .* plain string, found COMMAND"),
        (STEP.replace('"one"', "1"), "name of the step should be a plain string, found 1"),
        (STEP.replace('name="one"', '"one"'), "name of the step should be .*, found nothing"),
        ("STEP = make_step\n", "name of the step should be a plain string, found nothing"),
        ("STEP: Step = make_step()\n", "name of the step should be a plain string, found nothing"),
        (STEP.replace("lm one", "lm poems one"), "command should be `lm NAME` or .*'lm poems one'"),
        (STEP.replace("lm one", "one"), "command should be `lm NAME` or .*, found 'one'"),
        ("def run(:\n", "two.py: line 1: not valid Python: "),
        ("# caf\udce9\n", "two.py: not valid Python: 'utf-8' codec can't decode byte 0xe9"),
        ("a = 1\0\n", "two.py:.* not valid Python: source code .*null byte"),
        (STEP.replace("lm one", "lm two"), "two.py: name is 'one', .* step in data_steps/one.py; "),
        (
            STEP.replace('"one"', '"two"'),
            "command is 'lm one', .* in data_steps/one.py; choose ano",
        ),
    ],
)
def test_a_step_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setattr(step_catalogue, "LM_COURSE", tmp_path)
    for folder, name, source in (("data", "one", STEP), ("model", "two", text)):
        (tmp_path / f"{folder}_steps").mkdir()
        (tmp_path / f"{folder}_steps" / f"{name}.py").write_text(source, errors="surrogateescape")
    with pytest.raises(UserError, match=told) as caught:
        listed_steps()
    assert str(caught.value).startswith(f"{tmp_path / 'model_steps' / 'two.py'}: ")
    assert "\n" not in str(caught.value)


def test_every_command_says_that_a_step_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "data_steps").mkdir()
    (tmp_path / "data_steps" / "one.py").write_text("STEP = Step()\n")
    code = (
        "import sys; from pathlib import Path; from lm_course.pipeline import step_catalogue; "
        f"step_catalogue.LM_COURSE = Path({str(tmp_path)!r}); "
        "from lm_course.cli import main; main(['--help'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = preloaded_python.run(["-c", code], tmp_path, environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"lm: {tmp_path / 'data_steps' / 'one.py'}: name of the step ")
    assert done.stderr.count("\n") == 1
