"""Settings come from defaults, then TOML, then overrides; a mistake gives one line that says what
to do.
"""

import re
from pathlib import Path

import pydantic
import pytest

from lm_core.settings import Settings, load_settings


class Pretrain(Settings):
    steps: int = 10
    learning_rate: float = 1e-3


class Size(Settings):
    width: int


class Recipe(Settings):
    name: str
    pretrain: Pretrain = Pretrain()
    sizes: list[Size] = pydantic.Field(default_factory=list)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "demo"\n[pretrain]\nsteps = 20\n')
    return path


def problem(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        load_settings(Recipe, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


def test_toml_wins_over_defaults_and_overrides_win_over_toml(recipe: Path) -> None:
    settings = load_settings(Recipe, recipe, ["pretrain.steps=30", "name=other"])
    assert settings == Recipe(name="other", pretrain=Pretrain(steps=30, learning_rate=1e-3))


def test_unknown_key_names_the_nearest(recipe: Path) -> None:
    assert problem(recipe, ["pretrain.lerning_rate=1.0"]) == (
        "--set: unknown setting pretrain.lerning_rate; did you mean learning_rate?"
    )
    assert problem(recipe, ["pretrian.steps=1"]) == (
        "--set: unknown setting pretrian; did you mean pretrain?"
    )


def test_unknown_key_far_from_all_lists_those_that_exist(recipe: Path) -> None:
    assert problem(recipe, ["pretrain.zzz=1"]) == (
        "--set: unknown setting pretrain.zzz; expected one of learning_rate, steps"
    )


def test_a_misspelt_required_key_is_named_before_what_it_leaves_missing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('nmae = "demo"\n')
    assert problem(path) == "FILE: unknown setting nmae; did you mean name? (and 1 more)"


def test_unknown_key_inside_a_list_of_sections(recipe: Path) -> None:
    assert problem(recipe, ["sizes=[{width = 4, widht = 4}]"]) == (
        "--set: unknown setting sizes.0.widht; did you mean width?"
    )


def test_the_example_in_the_hint_is_a_setting_of_the_demo(recipe: Path) -> None:
    from lm_course.pipeline.recipe import Recipe as WholeRecipe

    example = re.search(r"e\.g\. (\S+)", problem(recipe, ["nonsense"]))[1]
    load_settings(WholeRecipe, Path("recipes/demo_cpu.toml"), [example])


def test_wrong_type_says_what_was_found(recipe: Path) -> None:
    assert problem(recipe, ['pretrain.steps="many"']) == (
        "--set: pretrain.steps: input should be a valid integer; found 'many'"
    )
    assert "valid integer" in problem(recipe, ["pretrain.steps=1.5"])


def test_a_mistake_of_the_files_is_not_blamed_on_an_override(recipe: Path) -> None:
    recipe.write_text('name = "demo"\n[pretrain]\nstepz = 20\n')
    expected = "FILE: unknown setting pretrain.stepz; did you mean steps?"
    assert problem(recipe, ["pretrain.steps=3"]) == expected


def test_a_file_that_is_not_text(recipe: Path) -> None:
    recipe.write_bytes(b"\x1f\x8b\x08")
    assert problem(recipe) == "FILE: expected a TOML recipe, found a file that is not text"


def test_several_problems_are_counted(recipe: Path) -> None:
    assert problem(recipe, ["pretrain.a=1", "pretrain.b=1"]).endswith("(and 1 more)")


def test_missing_setting_missing_file_and_bad_toml(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text("[pretrain]\n")
    assert problem(recipe) == "FILE: name is missing; it has no default"
    recipe.write_text("[pretrain\n")
    assert problem(recipe).startswith("FILE: not valid TOML: ")
    assert problem(tmp_path / "none.toml").endswith(
        "no such recipe; recipes/ holds those that exist"
    )


def test_malformed_override(recipe: Path) -> None:
    assert "expected section.key=value" in problem(recipe, ["pretrain.steps"])
    assert "name is a value, not a section" in problem(recipe, ["name.steps=1"])


def test_settings_are_frozen(recipe: Path) -> None:
    settings = load_settings(Recipe, recipe)
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "other"
