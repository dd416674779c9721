"""Reading another program's config.json: one clear ValueError for a value that is missing, of
another kind, or one that we do not compute with. What this leaves out: what the values mean.
"""

from typing import Any, TypeVar

import pydantic

from lm_core.settings import Settings, first_problem
from lm_core.user_error import UserError

SettingsType = TypeVar("SettingsType", bound=Settings)
MOST_POSITIONS = 1 << 22  # the table of rotary angles, made for every position, then takes 2 GB


def whole_number(
    config: dict[str, Any], key: str, default: int | None = None, smallest: int = 1
) -> int:
    """A whole number of config.json, or `default` where there is one and the key is missing."""
    value = config.get(key, default)
    if key not in config and default is None:
        raise UserError(f"config.json: {key} is missing; it describes no model")
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise UserError(
            f"config.json: {key} must be a whole number from {smallest}, found {value!r}"
        )
    return value


def refuse_value(key: str, found: object, expected: object) -> None:
    """Raise ValueError where a value is not the one that we compute with."""
    if found != expected:
        raise UserError(
            f"config.json: {key} is {found!r}, this code computes {expected!r} only: it would give "
            "other logits"
        )


def made_from(kind: type[SettingsType], /, **values: Any) -> SettingsType:
    """A settings object of these values; ValueError that names config.json where they do not
    fit.
    """
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        problem = first_problem(error)
        raise UserError(f"config.json describes no model: {problem}") from None


def longest_context(given: int, kind: str, original: int, factor: float) -> int:
    """The context of a model whose rotary frequencies are rescaled.

    Files differ in what their own length is: for some it is what the model was trained on before
    (transformers asked for that with "linear"), for others already the rescaled one. Nothing is
    computed differently, so the longer of the two is read. llama3 comes with numbers that do not
    multiply to the length that its makers state, which then stands.

    Args:
        given: the length that the file states.
        kind: "linear", "llama3" or "yarn".
        original: what the model was trained on before.
        factor: how many times as slowly the slow frequencies turn.
    """
    if kind == "llama3" and given > original:
        return given
    return max(given, round(original * factor))


def check_positions(length: int, where: str) -> None:
    """Raise ValueError for a context that no table of rotary angles can be made for."""
    if length > MOST_POSITIONS:
        raise UserError(
            f"{where}: a context of {length:,} tokens is more than the {MOST_POSITIONS:,} that "
            "this code has room for"
        )
