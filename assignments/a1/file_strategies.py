"""Strategies of Hypothesis for a1.17 and a1.18: the content of GPT-2's files and of tokenizer.json.

What this leaves out: the functions that read and write them (test_drawn_files.py).
"""

import json
from typing import Any

from hypothesis import strategies as st
from text_strategies import GPT2, GPT4, with_wrong
from vocabulary_strategies import vocabularies


def _printable_characters() -> list[str]:
    """Byte -> character, as GPT-2's `bytes_to_unicode` has it, by counting."""
    shown, others = [], 0
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            shown.append(chr(byte))
        else:
            shown.append(chr(256 + others))
            others += 1
    return shown


PRINTABLE = _printable_characters()


def printable(token: bytes) -> str:
    """Return GPT-2's printable form of a token."""
    return "".join(map(PRINTABLE.__getitem__, token))


@st.composite
def vocabularies_for_files(
    draw: st.DrawFn,
    text: str | None = None,
    special: list[str] | None = None,
    how: str = "at random",
) -> dict[str, Any]:
    """Vocabularies without two merges that make the same token: readers differ about them, and
    no trainer makes any.
    """
    made = draw(vocabularies(text, special, how))
    first_to_make: dict[bytes, tuple[bytes, bytes]] = {}
    for merge in made["merges"]:
        first_to_make.setdefault(b"".join(merge), merge)
    made = {**made, "merges": list(first_to_make.values())}
    return {**made, "special_tokens": _told_apart(made)}


def _told_apart(made: dict[str, Any]) -> list[str]:
    """Return the special tokens that nothing else in a file resembles."""
    merged = {left + right for left, right in made["merges"]}
    ordinary = merged | {bytes([byte]) for byte in range(256)}
    names = {printable(token) for token in made["vocab"].values()}
    return [
        token
        for token in made["special_tokens"]
        if token.encode() not in ordinary
        and (printable(token.encode()) == token or token not in names)
    ]


def named_ids(vocab: dict[int, bytes], special_tokens: list[str]) -> dict[str, int]:
    """Token in printable characters, special ones in plain text -> id."""
    special = {token.encode(): token for token in special_tokens}
    return {special.get(token) or printable(token): token_id for token_id, token in vocab.items()}


@st.composite
def gpt2_files(draw: st.DrawFn) -> dict[str, bytes | None]:
    """The content of vocab.json and merges.txt, sometimes with a mistake."""
    made = draw(vocabularies_for_files())
    if draw(st.integers(0, 3)) == 2:  # a merge that begins like the first line
        made = draw(vocabularies_for_files("#version 2", how="from the left"))
    special = [token for token in made["special_tokens"] if not set(token) <= set(PRINTABLE)]
    vocab = json.dumps(named_ids(made["vocab"], special), ensure_ascii=draw(st.booleans()))
    lines = [f"{printable(left)} {printable(right)}" for left, right in made["merges"]]
    mistakes = ["a", "a b c", "a  b", " a b", "a b ", "a\tb", "東 a", "ab zz", "#a", "# #version"]
    if draw(st.integers(0, 3)) == 2:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(mistakes)))
    for _ in range(draw(st.integers(0, 2))):
        lines.insert(draw(st.integers(0, len(lines))), "")
    first = draw(st.sampled_from(["#version: 0.2\n", "#version: 0.2\r\n", "", "#version\n"]))
    end_of_line = draw(st.sampled_from(["\n", "\r\n"]))
    merges = first + end_of_line.join(lines) + draw(st.sampled_from(["", end_of_line]))
    files: dict[str, bytes | None] = {"vocab": vocab.encode(), "merges": merges.encode()}
    if draw(st.integers(0, 14)) == 9:
        files[draw(st.sampled_from(["vocab", "merges"]))] = None  # no such file
    return files


def _byte_level(use_regex: bool) -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {**level, "use_regex": use_regex}


def tokenizer_json_of(made: dict[str, Any], pattern: str) -> dict[str, Any]:
    """The content of a tokenizer.json, as the handout shows it."""
    split = {"type": "Split", "pattern": {"Regex": pattern}}
    split |= {"behavior": "Isolated", "invert": False}
    sequence = {"type": "Sequence", "pretokenizers": [split, _byte_level(False)]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    id_of = {token: token_id for token_id, token in made["vocab"].items()}
    added = [
        {"id": id_of[token.encode()], "content": token, **flags, "special": True}
        for token in made["special_tokens"]
    ]
    empty = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    model = {"type": "BPE", **dict.fromkeys(empty), "fuse_unk": False, "byte_fallback": False}
    model |= {"ignore_merges": False, "vocab": named_ids(made["vocab"], made["special_tokens"])}
    model["merges"] = [[printable(left), printable(right)] for left, right in made["merges"]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": _byte_level(True) if pattern == GPT2 else sequence,
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": model,
    }


FOREIGN = (
    ("normalizer", {"type": "NFC"}), ("dropout", 0.1), ("unk_token", "<unk>"),
    ("continuing_subword_prefix", "##"), ("end_of_word_suffix", "</w>"), ("byte_fallback", True),
    ("ignore_merges", True), ("type", "Unigram"), ("type", "WordPiece"),
)  # fmt: skip
HARMLESS = (
    ("dropout", 0), ("dropout", 0.0), ("unk_token", ""), ("continuing_subword_prefix", ""),
    ("end_of_word_suffix", ""), ("fuse_unk", True),
)  # fmt: skip


@st.composite
def tokenizer_json_files(draw: st.DrawFn) -> dict[str, bytes | None]:
    """The content of a tokenizer.json, of several versions, sometimes with a mistake."""
    made = draw(vocabularies_for_files())
    if draw(st.integers(0, 3)) == 1:  # merges that look like a comment
        made = draw(vocabularies_for_files("## #a#", how="from the left"))
    known = set(made["vocab"].values())
    listed = [token for token in made["special_tokens"] if token.encode() in known]
    made["special_tokens"] = listed
    content = tokenizer_json_of(made, draw(st.sampled_from([GPT2, GPT4])))
    model = content["model"]
    if draw(st.booleans()):
        model["merges"] = [" ".join(merge) for merge in model["merges"]]
    if draw(st.booleans()):
        content["added_tokens"].reverse()
    if draw(st.integers(0, 3)) == 2:
        del model["type"]  # as in older files
    if draw(st.integers(0, 3)) == 2:
        for token in content["added_tokens"]:
            token["special"] = False
    changes = draw(st.lists(st.sampled_from(HARMLESS), max_size=2))
    if draw(st.integers(0, 4)) == 3:
        changes.append(draw(st.sampled_from(FOREIGN)))
    for name, value in changes:
        (content if name == "normalizer" else model)[name] = value
    written = json.dumps(content, ensure_ascii=draw(st.booleans())).encode()
    return {"content": draw(with_wrong(st.just(written), st.sampled_from([None, b"{", b"no"])))}
