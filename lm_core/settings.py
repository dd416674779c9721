"""Settings: small frozen pydantic models, each beside the code that it configures, filled from
TOML.

Defaults are overridden by the TOML file, and the file by `--set section.key=value`. An unknown key
is an error that names the nearest known one. What this leaves out: environment variables and
interpolation.
"""

import copy
import difflib
import tomllib
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import pydantic

from lm_core.user_error import UserError


class Settings(pydantic.BaseModel):
    """The base of all settings classes: frozen, without unknown keys or silent conversions ("12" is
    not 12).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)
    without_effect: ClassVar[frozenset[str]] = frozenset()  # fields that do not change any result


SettingsType = TypeVar("SettingsType", bound=Settings)


def load_settings(
    settings_type: type[SettingsType],
    path: Path,
    overrides: list[str] | None = None,
    base: Path | None = None,
) -> SettingsType:
    """Read a TOML file into `settings_type`.

    Args:
        settings_type: the class whose fields name the sections and keys.
        path: the TOML file.
        base: another TOML file, for values that `path` does not give.
        overrides: `section.key=value` strings; a value that is not valid TOML is a plain string.

    Raises:
        ValueError: one line that names the file, the key, what was expected and what was found.
    """
    written = _merged(_read_toml(base), _read_toml(path)) if base else _read_toml(path)
    values = copy.deepcopy(written)
    for override in overrides or []:
        _apply_override(values, override)
    try:
        return settings_type.model_validate(values)
    except pydantic.ValidationError as error:
        problem = first_problem(error, settings_type)
    blamed = "--set" if overrides and _is_valid(settings_type, written) else path
    raise UserError(f"{blamed}: {problem}")


def _is_valid(settings_type: type[Settings], values: dict[str, Any]) -> bool:
    try:
        settings_type.model_validate(values)
    except pydantic.ValidationError:
        return False
    return True


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; recipes/ holds those that exist") from None
    except IsADirectoryError:
        raise UserError(f"{path}: expected a TOML recipe, found a folder") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a TOML recipe, found a file that is not text") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes`; sections are merged, other values replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value
    return result


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(
            f"--set {override}: expected section.key=value, e.g. pretrain.training.steps=100"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for name in names[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: {name} is a value, not a section")
    values[names[-1]] = value


def first_problem(
    error: pydantic.ValidationError, settings_type: type[Settings] | None = None
) -> str:
    """Return one line for the first of pydantic's complaints, with the number of the others.

    An unknown key comes first: if `steps` is missing because somebody wrote `step`, `step` is the
    line to correct.
    """
    problems = error.errors(include_url=False)
    problem = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden" and settings_type is not None:
        known = _known_keys(settings_type, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
        return f"unknown setting {name}; {hint}{more}"
    if problem["type"] == "missing":
        return f"{name} is missing; it has no default{more}"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}{more}".removeprefix(": ")
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name}: {reason}; found {problem['input']!r}{more}"


def _known_keys(settings_type: type[Settings], location: list[str]) -> list[str]:
    """Return the field names of the section at `location`."""
    current: Any = settings_type
    for part in location:
        if not part.isdigit():  # the number of an item in a list, such as scaling.sizes.0
            field = getattr(current, "model_fields", {}).get(part)
            annotation = field.annotation if field else None
            current = next(iter(get_args(annotation)), annotation)  # of a list, or if optional
    return list(getattr(current, "model_fields", []))
