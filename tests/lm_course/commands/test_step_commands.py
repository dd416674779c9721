"""`lm pretrain` with a depth, and with --find-learning-rate; the other commands run one step."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline.sources import page_files
from lm_core.settings import load_settings
from lm_core.user_error import UserError
from lm_course.cli import app
from lm_course.commands import step_commands
from lm_course.locations import recipe_file
from lm_course.model_steps import rate_finder
from lm_course.pipeline.recipe import Recipe

DEMO = Path("recipes/demo_cpu.toml")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    seen: list[tuple] = []
    monkeypatch.setattr(step_commands, "run_named_steps", lambda *given: seen.append(given))
    monkeypatch.setattr(step_commands, "print_funnel", lambda paths: None)
    monkeypatch.setattr(rate_finder, "find_rate", lambda *given: seen.append(given))
    return seen


def test_a_depth_is_a_setting_of_the_recipe(calls):
    changes = ["--set", "pretrain.training.seed=1"]
    done = CliRunner().invoke(app, ["pretrain", "mine.toml", "--depth", "3", *changes])
    assert done.exit_code == 0, done.output
    given = ["pretrain.training.seed=1", "pretrain.depth=3"]
    assert calls == [(Path("mine.toml"), ["pretrain"], given, [], False, None)]
    CliRunner().invoke(app, ["pretrain", "--force"])
    assert calls[1:] == [(DEMO, ["pretrain"], [], ["pretrain"], False, None)]


def test_the_finder_gets_the_recipe_with_its_changes(calls):
    done = CliRunner().invoke(app, ["pretrain", "--find-learning-rate", "--depth", "2"])
    assert done.exit_code == 0, done.output
    assert calls == [(recipe_file(DEMO), ["pretrain.depth=2"])]


@pytest.mark.parametrize("flag", ["--force", "--wandb"])
def test_the_finder_refuses_what_it_would_ignore(calls, flag):
    done = CliRunner().invoke(app, ["pretrain", "--find-learning-rate", flag])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).endswith(f"keeps no model and no metrics; remove {flag}")
    assert calls == []


def test_a_depth_beside_the_layers_of_a_recipe_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["pretrain", "--depth", "6"])
    assert isinstance(done.exception, UserError)
    assert "depth = 6 is the number of layers, but model.num_layers = 3" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_other_steps_have_no_depth(calls):
    assert CliRunner().invoke(app, ["sft", "--depth", "3"]).exit_code == 2
    CliRunner().invoke(app, ["sft"])
    assert calls == [(DEMO, ["sft"], None, [], False, None)]


def test_pages_from_a_path_replace_those_of_the_recipe(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("crawl").mkdir()
    Path("crawl/a.html").touch()
    Path('c:\\é "b".jsonl').touch()
    given = ["--from", "crawl/", "--from", 'c:\\é "b".jsonl', "--set", "pages.paths=x"]
    done = CliRunner().invoke(app, ["data", "build", *given])
    assert done.exit_code == 0, done.output
    [(recipe, steps, changes, *rest)] = calls
    assert (recipe, steps, rest) == (DEMO, ["documents"], [[], False, None])
    pages = load_settings(Recipe, recipe_file(DEMO), ['pages.warc_files=["y"]', *changes[1:]]).pages
    assert pages.paths == ["crawl", 'c:\\é "b".jsonl']
    CliRunner().invoke(app, ["data", "build", "mine.toml"])
    assert calls[1:] == [(Path("mine.toml"), ["documents"], [], [], False, None)]


def test_your_own_files_are_chosen_before_a_stage_is_imported(calls, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<p>words")
    order = []
    monkeypatch.setattr(step_commands, "set_stand_ins", lambda folder: order.append(folder))
    monkeypatch.setattr(page_files, "page_files", lambda paths: order.append(paths))
    arguments = ["data", "build", "--from", str(tmp_path), "--impl", "mine"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert order == ["mine", [str(tmp_path)]]
