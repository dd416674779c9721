"""Tokens that only the files next to tokenizer.json declare; `AutoTokenizer` is the oracle."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lm_core.user_error import UserError
from tokenizer_bpe.templates.added_tokens import control_tokens
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, tokenizer_hash, tokenizer_json

BYTES = {byte: bytes([byte]) for byte in range(256)}
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
TEXT = "hi<|im_end|><x> [PAD]<s>  <mask>a"


def token(content: str, special: bool = True, **changes) -> dict:
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, "special": special} | flags | changes


def listed(**changes):
    """Return a tokenizer_config.json with `added_tokens_decoder`."""
    return {"tokenizer_config.json": CLASS | changes}


FOLDERS = {
    "as in the config": listed(
        eos_token="<|im_end|>", added_tokens_decoder={"256": token("<|im_end|>")}
    ),
    "several, out of order": listed(
        added_tokens_decoder={"257": token("<x>"), "256": token("<|im_end|>")}
    ),
    "not special": listed(added_tokens_decoder={"256": token("  ", special=False)}),
    "one that a role makes special": listed(
        pad_token="[PAD]", added_tokens_decoder={"256": token("<|im_end|>")}
    ),
    "roles alone": listed(eos_token="<|im_end|>", pad_token="[PAD]", bos_token="<s>"),
    "roles as objects": listed(
        eos_token=token("<|im_end|>", __type="AddedToken"),
        bos_token=token("<s>", __type="AddedToken"),
    ),
    "more roles": listed(additional_special_tokens=["<x>", "<|im_end|>"], mask_token="<mask>"),
    "the map": {
        "tokenizer_config.json": CLASS,
        "special_tokens_map.json": {"eos_token": "<|im_end|>", "pad_token": token("[PAD]")},
    },
    "the map where the config lists": {
        **listed(added_tokens_decoder={"256": token("<x>")}),
        "special_tokens_map.json": {"eos_token": "<|im_end|>"},
    },
    "added_tokens.json": {
        "tokenizer_config.json": CLASS | {"eos_token": "<|im_end|>"},
        "added_tokens.json": {"<x>": 257, "<|im_end|>": 256},
    },
    "added_tokens.json where the config lists": {
        **listed(added_tokens_decoder={"256": token("<x>")}),
        "added_tokens.json": {"<|im_end|>": 257},
    },
    "an empty role": listed(pad_token="", eos_token="<|im_end|>"),
    "an ordinary token": listed(added_tokens_decoder={"104": token("h")}),
    "nothing": {},
}


def write(folder: Path, files: dict, added: tuple[str, ...] = ()) -> Path:
    (folder / "tokenizer.json").write_bytes(tokenizer_json(Tokenizer(BYTES, [], list(added))))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder / "tokenizer.json"


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_the_folder_is_read_as_auto_tokenizer_reads_it(tmp_path, files):
    path = write(tmp_path, files)
    if not files:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(CLASS))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_hugging_face(path)
    assert ours.encode(TEXT) == theirs(TEXT)["input_ids"]
    added = theirs.added_tokens_decoder
    assert {i: text for text, i in ours.special_tokens.items()} == {
        i: each.content for i, each in added.items()
    }
    special = {each.content for each in added.values() if each.special}
    assert set(control_tokens(ours)) == special


CONFLICTS = {
    "another id": (
        listed(added_tokens_decoder={"300": token("<|im_end|>")}),
        "id 300, but with .*tokenizer.json it gets 257",
    ),
    "an id that another has": (
        listed(added_tokens_decoder={"256": token("<|im_end|>")}),
        "the id 256, but with .* it gets 257",
    ),
    "another id of a token that is there": (
        listed(added_tokens_decoder={"258": token("<x>")}),
        "'<x>' has id 256 in .*tokenizer.json, and 258 in .*tokenizer_config.json",
    ),
    "another flag": (
        listed(added_tokens_decoder={"256": token("<x>", special=False)}),
        "'<x>' has special True in .*tokenizer.json, and False in .*tokenizer_config.json",
    ),
    "white space taken off": (
        listed(added_tokens_decoder={"256": token("<x>", lstrip=True)}),
        "'<x>' has lstrip False in .*, and True in",
    ),
    "white space taken off a new one": (
        listed(mask_token=token("<mask>", lstrip=True)),
        "has added token '<mask>': lstrip",
    ),
    "added_tokens.json": ({"added_tokens.json": {"<y>": 999}}, "added_tokens.json gives .* 999"),
    "an infinite id": ({"added_tokens.json": {"<y>": float("inf")}}, "inf is not the id of an"),
    "half of a pair": (listed(eos_token="\ud800"), "config.json: not valid JSON .*surrogates"),
    "no id": (listed(added_tokens_decoder={"a": token("<y>")}), "'a' is not the id of an added"),
    "no object": (listed(added_tokens_decoder={"257": "<y>"}), "an added token is a string, exp"),
    "no content": (listed(added_tokens_decoder={"257": {}}), "needs `content`, a string"),
}


@pytest.mark.parametrize(("files", "words"), CONFLICTS.values(), ids=CONFLICTS)
def test_files_that_disagree_are_refused_by_name(tmp_path, files, words):
    path = write(tmp_path, files, ("<x>",))
    with pytest.raises(UserError, match=words) as error:
        Tokenizer.from_hugging_face(path)
    assert "\n" not in str(error.value)


def test_our_own_folder_declares_nothing_more(tmp_path):
    ours = Tokenizer(BYTES, [], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    for name, content in hugging_face_files(ours).items():
        (tmp_path / name).write_bytes(content)
    assert Tokenizer.from_hugging_face(tmp_path / "tokenizer.json").vocab == ours.vocab
    (tmp_path / "alone").mkdir()
    ours.save(tmp_path / "alone" / "tokenizer.json")
    hashes = {tokenizer_hash(path) for path in tmp_path.rglob("tokenizer.json")}
    assert len(hashes) == 1


def test_a_file_of_another_name_stands_alone(tmp_path):
    write(tmp_path, FOLDERS["as in the config"])
    (tmp_path / "tokenizer.json").rename(tmp_path / "other.json")
    assert Tokenizer.from_hugging_face(tmp_path / "other.json").special_tokens == {}


def test_json_that_goes_too_deep_is_refused(tmp_path):
    path = write(tmp_path, {})
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("[" * 100_000)
        with pytest.raises(UserError, match=rf"{name}: not .*JSON \(maximum recursion depth"):
            Tokenizer.from_hugging_face(path)


def test_half_of_a_surrogate_pair_in_the_tokenizer_is_refused(tmp_path):
    path = write(tmp_path, {}, ("<x>",))
    path.write_text(path.read_text().replace("<x>", "\\ud800"))
    with pytest.raises(UserError, match=r"tokenizer.json: not JSON .*surrogates"):
        Tokenizer.from_hugging_face(path)
