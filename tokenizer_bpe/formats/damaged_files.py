"""Checks for damage in a vocabulary file, with one clear ValueError for each fault.

This module is given, not a lesson; `tokenizer_file` and `foreign_parts` call it.

What this leaves out: the meaning of a file (`foreign_parts`), and whether merges and vocabulary
match (`input_checks`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_core.user_error import UserError


def an_object(value: Any, where: str) -> dict[str, Any]:
    """Return the value if it is a JSON object, else raise ValueError."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {_kind(value)}, expected an object {{...}}")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    """Return the value if it is a JSON list, else raise ValueError."""
    if not isinstance(value, list):
        raise UserError(f"{where} is {_kind(value)}, expected a list [...]")
    return value


def token_ids(value: Any, where: str) -> dict[str, int]:
    """Return the value, an object token -> id.

    Raises ValueError if an id is not a whole number, or if two tokens have the same id.
    """
    ids = an_object(value, where)
    token_of: dict[int, str] = {}
    for token, token_id in ids.items():
        if type(token_id) is not int:  # True is an int, too
            raise UserError(f"{where}: the id of {token!r} is {token_id!r}, not a whole number")
        if token_id in token_of:
            both = f"{token_of[token_id]!r} and {token!r}"
            raise UserError(f"{where}: {both} have the same id, {token_id}; give each its own id")
        token_of[token_id] = token
    return ids


def added_tokens(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the value, a list of objects with `content`, a string, and `id`, a whole number."""
    tokens = [an_object(token, f"{where}: a token") for token in a_list(value, where)]
    for token in tokens:
        if not isinstance(token.get("content"), str) or type(token.get("id")) is not int:
            raise UserError(
                f"{where}: {token!r} needs `content`, a string, and `id`, a whole number"
            )
    return tokens


def check_special_ids(
    special_tokens: Mapping[str, int], token_of: Mapping[int, bytes], path: Path
) -> None:
    """Raise ValueError if a special token has the id of another token, special or ordinary."""
    taken = {token_id: repr(token) for token_id, token in token_of.items()}
    for text, token_id in special_tokens.items():
        if token_id in taken:
            raise UserError(
                f"{path}: the special token {text!r} has the id {token_id}, which "
                f"{taken[token_id]} already has; give it another"
            )
        taken[token_id] = f"the special token {text!r}"


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    names = {str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return {**names, list: "a list", dict: "an object"}[type(value)]
