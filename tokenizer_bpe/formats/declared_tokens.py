"""Tokens declared by the files next to a tokenizer.json, but missing in it.

`transformers` adds them when it loads the folder: those of `added_tokens_decoder` in
tokenizer_config.json; if that is missing, those of added_tokens.json; and the tokens named by their
role there or in special_tokens_map.json. This module does the same, if all files agree and
`tokenizers` would give a token the declared id.

What this leaves out: files with other names, and the different behavior of `transformers` 4.

Source: `PreTrainedTokenizerBase._from_pretrained` of `transformers` 5, with which a test compares
this module.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_core.user_error import UserError
from tokenizer_bpe.formats.damaged_files import an_object
from tokenizer_bpe.templates.jinja_template import CONFIG_FILE, MAP_FILE, TOKEN_ROLES, json_object

TOKENIZER_FILE = "tokenizer.json"
ADDED_FILE = "added_tokens.json"
LISTED = "added_tokens_decoder"
EXTRA_ROLES = ("extra_special_tokens", "additional_special_tokens")
FLAGS = ("special", "lstrip", "rstrip", "single_word")


class Declared(NamedTuple):
    """A token, the file that declares it, and its id if the file gives one."""

    content: str
    source: Path
    token_id: int | None
    flags: dict[str, bool]


def with_declared_tokens(
    path: Path, tokens: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]
) -> list[Mapping[str, Any]]:
    """Return the `added_tokens` of a tokenizer.json, and those that only the files next to it
    declare.

    Args:
        path: path of the tokenizer.json; with another name, other files are ignored, as in
            `transformers`.
        tokens: its `added_tokens`.
        vocab: its model.vocab, as written.

    Raises:
        ValueError: two files disagree about a token; the message names both.
    """
    if path.name != TOKENIZER_FILE:
        return list(tokens)
    known = {token["content"]: token for token in tokens}
    found = list(tokens)
    free = max([len(vocab), *(token["id"] + 1 for token in tokens)])
    for declared in _declared(path.parent):
        there = known.get(declared.content)
        if there is not None:
            _check_agreement(path, there, declared)
            continue
        expected = vocab.get(declared.content, free)
        if declared.token_id not in (None, expected):
            raise UserError(
                f"{declared.source} gives the added token {declared.content!r} the id "
                f"{declared.token_id}, but with {path} it gets {expected}; the two do not belong "
                "together: add it to `added_tokens` with the right id"
            )
        token = {"id": expected, "content": declared.content} | declared.flags
        known[declared.content] = token
        found.append(token)
        free = max(free, expected + 1)
    return found


def _check_agreement(path: Path, token: Mapping[str, Any], declared: Declared) -> None:
    if declared.token_id is None:  # a role gives only the token's name
        return
    ours = {"id": token["id"]} | {flag: bool(token.get(flag)) for flag in FLAGS}
    theirs = {"id": declared.token_id} | declared.flags
    for what, value in theirs.items():
        if ours[what] != value:
            raise UserError(
                f"the added token {declared.content!r} has {what} {ours[what]} in {path}, and "
                f"{value} in {declared.source}; make the two agree"
            )


def _declared(folder: Path) -> list[Declared]:
    """Return the declared tokens in the order in which `transformers` adds them."""
    config = json_object(folder / CONFIG_FILE)
    roles, roles_of = config, dict.fromkeys(config, folder / CONFIG_FILE)
    listed: list[Declared] = []
    if LISTED in config:
        source = folder / CONFIG_FILE
        tokens = an_object(config[LISTED], f"{source}: {LISTED}")
        for text_id, token in sorted(tokens.items(), key=lambda entry: _id(entry[0], source)):
            listed.append(_of_object(token, source, _id(text_id, source)))
    else:
        described = json_object(folder / MAP_FILE)
        roles = config | described
        roles_of |= dict.fromkeys(described, folder / MAP_FILE)
    named = [
        _named(token, roles_of[role])
        for role in (*TOKEN_ROLES, *EXTRA_ROLES)
        for token in _tokens_of(roles.get(role))
    ]
    special = {token.content for token in named}
    if LISTED not in config:
        source = folder / ADDED_FILE
        added = json_object(source)
        for content, token_id in sorted(added.items(), key=lambda entry: _id(entry[1], source)):
            flags = dict.fromkeys(FLAGS, False) | {"special": content in special}
            listed.append(Declared(content, source, _id(token_id, source), flags))
    return [token for token in listed + named if token.content]  # an empty text is not a token


def _tokens_of(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and "content" not in value:  # a model's own roles, by name
        return list(value.values())
    return [value]


def _named(token: Any, source: Path) -> Declared:
    """Return a token that a role names, as its text or as an object."""
    if isinstance(token, str):
        return Declared(token, source, None, dict.fromkeys(FLAGS, False) | {"special": True})
    found = _of_object(token, source, None)
    return found._replace(flags=found.flags | {"special": True})


def _of_object(token: Any, source: Path, token_id: int | None) -> Declared:
    found = an_object(token, f"{source}: an added token")
    if not isinstance(found.get("content"), str):
        raise UserError(f"{source}: the added token {token!r} needs `content`, a string")
    flags = {flag: bool(found.get(flag)) for flag in FLAGS}
    return Declared(found["content"], source, token_id, flags)


def _id(value: Any, source: Path) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):  # a JSON number may be infinite
        raise UserError(f"{source}: {value!r} is not the id of an added token") from None
