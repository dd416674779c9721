"""Files read and written with str.translate and with templates."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PLAIN = set(range(0x21, 0x7F)) | set(range(0xA1, 0x100)) - {0xAD}
SHIFTED = dict(
    zip((byte for byte in range(256) if byte not in PLAIN), range(256, 324), strict=True)
)
BACK = {**{byte: byte for byte in PLAIN}, **{to: byte for byte, to in SHIFTED.items()}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
UNSUPPORTED = [
    *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("byte_fallback", "ignore_merges"),
]
TEMPLATE: dict[str, Any] = {
    "version": "1.0",
    **dict.fromkeys(["truncation", "padding"]),
    "added_tokens": [],
    **dict.fromkeys(["normalizer", "pre_tokenizer", "post_processor"]),
    "decoder": BYTE_LEVEL | {"use_regex": True},
    "model": {"type": "BPE", **dict.fromkeys(UNSUPPORTED[:4]), "fuse_unk": False}
    | dict.fromkeys(UNSUPPORTED[4:], False),
}


class Vocabulary(NamedTuple):
    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: list[str]
    pattern: str


def to_printable(token: bytes) -> str:
    return str(token, "latin-1").translate(SHIFTED)


def from_printable(text: str, where: str) -> bytes:
    strangers = {ord(character) for character in text} - BACK.keys()
    if strangers:
        raise ValueError(f"{where}: {text!r} has {chr(min(strangers))!r}, which is not a byte")
    return text.translate(BACK).encode("latin-1")


def text_of(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def json_of(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def bytes_of_key(text: str, where: str) -> bytes:
    if all(ord(character) in BACK for character in text):
        return from_printable(text, where)
    return text.encode()


def merge_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    lines = [line.removesuffix("\r") for line in text_of(path).split("\n")]
    begin = lines[0].startswith("#version")
    for number in range(int(begin), len(lines)):
        if lines[number]:
            yield f"{path}, line {number + 1}", lines[number].split(" ")


def read_gpt2_files(vocab_path: Path, merges_path: Path) -> Vocabulary:
    entries = json_of(Path(vocab_path))
    vocab = {number: bytes_of_key(text, str(vocab_path)) for text, number in entries.items()}
    known = set(vocab.values())
    made = {byte.to_bytes() for byte in range(256)}
    merges = []
    for where, sides in merge_lines(Path(merges_path)):
        if len(sides) != 2 or not all(sides):
            raise ValueError(f"{where}: expected two tokens")
        left, right = (from_printable(side, where) for side in sides)
        if not {left, right} <= made:
            raise ValueError(f"{where}: joins a token that no earlier line makes")
        if left + right not in known:
            raise ValueError(f"{where}: {vocab_path} lacks the token that it makes")
        made.add(left + right)
        merges.append((left, right))
    return Vocabulary(vocab, merges, [], GPT2_PATTERN)


def merges_text(tokenizer: Any) -> bytes:
    text = "#version: 0.2\n"
    for sides in tokenizer.merges:
        text += " ".join(map(to_printable, sides)) + "\n"
    return text.encode()


def tokenizer_json(tokenizer: Any) -> bytes:
    content = deepcopy(TEMPLATE)
    specials = {number: text for text, number in tokenizer.special_tokens.items()}
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    content["added_tokens"] = [
        {"id": number, "content": specials[number], **flags, "special": True}
        for number in sorted(specials)
    ]
    if tokenizer.pattern == GPT2_PATTERN:
        content["pre_tokenizer"] = BYTE_LEVEL | {"use_regex": True}
    else:
        split = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}}
        split |= {"behavior": "Isolated", "invert": False}
        steps = [split, BYTE_LEVEL | {"use_regex": False}]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    content["model"]["vocab"] = {
        specials.get(number) or to_printable(token): number
        for number, token in sorted(tokenizer.vocab.items())
    }
    content["model"]["merges"] = [list(map(to_printable, pair)) for pair in tokenizer.merges]
    return json.dumps(content).encode()


def write_tokenizer_json(tokenizer: Any, path: Path) -> None:
    path.write_bytes(tokenizer_json(tokenizer))
    path.with_name("merges.txt").write_bytes(merges_text(tokenizer))


def read_tokenizer_json(path: Path) -> Vocabulary:
    content = json_of(path)
    try:
        model = content["model"]
        strange = [name for name in UNSUPPORTED if model.get(name)]
        strange += ["normalizer"] if content.get("normalizer") else []
        if model.get("type", "BPE") != "BPE" or strange:
            raise ValueError(f"{path}: not plain byte-level BPE: {model.get('type')}, {strange}")
        specials = {each["content"]: each["id"] for each in content.get("added_tokens") or []}
        vocab = {
            number: text.encode() if text in specials else from_printable(text, str(path))
            for text, number in ({**model["vocab"], **specials}).items()
        }
        merges = []
        for merge in model["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            merges.append((from_printable(left, str(path)), from_printable(right, str(path))))
        pre = content["pre_tokenizer"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error!r})") from None
    pattern = GPT2_PATTERN
    if pre["type"] == "Sequence":
        pattern = pre["pretokenizers"][0]["pattern"]["Regex"]
    return Vocabulary(vocab, merges, sorted(specials, key=specials.get), pattern)
