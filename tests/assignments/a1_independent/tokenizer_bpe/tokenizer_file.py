"""Files of tokenizers: GPT-2's `vocab.json` and `merges.txt`, and `tokenizer.json`."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizer_bpe.input_checks import BYTE_VALUES, read_file_text
from tokenizer_bpe.pretokenization import GPT2_PATTERN

if TYPE_CHECKING:
    from tokenizer_bpe.tokenizer import Tokenizer

VERSION_LINE = "#version: 0.2"
UNSUPPORTED_IN_MODEL = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
UNSUPPORTED_IN_ADDED_TOKENS = ("single_word", "lstrip", "rstrip")

Pair = tuple[bytes, bytes]


class Vocabulary(NamedTuple):
    """What a file says about a tokenizer."""

    vocab: dict[int, bytes]
    merges: list[Pair]
    special_tokens: list[str]
    pattern: str


@cache
def _characters() -> tuple[str, ...]:
    """The printable character of each byte."""
    as_it_is = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(BYTE_VALUES) if value not in as_it_is]
    return tuple(
        chr(value) if value in as_it_is else chr(0x100 + others.index(value))
        for value in range(BYTE_VALUES)
    )


@cache
def _values() -> dict[str, int]:
    """Printable character -> byte."""
    return {character: value for value, character in enumerate(_characters())}


def to_printable(token: bytes) -> str:
    """The token with one printable character for each byte."""
    characters = _characters()
    return "".join(characters[value] for value in token)


def from_printable(text: str, where: str) -> bytes:
    """The token that printable characters stand for; `where` names the file in an error."""
    values = _values()
    for character in text:
        if character not in values:
            raise ValueError(f"{where}: the character {character!r} in {text!r} stands for no byte")
    return bytes(values[character] for character in text)


def _read_json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    text = read_file_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _read_vocab(
    entries: Mapping[str, Any], special_ids: Mapping[str, int], where: str
) -> dict[int, bytes]:
    """Id -> bytes, from printable keys; special tokens and what is not printable are text."""
    values = _values()
    vocab: dict[int, bytes] = {}
    for key, token_id in entries.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise ValueError(f"{where}: the id of {key!r} is {token_id!r}, not a whole number")
        if token_id in vocab:
            raise ValueError(f"{where}: two tokens have the id {token_id}")
        is_text = special_ids.get(key) == token_id or not all(sign in values for sign in key)
        vocab[token_id] = key.encode("utf-8") if is_text else from_printable(key, where)
    return vocab


def read_gpt2_files(vocab_path: Path, merges_path: Path) -> Vocabulary:
    """The vocabulary of a `vocab.json` and the merges of a `merges.txt`."""
    vocab = _read_vocab(_read_json_object(vocab_path), {}, str(vocab_path))
    known = {bytes([value]) for value in range(BYTE_VALUES)}
    tokens = set(vocab.values())
    merges: list[Pair] = []
    for number, line in enumerate(read_file_text(merges_path).split("\n"), start=1):
        content = line.removesuffix("\r")
        if not content or (number == 1 and content.startswith("#version")):
            continue
        where = f"{merges_path}, line {number}"
        left, right = _merge_of_line(content, where)
        for part in (left, right):
            if part not in known:
                raise ValueError(f"{where}: no earlier line makes {to_printable(part)!r}")
        if left + right not in tokens:
            raise ValueError(f"{where}: {to_printable(left + right)!r} is not in {vocab_path}")
        known.add(left + right)
        merges.append((left, right))
    return Vocabulary(vocab, merges, [], GPT2_PATTERN)


def _merge_of_line(line: str, where: str) -> Pair:
    """The two tokens of a line such as `l ow`."""
    parts = line.split(" ")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{where}: {line!r} is not two tokens with one space between them")
    return from_printable(parts[0], where), from_printable(parts[1], where)


def merges_text(tokenizer: "Tokenizer") -> bytes:
    """The content of a `merges.txt`."""
    lines = [VERSION_LINE]
    lines += [f"{to_printable(left)} {to_printable(right)}" for left, right in tokenizer.merges]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _byte_level(use_regex: bool) -> dict[str, Any]:
    """The part of a `tokenizer.json` that turns bytes into printable characters."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """The part of a `tokenizer.json` that cuts words."""
    if pattern == GPT2_PATTERN:
        return _byte_level(use_regex=True)
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _vocab_entries(tokenizer: "Tokenizer") -> dict[str, int]:
    """Token -> id, in order of id: special tokens as text, others in printable characters."""
    special = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    entries = {text: token_id for token_id, text in special.items()}
    for token_id in sorted(tokenizer.vocab):
        if token_id in special:
            continue
        key = to_printable(tokenizer.vocab[token_id])
        if key in tokenizer.special_tokens:
            raise ValueError(f"the special token {key!r} is written like the token {token_id}")
        entries.setdefault(key, token_id)
    return dict(sorted(entries.items(), key=lambda entry: entry[1]))


def _added_token(text: str, token_id: int) -> dict[str, Any]:
    """The entry of a special token."""
    return {
        "id": token_id,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def tokenizer_json(tokenizer: "Tokenizer") -> bytes:
    """The content of a `tokenizer.json` that the library `tokenizers` loads."""
    by_id = sorted(tokenizer.special_tokens.items(), key=lambda entry: entry[1])
    merges = [[to_printable(left), to_printable(right)] for left, right in tokenizer.merges]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, token_id) for text, token_id in by_id],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern),
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": _vocab_entries(tokenizer),
            "merges": merges,
        },
    }
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def read_tokenizer_json(path: Path) -> Vocabulary:
    """The tokenizer that a `tokenizer.json` describes, if it is plain byte-level BPE."""
    content = _read_json_object(path)
    where = str(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ValueError(f"{where}: the model is not BPE")
    _refuse(content, ("normalizer",), where)
    _refuse(model, UNSUPPORTED_IN_MODEL, where)
    special_ids: dict[str, int] = {}
    for added in sorted(content.get("added_tokens") or [], key=lambda entry: entry["id"]):
        _refuse(added, UNSUPPORTED_IN_ADDED_TOKENS, where)
        special_ids[added["content"]] = added["id"]
    vocab = _read_vocab(model["vocab"], special_ids, where)
    for text, token_id in special_ids.items():
        if vocab.setdefault(token_id, text.encode("utf-8")) != text.encode("utf-8"):
            raise ValueError(f"{where}: {text!r} and another token have the id {token_id}")
    merges = [_merge_of_entry(entry, where) for entry in model["merges"]]
    return Vocabulary(vocab, merges, list(special_ids), _read_pattern(content, where))


def _refuse(settings: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """A ValueError if one of the named settings is in use."""
    for name in names:
        value = settings.get(name)
        if value not in (None, False, 0, ""):
            raise ValueError(f"{where}: {name} is {value!r}, which plain byte-level BPE has not")


def _merge_of_entry(entry: str | list[str], where: str) -> Pair:
    """A merge, written as `["l", "o"]` or as `"l o"`."""
    return _merge_of_line(entry if isinstance(entry, str) else " ".join(entry), where)


def _read_pattern(content: Mapping[str, Any], where: str) -> str:
    """The pattern by which the file cuts words."""
    steps = content.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    byte_level = parts[-1] if parts else {}
    if byte_level.get("type") == "ByteLevel" and not byte_level.get("add_prefix_space"):
        cuts = byte_level.get("use_regex", True)
        if len(parts) == 1 and cuts:
            return GPT2_PATTERN
        if len(parts) == 2 and not cuts and parts[0].get("type") == "Split":
            pattern = parts[0].get("pattern", {}).get("Regex")
            way = (parts[0].get("behavior"), bool(parts[0].get("invert")))
            if pattern and way in (("Isolated", False), ("Removed", True)):
                return pattern
    raise ValueError(f"{where}: pre_tokenizer is not a byte-level one: {steps!r}")
