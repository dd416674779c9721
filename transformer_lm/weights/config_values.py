"""Reading values of another program's config.json, with one clear ValueError for a value that is
missing, has the wrong type, or is not supported.

What this leaves out: the meaning of the values.
"""

from typing import Any, TypeVar

import pydantic

from lm_core.settings import Settings, first_problem
from lm_core.user_error import UserError

SettingsType = TypeVar("SettingsType", bound=Settings)
MOST_POSITIONS = 1 << 22  # the table of rotary angles of every position then takes 2 GB


def whole_number(
    config: dict[str, Any], key: str, default: int | None = None, smallest: int = 1
) -> int:
    """Return a whole number of config.json, or `default` if there is one and the key is missing."""
    value = config.get(key, default)
    if key not in config and default is None:
        raise UserError(f"config.json: {key} is missing, so it does not describe a model")
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise UserError(
            f"config.json: {key} must be a whole number from {smallest}, found {value!r}"
        )
    return value


def refuse_value(key: str, found: object, expected: object) -> None:
    """Raise ValueError if a value is not the supported one."""
    if found != expected:
        raise UserError(
            f"config.json: {key} is {found!r}, but only {expected!r} is supported: the logits "
            "would differ"
        )


def made_from(kind: type[SettingsType], /, **values: Any) -> SettingsType:
    """Return a settings object of these values; raise ValueError, naming config.json, if they do
    not fit.
    """
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        problem = first_problem(error)
        raise UserError(f"config.json does not describe a model: {problem}") from None


def longest_context(given: int, kind: str, original: int, factor: float) -> int:
    """Return the context length of a model with rescaled rotary frequencies.

    Files differ in the meaning of their own length: in some it is the length of the original
    training (which transformers required for "linear"), in others the rescaled one. The computation
    is the same, so the longer of the two is used. For llama3, the factor times the original length
    is not the length that its makers state, so the stated length is used.

    Args:
        given: the length that the file states.
        kind: "linear", "llama3" or "yarn".
        original: the length of the original training.
        factor: the factor by which the slow frequencies are slowed down.
    """
    if kind == "llama3" and given > original:
        return given
    return max(given, round(original * factor))


def check_positions(length: int, where: str) -> None:
    """Raise ValueError for a context length that is too large for a table of rotary angles."""
    if length > MOST_POSITIONS:
        raise UserError(
            f"{where}: a context of {length:,} tokens is more than the {MOST_POSITIONS:,} that "
            "this code has room for"
        )
