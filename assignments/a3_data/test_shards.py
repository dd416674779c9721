"""a3_data.20: the split of a document, the end of a text held out, special tokens as plain text."""

import pytest
from shard_inputs import PairTokenizer, documents_folder, parts_of

pytestmark = pytest.mark.task("a3_data.20")
MODULE = "data_pipeline.shard_writing"


@pytest.mark.parametrize(
    ("document_id", "share", "expected"),
    [
        ("0" * 16, 1e-9, "validation"),
        ("f" * 16, 0.999999, "train"),
        ("8" + "0" * 15, 0.5, "train"),
        ("7" + "f" * 15, 0.51, "validation"),
        ("4" + "0" * 15, 0.25, "train"),
        ("3fffff0000000000", 0.25, "validation"),
        ("0000000000000fff", 0.05, "validation"),
        ("0ccccccccccc0000", 0.05, "validation"),
        ("0cccccccccce0000", 0.05, "train"),
    ],
)
def test_the_split_of_an_id(implementation, a3_data, document_id, share, expected):
    got = implementation(MODULE).split_of(document_id, share)
    other = "train" if expected == "validation" else "validation"
    causes = {
        "the id is a number of 16 hex digits; below share * 2^64, the document is for validation":
            other,
        "return TRAIN or VALIDATION": lambda found: found not in ("train", "validation"),
    }  # fmt: skip
    a3_data.expect(got, expected, f"split_of({document_id!r}, {share})", causes)


def split(implementation, texts, name="split_documents", **settings):
    module = implementation(MODULE)
    with documents_folder(texts) as folder:
        found = getattr(module, name)(folder, module.ShardSettings(**settings))
        return parts_of(found)


def short(parts):
    """(split, text, is_whole) of each part."""
    return [(part[0], part[1], part[-1]) for part in parts]


def test_documents_keep_their_order(implementation, a3_data):
    texts = [f"document {number}" for number in range(40)]
    got = split(implementation, texts, validation_share=0.3)
    a3_data.expect([part[1] for part in got], texts, "the texts of split_documents, in their order")
    split_of = implementation(MODULE).split_of
    a3_data.expect(
        [part[0] for part in got],
        [split_of(part[2], 0.3) for part in got],
        "the splits by split_of",
    )
    a3_data.expect({part[-1] for part in got}, {True}, "is_whole of documents that are not cut")
    again = split(implementation, [*texts[::-1], "another"], validation_share=0.3)
    before = {part[1]: part[0] for part in got}
    a3_data.expect(
        {part[1]: part[0] for part in again if part[1] in before}, before,
        "the splits after documents were added and their order changed",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "share", "expected"),
    [
        (["abcde", "fgh", "ij"], 0.2,
         [("train", "abcde", True), ("train", "fgh", True), ("validation", "ij", True)]),
        (["abcde", "fgh", "ij"], 0.4,
         [("train", "abcde", True), ("train", "f", False), ("validation", "gh", True),
          ("validation", "ij", True)]),
        (["0123456789" * 3], 0.05,
         [("train", ("0123456789" * 3)[:28], False), ("validation", "89", True)]),
        (["é東", "🦉e\u0301"], 0.5,
         [("train", "é東", True), ("validation", "🦉e\u0301", True)]),
        (["a", "b"], 0.9, [("validation", "a", True), ("validation", "b", True)]),
        (["abcd"], 0.5, [("train", "ab", False), ("validation", "cd", True)]),
    ],
    ids=["between", "within", "rounded-down", "characters", "all-validation", "one"],
)  # fmt: skip
def test_the_end_is_held_out(implementation, a3_data, texts, share, expected):
    got = split(implementation, texts, validation_share=share, held_out="end")
    causes = {
        "a document across the place is yielded in two parts, of which the first is not whole": [
            (*part[:2], True) for part in expected
        ],
        "count characters, not bytes": lambda found: any(ord(c) > 127 for t in texts for c in t),
        "int(n * (1 - validation_share)) characters are for training": (
            lambda found: "".join(part[1] for part in found) == "".join(texts)
        ),
        "a part without text is not yielded": lambda found: any(not part[1] for part in found),
    }
    what = f"split_documents of {texts} with held_out='end' and validation_share={share}"
    a3_data.expect(short(got), expected, what, causes)


@pytest.mark.parametrize("held_out", ["documents", "end"])
@pytest.mark.parametrize("function", ["split_documents", "used_documents"])
def test_documents_without_text(implementation, a3_data, function, held_out):
    settings = {"validation_share": 0.4, "held_out": held_out, "training_share": 0.99}
    got = split(implementation, ["", "abc", "", "de", ""], function, **settings)
    texts = [part[1] for part in got]
    sentence = f"{function} yields no document without text, whatever held_out is ({settings})"
    a3_data.true(texts and "" not in texts, sentence, {"texts": texts})


def test_parts_keep_the_document(implementation, a3_data):
    texts = ["abcdef", "ghij"]
    got = split(implementation, texts, validation_share=0.7, held_out="end")
    whole = split(implementation, texts)
    identity = [part[2:5] for part in whole]
    expected = [identity[0], identity[0], identity[1]]
    causes = {
        "a part has the id of the whole document, not that of its own text": (
            lambda found: [part[1:] for part in found] == [part[1:] for part in expected]
        )
    }
    a3_data.expect([part[2:5] for part in got], expected, "(id, source, url) of the parts", causes)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, [("train", "abcde", True), ("train", "fgh", True), ("validation", "ij", True)]),
        (0.5, [("train", "abcd", False), ("validation", "ij", True)]),
        (0.7, [("train", "abcde", True), ("validation", "ij", True)]),
        (0.9, [("train", "abcde", True), ("train", "fg", False), ("validation", "ij", True)]),
        (1e-9, [("train", "a", False), ("validation", "ij", True)]),
    ],
)
def test_a_share_of_the_training_split(implementation, a3_data, share, expected):
    got = split(
        implementation, ["abcde", "fgh", "ij"], "used_documents",
        validation_share=0.2, held_out="end", training_share=share,
    )  # fmt: skip
    causes = {
        "the validation split stays whole": lambda found: ("validation", "ij", True) not in found,
        "a document that is cut is not whole": [(*part[:2], True) for part in expected],
        "at least one character is used": [("validation", "ij", True)],
        "int(n * training_share) of the n characters of the TRAINING split, from its beginning": (
            lambda _: True
        ),
    }
    a3_data.expect(short(got), expected, f"used_documents with training_share={share}", causes)


def test_a_part_that_is_used_is_not_whole(implementation, a3_data):
    """The text is cut for the validation split; all that is left of it is used."""
    got = split(
        implementation, ["ab"], "used_documents",
        validation_share=0.5, held_out="end", training_share=0.5,
    )  # fmt: skip
    expected = [("train", "a", False), ("validation", "b", True)]
    causes = {"the part was cut for the validation split already": [(*part[:2], True) for part in
                                                                    expected]}  # fmt: skip
    a3_data.expect(short(got), expected, "used_documents of a text of two characters", causes)


@pytest.mark.parametrize(
    ("text", "special", "expected"),
    [
        ("see <|pad|>!", ["<|pad|>"], ["see <", "|pad|>!"]),
        ("no token", ["<|pad|>"], ["no token"]),
        ("", ["<|pad|>"], [""]),
        ("a.b", [], ["a.b"]),
        ("xaaay", ["aa"], ["xa", "a", "ay"]),
        ("<|a|><|b|>", ["<|b|>", "<|a|>"], ["<", "|a|><", "|b|>"]),
        ("abcab", ["abca", "ab", "cab"], ["a", "bc", "a", "b"]),
        ("a.b acb", ["a.b"], ["a", ".b acb"]),
    ],
    ids=["one", "none", "empty", "no-special", "overlapping", "several", "within", "no-pattern"],
)
def test_cuts_through_special_tokens(implementation, a3_data, text, special, expected):
    got = implementation(MODULE).plain_parts(text, special)
    causes = {
        "every occurrence is cut, also one that overlaps another: use a lookahead, (?=...)": (
            lambda found: (
                isinstance(found, list) and any(name in part for name in special for part in found)
            )
        ),
        "the parts together are the text": lambda found: "".join(found) != text,
        "a special token is a text, not a pattern: use re.escape": lambda found: (
            "acb" in text and len(found) > 2
        ),
    }
    a3_data.expect(got, expected, f"plain_parts({text!r}, {special})", causes)


@pytest.mark.parametrize(
    "text",
    ["This README says <|endoftext|> and <|pad|>.", "<|endoftext|>", "<|pad|><|pad|>", "ab <| ab",
     "<|end<|pad|>oftext|>", "", "ab" * 5],
)  # fmt: skip
def test_only_the_pipeline_ends_a_document(implementation, a3_data, text):
    tokenizer = PairTokenizer(["<|endoftext|>", "<|pad|>"])
    got = implementation(MODULE).encode_as_plain_text(tokenizer, text)
    what = f"encode_as_plain_text of {text!r}"
    if got is None:
        raise a3_data.GradedFailure(f"{what} returned None; is `return` missing?")
    a3_data.true(isinstance(got, list), f"{what}: expected a list of token ids", {"got": got})
    ids = [int(each) for each in got]
    special = set(tokenizer.special_tokens.values())
    a3_data.true(
        not special & set(ids),
        f"{what}: a special token that the text spells out ends the document in the middle; encode "
        "it as plain characters",
        {"got": ids},
    )
    a3_data.expect(tokenizer.decode(ids), text, f"{what}, decoded again")
    if not any(name in text for name in tokenizer.special_tokens):
        a3_data.expect(ids, tokenizer.encode(text), f"{what}, as the tokenizer encodes it")
