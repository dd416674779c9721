"""Every recipe of the project is valid and what its comments say; a section is needed only by its
steps.
"""

import re
from pathlib import Path

import pytest

from lm_core.settings import load_settings
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from lm_course.pipeline.plan import plan
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.step_catalogue import named
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))
TINY_SHAKESPEARE_CHARACTERS = 65

TRAIN_A_MODEL = [path for path in RECIPES if '"pretrain"' in path.read_text(encoding="utf-8")]

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
every_model = pytest.mark.parametrize("path", TRAIN_A_MODEL, ids=lambda path: path.stem)


@every_recipe
def test_its_plan_is_valid_and_its_name_is_that_of_its_file(path: Path) -> None:
    recipe = load_settings(Recipe, path)
    planned = plan([named(name) for name in recipe.run.steps], recipe.sections, Path())
    assert [one.name for one in planned] == recipe.run.steps
    assert recipe.run.name == path.stem.removesuffix("_cpu" if "demo" in path.stem else "")
    assert path.name in path.read_text(encoding="utf-8").partition("[run]")[0]


@every_model
def test_its_comment_says_how_many_parameters_it_has(path: Path) -> None:
    recipe = load_settings(Recipe, path)
    of_characters = TINY_SHAKESPEARE_CHARACTERS + len(SPECIAL_TOKENS)
    is_bpe = recipe.tokenizer.kind == "bpe"
    vocab_size = recipe.tokenizer.vocab_size if is_bpe else of_characters
    shape = recipe.pretrain.model.model_dump()
    parameters = count_parameters(ModelConfig(**shape, vocab_size=vocab_size))
    [said] = re.findall(r"ModelShape: ([\d.]+) M parameters", path.read_text(encoding="utf-8"))
    decimals = len(said.partition(".")[2])
    assert f"{parameters / 1e6:.{decimals}f}" == said


@every_model
def test_the_tokens_that_a_comment_promises_are_those_of_its_steps(path: Path) -> None:
    recipe = load_settings(Recipe, path)
    training, context = recipe.pretrain.training, recipe.pretrain.model.context_length
    tokens = training.steps * training.batch_size * context
    units = {"M": 1e6, "billion": 1e9}
    text = path.read_text(encoding="utf-8")
    for number, unit in re.findall(r"([\d.]+) (M|billion) tokens", text):
        decimals = len(number.partition(".")[2])
        assert f"{tokens / units[unit]:.{decimals}f}" == number
    for number in re.findall(r"#.*?([\d,]+) tokens$", text, re.MULTILINE):
        assert training.batch_size * context == int(number.replace(",", ""))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('[run]\nname = "test"\n' + text)
    return path


MODEL = """
[pretrain.model]
context_length = 64
d_model = 32
num_layers = 1
num_heads = 2
num_kv_heads = 2
d_ff = 64
"""
TRAINING = "[pretrain.training]\nsteps = 1\nbatch_size = 1\nlearning_rate = 1e-3\n"


def test_a_section_without_defaults_is_needed_only_by_its_steps(tmp_path: Path) -> None:
    steps = 'steps = ["text", "tokenizer", "shards"]\n'
    recipe = load_settings(Recipe, written(tmp_path, steps))
    assert recipe.pretrain is None
    assert "pretrain" not in recipe.sections
    assert "shards" in recipe.sections
    with pytest.raises(UserError, match=r"\[pretrain\] is missing; the step 'pretrain' needs it"):
        load_settings(Recipe, written(tmp_path, steps.replace("]", ', "pretrain"]')))
    with pytest.raises(UserError, match=r"pretrain.training is missing; it has no default"):
        load_settings(Recipe, written(tmp_path, steps + MODEL))
    with pytest.raises(UserError, match=r"unknown setting pretrain.modell; did you mean model"):
        load_settings(Recipe, written(tmp_path, steps + TRAINING + MODEL.replace("el]", "ell]")))
