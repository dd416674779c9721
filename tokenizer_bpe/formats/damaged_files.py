"""What can be broken in a file that holds a vocabulary: one clear ValueError each.

Given, not a lesson: `tokenizer_file` and `foreign_parts` call it. What this leaves out: what a file
means (`foreign_parts`), and whether merges and vocabulary belong together (`input_checks`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_core.user_error import UserError


def an_object(value: Any, where: str) -> dict[str, Any]:
    """The value, a JSON object; ValueError where it is none."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {_kind(value)}, expected an object {{...}}")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    """The value, a JSON list; ValueError where it is none."""
    if not isinstance(value, list):
        raise UserError(f"{where} is {_kind(value)}, expected a list [...]")
    return value


def token_ids(value: Any, where: str) -> dict[str, int]:
    """The value, an object token -> id.

    Raises ValueError where an id is no whole number, or where two tokens have the same.
    """
    ids = an_object(value, where)
    token_of: dict[int, str] = {}
    for token, token_id in ids.items():
        if type(token_id) is not int:  # True is an int, too
            raise UserError(f"{where}: the id of {token!r} is {token_id!r}, no whole number")
        if token_id in token_of:
            both = f"{token_of[token_id]!r} and {token!r}"
            raise UserError(f"{where}: {both} have the same id, {token_id}; give each its own")
        token_of[token_id] = token
    return ids


def added_tokens(value: Any, where: str) -> list[dict[str, Any]]:
    """The value, a list of objects with `content`, a text, and `id`, a whole number."""
    tokens = [an_object(token, f"{where}: a token") for token in a_list(value, where)]
    for token in tokens:
        if not isinstance(token.get("content"), str) or type(token.get("id")) is not int:
            raise UserError(f"{where}: {token!r} needs `content`, a text, and `id`, a whole number")
    return tokens


def check_special_ids(
    special_tokens: Mapping[str, int], token_of: Mapping[int, bytes], path: Path
) -> None:
    """Raise ValueError where a special token has the id of another token, special or ordinary."""
    taken = {token_id: repr(token) for token_id, token in token_of.items()}
    for text, token_id in special_tokens.items():
        if token_id in taken:
            raise UserError(
                f"{path}: the special token {text!r} is given the id {token_id}, which "
                f"{taken[token_id]} has; give it another"
            )
        taken[token_id] = f"the special token {text!r}"


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return {**names, list: "a list", dict: "an object"}[type(value)]
