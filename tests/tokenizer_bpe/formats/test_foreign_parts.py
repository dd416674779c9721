"""A tokenizer.json is rejected if `tokenizers` gives other ids for it, and read otherwise."""

import json
import tempfile
from pathlib import Path

import pytest
import tokenizers
from hypothesis import event, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tokenizer_bpe.merge_training import train_bpe_from_counts
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN, gpt4_pattern
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, tokenizer_json

SPECIAL = ["<e>", "<f>"]
TEXT = "the other, <e> the 12 <f>x  \n éthe<e>"


def tokenizer_with(pattern):
    """Return a tokenizer with the merge of ", ", two words for every pattern here."""
    counts = {" the": 9, "the": 5, " other": 3, "12": 2, ", ": 2}
    return Tokenizer(*train_bpe_from_counts(counts, 266, SPECIAL), SPECIAL, pattern)


FILE = tokenizer_json(tokenizer_with(GPT2_PATTERN))


@pytest.fixture
def content():
    """Return the contents of a tokenizer.json, which a test may change."""
    return json.loads(FILE)


def read_by_us(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Tokenizer.from_hugging_face(path)


def read_by_them(content):
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def added(content, text, **changes):
    """Change the added token `text`."""
    (token,) = [token for token in content["added_tokens"] if token["content"] == text]
    token.update(changes)


def of_model(**changes):
    return lambda content: content["model"].update(changes)


def with_whole_word(content):
    """Add a word that no merge makes."""
    content["model"]["vocab"]["Ġ12"] = 266
    content["model"]["ignore_merges"] = True


def template(*pieces):
    """Return a post-processor with the ids of a text, A, and of special tokens."""
    single = [
        {"Sequence" if piece == "A" else "SpecialToken": {"id": piece, "type_id": 0}}
        for piece in pieces
    ]
    named = {"<e>": {"id": "<e>", "ids": [264], "tokens": ["<e>"]}}
    pair = [{"Sequence": {"id": each, "type_id": 0}} for each in "AB"]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def before(content, *steps, **byte_level):
    """Put pre-tokenizers in front of ByteLevel."""
    last = BYTE_LEVEL | {"use_regex": False} | byte_level
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, last]}


def split(pattern, behavior="Isolated"):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


FOREIGN = {
    "normalizer": (lambda c: c.update(normalizer={"type": "NFD"}), "has normalizer"),
    "dropout": (of_model(dropout=0.99), "has model.dropout"),
    "prefix": (of_model(continuing_subword_prefix="h", merges=[]), "has model.continuing_subword"),
    "suffix": (of_model(end_of_word_suffix="e", merges=[]), "has model.end_of_word_suffix"),
    "whole words": (with_whole_word, "has model.ignore_merges"),
    "post-processor": (
        lambda c: c.update(post_processor=template("<e>", "A")),
        "has post_processor",
    ),
    "post-processors": (
        lambda c: c.update(
            post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, template("A", "<e>")]}
        ),
        "has post_processor",
    ),
    "RoBERTa": (
        lambda c: c.update(
            post_processor={"type": "RobertaProcessing", "sep": ["<e>", 264], "cls": ["<f>", 265]}
            | {"trim_offsets": True, "add_prefix_space": False}
        ),
        "has post_processor",
    ),
    "lstrip": (lambda c: added(c, "<e>", lstrip=True), "has added token '<e>': lstrip"),
    "rstrip": (lambda c: added(c, "<e>", rstrip=True), "has added token '<e>': rstrip"),
    "single word": (lambda c: added(c, "<f>", single_word=True), "token '<f>': single_word"),
    "prefix space": (
        lambda c: c["pre_tokenizer"].update(add_prefix_space=True),
        "has pre_tokenizer: add_prefix_space",
    ),
    "no words": (lambda c: c["pre_tokenizer"].update(use_regex=False), "without use_regex"),
    "no pre-tokenizer": (lambda c: c.update(pre_tokenizer=None), r"the pre-tokenizer is \[\]"),
    "digits without words": (
        lambda c: before(c, {"type": "Digits", "individual_digits": True}),
        "has pre_tokenizer: Digits, and ByteLevel without use_regex",
    ),
    "two splits": (
        lambda c: before(c, split({"Regex": "h"}), split({"Regex": "e"})),
        r"the pre-tokenizer is \['Split', 'Split', 'ByteLevel'\]",
    ),
    "split and words": (
        lambda c: before(c, split({"Regex": r"h|[^h]"}), use_regex=True),
        "has pre_tokenizer: Split, and ByteLevel with use_regex",
    ),
    "split away": (
        lambda c: before(c, split({"Regex": r"h|[^h]"}, "Removed")),
        "has pre_tokenizer: Split Removed",
    ),
    "string": (lambda c: before(c, split({"String": "h"})), "Split by a String"),
    "a look back": (
        lambda c: before(c, split({"Regex": r"(?<=h)e|[\s\S]"})),
        r"the pattern .* has \(\?<=, which we do not read as Oniguruma does",
    ),
}


@pytest.mark.parametrize(("change", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_gives_other_ids_is_refused_by_name(content, change, message, tmp_path):
    expected = read_by_us(content, tmp_path).encode(TEXT)
    assert read_by_them(content).encode(TEXT).ids == expected
    change(content)
    assert read_by_them(content).encode(TEXT).ids != expected, "no need to reject this"
    with pytest.raises(ValueError, match=message) as caught:
        read_by_us(content, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))
    assert "\n" not in str(caught.value)


def resaved_by_transformers(content):
    """Add the post-processor, truncation and padding that transformers saves from its last call."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in hugging_face_files(tokenizer_with(GPT2_PATTERN)).items():
            Path(folder, name).write_bytes(text)
        theirs = AutoTokenizer.from_pretrained(folder)
        theirs(["the", "the other"], padding=True, truncation=True, max_length=1000)
        theirs.save_pretrained(folder)
        saved = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["post_processor"] and saved["truncation"] and saved["padding"]
    content.update(saved)


HARMLESS = {
    "as transformers saves it": resaved_by_transformers,
    "offsets": lambda c: c.update(post_processor=BYTE_LEVEL | {"use_regex": True}),
    "empty template": lambda c: c.update(
        post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, template("A")]}
    ),
    "empty affixes": of_model(continuing_subword_prefix="", end_of_word_suffix="", dropout=0.0),
    "one unknown token for many": of_model(fuse_unk=True),
    "all normalized": lambda c: [added(c, text, normalized=True) for text in SPECIAL],
    "one normalized": lambda c: added(c, "<f>", normalized=True),
    "not special": lambda c: added(c, "<f>", special=False),
    "not in the vocabulary": lambda c: [c["model"]["vocab"].pop(text) for text in SPECIAL],
    "a list of one": lambda c: before(c, use_regex=True),
    "split by the same pattern": lambda c: before(c, split({"Regex": GPT2_PATTERN})),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_no_ids_is_read(content, change, tmp_path):
    expected = read_by_us(content, tmp_path).encode(TEXT)
    change(content)
    assert read_by_us(content, tmp_path).encode(TEXT) == read_by_them(content).encode(TEXT).ids
    assert read_by_us(content, tmp_path).encode(TEXT) == expected


@pytest.mark.parametrize("individual", [True, False])
def test_digits_before_the_words_are_one_pattern(content, individual, tmp_path):
    """As in SmolLM2's file; the pattern is compared in test_pretokenization."""
    before(content, {"type": "Digits", "individual_digits": individual}, use_regex=True)
    ours, theirs = read_by_us(content, tmp_path), read_by_them(content)
    for text in (TEXT, "the  12  other", "12 12, 1  2\n 3"):
        assert ours.encode(text) == theirs.encode(text).ids
    (tmp_path / "again.json").write_bytes(tokenizer_json(ours))
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again.json"))
    assert again.encode("the  12  other").ids == theirs.encode("the  12  other").ids


@pytest.mark.parametrize("pattern", [GPT4_PATTERN, gpt4_pattern(1), r"\w+|\W", r"[\s\S]{1,3}"])
def test_patterns_that_lose_nothing_are_read(pattern, tmp_path):
    content = json.loads(tokenizer_json(tokenizer_with(pattern)))
    ours = read_by_us(content, tmp_path)
    assert ours.encode(TEXT) == read_by_them(content).encode(TEXT).ids


@pytest.mark.parametrize("pattern", [r"\w+|\s+", "a|.", r"(h)|[^h]", r"\p{L}{1,3}+|.", "h$|\\W"])
def test_patterns_that_leave_gaps_or_differ_are_read(content, pattern, tmp_path):
    """The text between two matches is a word; for the rest, see test_pattern_dialects."""
    before(content, split({"Regex": pattern}))
    ours = read_by_us(content, tmp_path)
    for text in (TEXT, "", "\n", "h\nhh .,- hhhh"):
        assert ours.encode(text) == read_by_them(content).encode(text).ids
        assert ours.decode(ours.encode(text)) == text


def test_a_pattern_that_is_none(content, tmp_path):
    before(content, split({"Regex": "(h"}))
    with pytest.raises(ValueError, match=r"tokenizer.json: the pattern '\(h' has a \( without its"):
        read_by_us(content, tmp_path)


def test_an_added_token_that_tokenizers_knows_by_another_id(content, tmp_path):
    added(content, "<e>", id=999)
    assert read_by_them(content).encode("<e>").ids == [264]
    with pytest.raises(ValueError, match="'<e>' has the id 999, but `tokenizers` gives it 264"):
        read_by_us(content, tmp_path)


added_tokens = st.lists(
    st.tuples(
        st.sampled_from(["<e>", "<f>", "<e><f>", "e>", "<", "<g>", "the", ">the"]), st.booleans()
    ),
    max_size=4,
)
pieces = st.lists(st.sampled_from(["<e>", "<f>", "<", "e>", "<g>", "the", " the", "x"]), max_size=8)


@given(
    tokens=added_tokens,
    named=st.booleans(),
    wrong=st.sampled_from([0, 0, 0, 1]),
    texts=st.lists(pieces, min_size=1, max_size=5),
)
def test_added_tokens_are_refused_or_found_as_tokenizers_finds_them(
    tmp_path_factory, tokens, named, wrong, texts
):
    """For every order and overlap, with and without names in model.vocab."""
    content = json.loads(FILE)
    entry = content["added_tokens"][0]
    content["added_tokens"] = [
        entry | {"content": text, "normalized": normalized} for text, normalized in tokens
    ]
    if not named:
        for text in SPECIAL:
            del content["model"]["vocab"][text]
    theirs = read_by_them(content)
    for token in content["added_tokens"]:
        token["id"] = theirs.token_to_id(token["content"]) + wrong
    try:
        ours = read_by_us(content, tmp_path_factory.getbasetemp())
    except ValueError as error:
        assert len({normalized for _, normalized in tokens}) == 2 or (wrong and tokens)
        event("refused: " + str(error)[-40:])
        return
    event(f"read: {len(tokens)} added tokens")
    for text in map("".join, texts):
        assert ours.encode(text) == theirs.encode(text).ids
