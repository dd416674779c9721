"""Vocabulary files in the formats of other programs.

- tokenizer.json: the Hugging Face `tokenizers` format, byte-level BPE, which the stages exchange.
- vocab.json and merges.txt: GPT-2's format.
- .tiktoken: a token in base64 and its rank on each line.

Hugging Face files write a token's bytes as printable characters ("Ġdog" for b" dog"); the table is
in `byte_characters`. Merges for which other libraries would give other ids are neither read nor
written (see `input_checks.check_order_of_merges`).

What this leaves out: every other kind of tokenizer; a ValueError names the unsupported part (see
`foreign_parts`).
"""

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lm_core.artifact_paths import atomic_file
from lm_core.special_tokens import END_OF_TEXT, MESSAGE_END, MESSAGE_START
from lm_core.user_error import UserError
from tokenizer_bpe.chat_template import CHAT_TEMPLATE
from tokenizer_bpe.formats.damaged_files import a_list, added_tokens, check_special_ids, token_ids
from tokenizer_bpe.formats.declared_tokens import with_declared_tokens
from tokenizer_bpe.formats.foreign_parts import added_token_ids, adds_no_ids, pattern_of, refuse
from tokenizer_bpe.formats.missing_bytes import with_every_byte
from tokenizer_bpe.formats.pattern_dialects import pattern_to_write
from tokenizer_bpe.formats.unicode_tables import KEY, say_where_tables_differ, unicode_tables
from tokenizer_bpe.inputs.input_checks import check_merges, check_order_of_merges
from tokenizer_bpe.pretokenization import GPT2_PATTERN
from tokenizer_bpe.templates.added_tokens import added_token_rows
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer

MAKE_TOKENIZER = "lm tokenizer train RECIPE"


class Vocabulary(NamedTuple):
    """The contents of a file: id -> bytes with special tokens, merges by priority, special tokens
    in order.
    """

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: list[str]
    pattern: str


def byte_characters() -> dict[int, str]:
    """Return byte -> the printable character that stands for it in Hugging Face files.

    Printable bytes stand for themselves; the other 68 are U+0100, U+0101, ... in order (GPT-2's
    `bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(0x100 + index) for index, byte in enumerate(others)}


BYTE_TO_CHARACTER = byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


def to_printable(token: bytes) -> str:
    """Convert b" dog" -> "Ġdog"."""
    return "".join(map(BYTE_TO_CHARACTER.__getitem__, token))


def from_printable(text: str, where: str) -> bytes:
    """Convert "Ġdog" -> b" dog"; raise ValueError if a character stands for no byte."""
    try:
        return bytes(map(CHARACTER_TO_BYTE.__getitem__, text))
    except KeyError as error:
        raise UserError(
            f"{where}: {text!r} holds {error.args[0]!r}, which stands for no byte; is this a "
            "byte-level BPE vocabulary?"
        ) from None


# Hugging Face tokenizer.json


def write_tokenizer_json(tokenizer: AnyTokenizer, path: Path) -> None:
    """Write tokenizer.json at `path`, and merges.txt next to it, each atomically."""
    for target, content in (
        (path, tokenizer_json(tokenizer)),
        (path.with_name("merges.txt"), merges_text(tokenizer)),
    ):
        with atomic_file(target, "wb") as file:
            file.write(content)


def tokenizer_json(tokenizer: AnyTokenizer) -> bytes:
    """Return the bytes of a tokenizer.json that `tokenizers` can load.

    Raises ValueError if a special token's text is the printable form of an ordinary token, or if
    `tokenizers` would give other ids for the merges.
    """
    check_order_of_merges(tokenizer.merges)
    special_ids = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    entries = Counter(tokenizer.vocab.values())
    made = {left + right for left, right in tokenizer.merges} | {bytes([b]) for b in range(256)}
    vocab: dict[str, int] = {}
    for token_id, token in sorted(tokenizer.vocab.items()):
        # `tokenizers` finds a special token's id by its plain text.
        name = special_ids.get(token_id, to_printable(token))
        hides_ordinary = token_id in special_ids and token in made and entries[token] == 1
        if name in vocab or hides_ordinary:
            raise UserError(
                f"special token {name!r}: tokenizer.json cannot tell it from the ordinary token of "
                "that name; choose another text for it"
            )
        vocab[name] = token_id
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_token_rows({text: i for i, text in special_ids.items()}),
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
            KEY: unicode_tables(),
            "vocab": vocab,
            "merges": [[to_printable(a), to_printable(b)] for a, b in tokenizer.merges],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return byte_level | {"use_regex": use_regex}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """Return the pre-tokenizer: ByteLevel includes GPT-2's pattern; any other is a Split before
    it.
    """
    if pattern == GPT2_PATTERN:
        return _byte_level(use_regex=True)
    written = pattern_to_write(pattern)
    split = {"type": "Split", "pattern": {"Regex": written}, "behavior": "Isolated"}
    return {
        "type": "Sequence",
        "pretokenizers": [split | {"invert": False}, _byte_level(use_regex=False)],
    }


def read_tokenizer_json(path: Path) -> Vocabulary:
    """Read a byte-level BPE tokenizer.json.

    Raises:
        ValueError: the file is missing, not JSON or damaged, or describes something that is not
            plain byte-level BPE; the message names the part.
    """
    content = _read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        found = model.get("type") if isinstance(model, dict) else None
        raise UserError(f"{path}: the model is {found!r}, expected 'BPE', the only supported kind")
    _refuse_foreign_parts(path, content, model)
    say_where_tables_differ(path, model.get(KEY))
    ids = token_ids(model.get("vocab"), f"{path}: model.vocab")
    special = added_tokens(content.get("added_tokens") or [], f"{path}: added_tokens")
    added = added_token_ids(path, with_declared_tokens(path, special, ids), ids)
    vocab = {
        token_id: from_printable(text, f"{path}: vocab")
        for text, token_id in ids.items()
        if text not in added
    }
    vocab |= {token_id: text.encode() for text, token_id in added.items()}
    vocab = with_every_byte(vocab)
    merges = []
    for number, merge in enumerate(a_list(model["merges"], f"{path}: model.merges"), 1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
            raise UserError(f"{path}: merge {number} is {merge!r}, expected two tokens")
        left, right = (from_printable(part, f"{path}: merge {number}") for part in parts)
        merges.append((left, right))
    check_merges(vocab, merges, str(path), lambda index: f"{path}: merge {index + 1}")
    check_order_of_merges(merges, lambda index: f"{path}: merge {index + 1}")
    pattern = pattern_of(path, content.get("pre_tokenizer"))
    return Vocabulary(vocab, merges, sorted(added, key=added.__getitem__), pattern)


def _refuse_foreign_parts(path: Path, content: dict[str, Any], model: dict[str, Any]) -> None:
    """Raise ValueError for parts with which `tokenizers` would give other ids."""
    foreign = [
        f"model.{name}"
        for name in (
            *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
            *("byte_fallback", "ignore_merges"),
        )
        if model.get(name)
    ]
    foreign += ["normalizer"] if content.get("normalizer") else []
    harmless = adds_no_ids(content.get("post_processor"), f"{path}: post_processor")
    foreign += [] if harmless else ["post_processor"]
    refuse(path, foreign)


def tokenizer_hash(path: Path) -> str:
    """Return the SHA-256, as 64 hex digits, of everything that affects the ids: vocabulary, merges,
    special tokens, pattern.

    The layout of the file does not matter: `tokenizers` may load it and write it again.
    """
    found = read_tokenizer_json(Path(path))
    decisive = [
        sorted((token_id, token.hex()) for token_id, token in found.vocab.items()),
        [(left.hex(), right.hex()) for left, right in found.merges],
        found.special_tokens,
        found.pattern,
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def hugging_face_files(
    tokenizer: AnyTokenizer,
    chat_template: str | None = CHAT_TEMPLATE,
    roles: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """Return the files with which `transformers.AutoTokenizer` loads a checkpoint folder, by name.

    Args:
        tokenizer: the tokenizer that they describe.
        chat_template: None for a model that has none.
        roles: special tokens by their role; None for those of our own checkpoints.
    """
    own = {"eos_token": MESSAGE_END, "pad_token": END_OF_TEXT}
    roles_map = (
        dict(roles) if roles is not None else own | {"additional_special_tokens": [MESSAGE_START]}
    )
    roles = own if roles is None else roles
    config = {
        # 4.x has this name, and 5.x still accepts it for its TokenizersBackend.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **({} if chat_template is None else {"chat_template": chat_template}),
        **roles,
    }
    return {
        "tokenizer.json": tokenizer_json(tokenizer),
        "merges.txt": merges_text(tokenizer),
        "tokenizer_config.json": json.dumps(config, indent=2).encode() + b"\n",
        "special_tokens_map.json": json.dumps(roles_map, indent=2).encode() + b"\n",
    }


# GPT-2's vocab.json and merges.txt


def merges_text(tokenizer: AnyTokenizer) -> bytes:
    """Return the merges, one on each line, in printable characters."""
    lines = [f"{to_printable(left)} {to_printable(right)}" for left, right in tokenizer.merges]
    return "\n".join(["#version: 0.2", *lines, ""]).encode()


def read_gpt2_files(vocab_path: Path, merges_path: Path) -> Vocabulary:
    """Read vocab.json and merges.txt; a ValueError names the line that does not match."""
    vocab: dict[int, bytes] = {}
    for text, token_id in token_ids(_read_json(vocab_path), str(vocab_path)).items():
        # Such a file does not mark special tokens: they are those that need no merge.
        printable = all(character in CHARACTER_TO_BYTE for character in text)
        vocab[token_id] = from_printable(text, str(vocab_path)) if printable else text.encode()
    merges, line_numbers = [], []
    for number, line in enumerate(_read_text(merges_path).split("\n"), 1):
        where, line = f"{merges_path}, line {number}", line.removesuffix("\r")
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise UserError(f"{where}: {line!r}, expected two tokens with a space between them")
        merges.append((from_printable(parts[0], where), from_printable(parts[1], where)))
        line_numbers.append(number)

    def name_of_merge(index: int) -> str:
        return f"{merges_path}, line {line_numbers[index]}"

    check_merges(vocab, merges, str(vocab_path), name_of_merge)
    check_order_of_merges(merges, name_of_merge)
    return Vocabulary(vocab, merges, [], GPT2_PATTERN)


# tiktoken ranks


def write_tiktoken_ranks(tokenizer: AnyTokenizer, path: Path) -> None:
    """Write a `.tiktoken` file: every token except the special ones, with its id as its rank.

    Raises ValueError if ids do not follow the order of the merges, since a rank is both, or if a
    token is not made by the merge that its rank implies, because readers would then give other ids.
    """
    check_order_of_merges(tokenizer.merges)
    special = set(tokenizer.special_tokens.values())
    ranks = {token: i for i, token in sorted(tokenizer.vocab.items()) if i not in special}
    order = [ranks[left + right] for left, right in tokenizer.merges]
    if order != sorted(order):
        raise UserError(f"{path}: ids do not follow the order of the merges, as ranks must")
    for made, merge in zip(_merges_of_ranks(path, ranks), tokenizer.merges, strict=False):
        if made != merge:
            raise UserError(
                f"{path}: the merge of {' and '.join(map(repr, merge))} cannot be written: by the "
                f"ranks, {merge[0] + merge[1]!r} is made of {' and '.join(map(repr, made))}"
            )
    with atomic_file(path, "wb") as file:
        for token, rank in ranks.items():
            file.write(base64.b64encode(token) + b" %d\n" % rank)


def read_tiktoken_ranks(path: Path, special_tokens: Mapping[str, int], pattern: str) -> Vocabulary:
    """Read a `.tiktoken` file.

    The file has no merges: the merge that makes a token is the one left after all merges of lower
    rank have been made inside it.

    Raises:
        ValueError: a line is not "base64 rank", a token or a rank is repeated, a special token has
            an id that is taken, or a token is not made of two earlier ones.
    """
    ranks: dict[bytes, int] = {}
    vocab: dict[int, bytes] = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        try:
            written, rank_text = line.split()
            token, rank = base64.b64decode(written, validate=True), int(rank_text)
        except (ValueError, binascii.Error):
            raise UserError(f"{path}, line {number}: {line!r}, expected base64 and rank") from None
        if token in ranks or rank in vocab:
            twice = repr(token) if token in ranks else f"rank {rank}"
            raise UserError(f"{path}, line {number}: {twice} has come before; keep one of the two")
        ranks[token], vocab[rank] = rank, token
    check_special_ids(special_tokens, vocab, path)
    merges = _merges_of_ranks(path, ranks)
    vocab |= {token_id: text.encode() for text, token_id in special_tokens.items()}
    return Vocabulary(vocab, merges, list(special_tokens), pattern)


def _merges_of_ranks(path: Path, ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return for every token of two bytes or more, by rank, the last merge that makes it."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        if len(token) == 1:
            continue
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            lowest = min(joined)
            if lowest >= rank:
                raise UserError(f"{path}: {token!r} is not made of two tokens of lower rank")
            place = joined.index(lowest)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        merges.append((parts[0], parts[1]))
    return merges


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(_read_text(path))
        if isinstance(content, dict):  # half of a surrogate pair is not text
            json.dumps(content.get("added_tokens"), ensure_ascii=False).encode()
        return content
    except (json.JSONDecodeError, UnicodeEncodeError, RecursionError) as error:
        step = f"fetch it again, or make one with `{MAKE_TOKENIZER}`"
        raise UserError(f"{path}: not JSON ({error}); {step}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `{MAKE_TOKENIZER}`") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start}); is this the right file?"
        ) from None
