"""The entries of a competition, checked before anything is trained.

An entry is a recipe, or a folder with a learner's files, which replace the project's as `--impl`
does. Of a recipe, only [pretrain] and `shards.training_share` count; the folder's own
`best_verse.toml`, if there is one, counts likewise. Everything else, and of [pretrain] the device
and `validation_tokens`, is that of recipes/shakespeare_best_verse.toml: all entries have the same
tokens of the text, of which `training_share` may leave out some for training, and are validated on
the same ones.

What this leaves out: entries with other tokenizers, which would have to be compared by their bits
per byte alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from data_pipeline.sources.plain_text import file_texts, text_files
from lm_core.settings import Settings, load_settings
from lm_core.user_error import UserError
from lm_course.data_steps.text import found_text_files
from lm_course.locations import (
    RECIPES,
    WORKSPACE,
    below_recipes,
    in_home,
    is_stage,
    project_packages,
    shipped,
    shown,
)
from lm_course.pipeline.recipe import Recipe

BASE = Path(RECIPES) / "shakespeare_best_verse.toml"
ENTRIES = Path(RECIPES) / "best_verse"
OWN_RECIPE = "best_verse.toml"  # in a learner's folder
DATA_SECTIONS = ("text", "tokenizer", "shards")
OWN_SECTIONS = ("pretrain", *DATA_SECTIONS)
SHARED_OF_PRETRAIN = {"validation_tokens", "device"}
# A recipe of which only these sections count; an unknown one is still an error.
EntryRecipe = pydantic.create_model(
    "EntryRecipe",
    __base__=Settings,
    **{name: (Any, None) for name in Recipe.model_fields if name not in OWN_SECTIONS},
    **{name: (Recipe.model_fields[name].annotation, ...) for name in OWN_SECTIONS},
)


@dataclass(frozen=True)
class Entry:
    """An entry.

    Attributes:
        name: the name of its file or folder.
        source: the file or folder.
        stand_ins: the folder with a learner's files; None for a recipe.
        sections: section -> its settings, for those that decide its result.
    """

    name: str
    source: Path
    stand_ins: Path | None
    sections: Mapping[str, Any]

    @property
    def tokens_per_step(self) -> int:
        """Return the number of tokens that an update reads."""
        pretrain = self.sections["pretrain"]
        return pretrain.training.batch_size * pretrain.model.context_length


def default_entries() -> list[str]:
    """Return the names of the entries in recipes/best_verse."""
    return sorted(path.stem for path in shipped(RECIPES).joinpath(ENTRIES.name).glob("*.toml"))


def load_base(overrides: Sequence[str] | None = None) -> Any:
    """Return the recipe that all entries share."""
    return load_settings(Recipe, below_recipes(BASE), list(overrides or []))


def load_entries(given: Sequence[str], overrides: Sequence[str] | None = None) -> list[Entry]:
    """Read the entries.

    Args:
        given: for each, the name of a file in recipes/best_verse, or the path of a recipe or of a
            folder.
        overrides: `section.key=value` strings, which change every entry.

    Raises:
        UserError: fewer than two entries, two of one name, one that is not there or has a wrong
            setting, other data or another tokenizer.
    """
    if len(given) < 2:
        raise UserError(
            f"a competition has at least two entries, got {len(given)} ({', '.join(given)}); name "
            "another recipe or folder"
        )
    base = load_base(overrides)
    entries: dict[str, Entry] = {}
    for text in given:
        entry = _load_entry(text, base, list(overrides or []))
        if entry.name in entries:
            raise UserError(
                f"{text}: the entry {entries[entry.name].source} is also called {entry.name!r}; "
                "rename one of the two"
            )
        entries[entry.name] = entry
    return list(entries.values())


def check_text(base: Any, num_rounds: int) -> None:
    """Raise UserError if the text is not there, or if it lacks a character of a prompt, for which a
    tokenizer of characters has no token.

    Args:
        base: the recipe that all entries share.
        num_rounds: number of rounds, each of which has its prompt.
    """
    files = text_files(found_text_files(base.text))
    if not base.samples.prompts:
        raise UserError("samples.prompts is empty; give a prompt, with which the verses begin")
    if base.tokenizer.kind != "characters":
        return
    lacking = set("".join(prompts_of(base.samples, num_rounds)))
    for text in (text for file in files for text in file_texts(file)):
        lacking = {character for character in lacking if character not in text}
        if not lacking:
            return
    if lacking:
        raise UserError(
            f"samples.prompts has {min(lacking)!r}, which does not occur in the text; give other "
            """prompts, such as --set 'samples.prompts=["the ", "a "]'"""
        )


def prompts_of(samples: Any, num_rounds: int) -> list[str]:
    """Return the prompt of each round; if there are more rounds than prompts, they come again."""
    return [samples.prompts[number % len(samples.prompts)] for number in range(num_rounds)]


def _load_entry(text: str, base: Settings, overrides: list[str]) -> Entry:
    source = _source_of(text)
    name = source.resolve().name if source.is_dir() else source.stem
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(
            f"{text}: the name of an entry has letters, digits, '.', '-' and '_' only; rename it"
        )
    stand_ins = source if source.is_dir() else None
    recipe: Path | None = source
    if stand_ins is not None:
        _check_stand_ins(stand_ins)
        own = stand_ins / OWN_RECIPE
        recipe = own if own.is_file() else None
    sections = _sections_of(recipe, base, overrides)
    if sections["pretrain"].training.precision == "auto":
        raise UserError(
            f"{text}: pretrain.training.precision is auto, which measures anew in every run, so "
            'its verses could not be repeated; name "float32" or "bfloat16"'
        )
    return Entry(name, source, stand_ins, sections)


def _source_of(text: str) -> Path:
    """Return the file or folder that an argument names."""
    path = Path(text).expanduser()
    places = [path, below_recipes(path)]
    if text == WORKSPACE:
        places = [in_home(WORKSPACE)]
    elif not path.suffix and path.parent == Path():  # a name
        places = [below_recipes(ENTRIES / f"{text}.toml"), *places]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise UserError(
            f"{text}: no such entry; give one of {', '.join(default_entries())}, the path of a "
            "recipe, or a folder with files of your own"
        )
    return found


def _check_stand_ins(folder: Path) -> None:
    stages = [package.name for package in project_packages() if is_stage(package)]
    if not any(list((folder / stage).rglob("*.py")) for stage in stages):
        raise UserError(
            f"{folder}: no file here replaces one of the project's; expected modules in one of "
            f"the folders {', '.join(stages)}"
        )


def _sections_of(recipe: Path | None, base: Any, overrides: list[str]) -> dict[str, Any]:
    """Return the sections of an entry, whose data must be those of the competition."""
    merged = base
    if recipe is not None:
        try:
            merged = load_settings(EntryRecipe, recipe, overrides, below_recipes(BASE))
        except UserError as error:
            if not str(error).startswith(tuple(f"{recipe}: {name}" for name in DATA_SECTIONS)):
                raise
            shared = f"the text and the tokenizer of every entry are those of {BASE}"
            raise UserError(f"{error} ({shared})") from None
    ours, theirs = _shared(base), _shared(merged)
    for key in (key for key in ours if ours[key] != theirs[key]):
        raise UserError(
            f"{recipe}: {key} is {theirs[key]!r}, but {ours[key]!r} in "
            f"{shown(below_recipes(BASE))}; it is the same for all entries: remove it, or change "
            f"it for all with --set {key}=VALUE"
        )
    return {name: getattr(merged, name) for name in OWN_SECTIONS} | {"samples": base.samples}


def _shared(recipe: Any) -> dict[str, Any]:
    """Return "section.key" -> value of what must be the same for all entries."""
    sections = {name: getattr(recipe, name).model_dump() for name in DATA_SECTIONS}
    del sections["shards"]["training_share"]
    sections["pretrain"] = recipe.pretrain.model_dump(include=SHARED_OF_PRETRAIN)
    return {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()
    }
