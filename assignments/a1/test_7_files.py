"""a1.17 and a1.18: GPT-2's files, and tokenizer.json."""

import json

import pytest

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import check_true

TOKENIZER = "tokenizer_bpe.tokenizer"
FILES = "tokenizer_bpe.tokenizer_file"


def printable(token):
    """Return GPT-2's printable form of a token, as its `bytes_to_unicode` has it, by counting."""
    shown, others = {}, 0
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            shown[byte] = chr(byte)
        else:
            shown[byte] = chr(256 + others)
            others += 1
    return "".join(shown[byte] for byte in token)


def write_gpt2_files(folder, vocab, merges, special_tokens=(), merge_lines=None):
    """Write vocab.json and merges.txt in GPT-2's format; return their paths."""
    special = {token.encode() for token in special_tokens}
    named = {
        token.decode() if token in special else printable(token): token_id
        for token_id, token in vocab.items()
    }
    lines = merge_lines or [f"{printable(left)} {printable(right)}" for left, right in merges]
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    vocab_path.write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *lines, ""])
    merges_path.write_bytes(text.encode())
    return vocab_path, merges_path


# a1.17


@pytest.mark.task("a1.17")
def test_every_byte_has_a_printable_character(implementation, a1):
    to_printable = implementation(FILES).to_printable
    a1.expect(to_printable(b" dog"), "Ġdog", "the printable form of b' dog' is wrong")
    for byte in range(256):
        got = to_printable(bytes([byte]))
        causes = {"this byte is not printable: write it as U+0100 or above": chr(byte)}
        expected = printable(bytes([byte]))
        a1.expect(got, expected, f"the printable form of byte 0x{byte:02x} is wrong", causes)


@pytest.mark.task("a1.17")
def test_printable_characters_back_to_bytes(implementation, a1):
    from_printable = implementation(FILES).from_printable
    for token in (b" dog", bytes(range(256)), "🦉".encode(), b""):
        got = from_printable(printable(token), "vocab.json")
        a1.expect(got, token, f"the bytes of {printable(token)!r} are wrong")


@pytest.mark.task("a1.17")
def test_a_character_that_stands_for_no_byte(implementation, a1):
    from_printable = implementation(FILES).from_printable
    a1.expect_value_error(
        lambda: from_printable("the owl", "vocab.json"),
        "a space, which represents no byte",
        names="vocab.json",
    )


@pytest.mark.task("a1.17")
def test_gpt2_files(implementation, a1, tmp_path):
    ids = {token_id: a1.vocab[376 - token_id] for token_id in range(377)}
    paths = write_gpt2_files(tmp_path, ids, a1.merges, [a1.END])
    tokenizer = implementation(TOKENIZER).Tokenizer.from_files(*paths, [a1.END])
    a1.expect(dict(tokenizer.vocab), ids, "the vocabulary read from vocab.json is wrong")
    a1.expect(list(tokenizer.merges), a1.merges, "the merges read from merges.txt are wrong")
    a1.expect(dict(tokenizer.special_tokens), {a1.END: 0}, "the special token must keep its id, 0")


@pytest.mark.task("a1.17")
def test_gpt2_files_with_other_special_tokens(implementation, a1, tmp_path):
    vocab = a1.vocabulary(a1.merges, ["<a b>"])
    paths = write_gpt2_files(tmp_path, vocab, a1.merges, ["<a b>"])
    tokenizer = implementation(TOKENIZER).Tokenizer.from_files(
        *map(str, paths), ["<new>", "<a b>"], pattern=a1.GPT4
    )
    expected = {"<new>": 377, "<a b>": 376}
    a1.expect(
        dict(tokenizer.special_tokens),
        expected,
        "special tokens are wrong: <a b> is in vocab.json as plain text, <new> is appended",
    )
    a1.expect(tokenizer.pattern, a1.GPT4, "the argument `pattern` is ignored")


@pytest.mark.task("a1.17")
def test_merge_lines_as_editors_leave_them(implementation, a1, tmp_path):
    merges = [(b"#", b"#"), (b"\xc2", b"\x85"), (b"\x1c", b"a"), (b" ", b"a")]
    lines = [f"{printable(left)} {printable(right)}\r" for left, right in merges]
    paths = write_gpt2_files(
        tmp_path, a1.vocabulary(merges, []), merges, (), ["\r", *lines, "", "\r"]
    )
    tokenizer = implementation(TOKENIZER).Tokenizer.from_files(*paths)
    a1.expect(
        list(tokenizer.merges),
        merges,
        "merges are wrong where lines end in \\r\\n, are empty, or begin with # (which is a token)",
    )


@pytest.mark.task("a1.17")
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("th", "a line with one token"),
        ("t h e", "a line with three tokens"),
        ("q z", "a merge whose result the vocabulary lacks"),
        ("ow l", "a merge of a token that no earlier merge makes"),
        ("t 東", "a character that represents no byte"),
    ],
    ids=["one", "three", "lacking", "unmade", "character"],
)
def test_merges_that_do_not_fit(implementation, a1, line, what, tmp_path):
    merges = [(b"t", b"h"), (b"th", b"e"), (b"o", b"wl")]
    vocab = a1.vocabulary(merges, []) | {300: b"owl", 301: b"wl"}
    paths = write_gpt2_files(tmp_path, vocab, merges, (), ["t h", line, "th e"])
    from_files = implementation(TOKENIZER).Tokenizer.from_files
    a1.expect_value_error(lambda: from_files(*paths), f"merges.txt with {what}", names="line 3")


@pytest.mark.task("a1.17")
@pytest.mark.parametrize("which", ["vocab.json", "merges.txt"])
def test_files_that_are_not_there(implementation, a1, which, tmp_path):
    paths = write_gpt2_files(tmp_path, a1.vocab, a1.merges, [a1.END])
    (tmp_path / which).unlink()
    from_files = implementation(TOKENIZER).Tokenizer.from_files
    a1.expect_value_error(lambda: from_files(*paths), f"a missing {which}", names=which)


# a1.18


@pytest.fixture
def saved(implementation, a1, tmp_path):
    """Return a function that saves a tokenizer and returns the path of its tokenizer.json."""

    def save(pattern=a1.GPT2, special_tokens=(a1.END, "<x>")):
        tokenizer = implementation(TOKENIZER).Tokenizer(
            a1.vocab, a1.merges, list(special_tokens), pattern
        )
        tokenizer.save(tmp_path / "tokenizer.json")
        return tmp_path / "tokenizer.json"

    return save


@pytest.mark.task("a1.18")
def test_what_the_file_says(saved, a1):
    content = json.loads(saved().read_text(encoding="utf-8"))
    model = content["model"]
    a1.expect(model.get("type"), "BPE", "model.type is wrong")
    expected = {printable(token): i for i, token in a1.vocab.items()} | {a1.END: 376, "<x>": 377}
    missing = {text: i for text, i in expected.items() if i < 376}
    causes = {"the special tokens are missing: add them here too, as plain text": missing}
    a1.expect(
        model["vocab"], expected, "model.vocab is not token in printable characters -> id", causes
    )
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    expected = [[printable(left), printable(right)] for left, right in a1.merges]
    a1.expect(pairs, expected, "model.merges is not the merges in printable characters, in order")
    added = [(t["id"], t["content"], t.get("special")) for t in content["added_tokens"]]
    expected = [(376, a1.END, True), (377, "<x>", True)]
    a1.expect(added, expected, "added_tokens is not every special token, in order of id")


@pytest.mark.task("a1.18")
def test_merges_for_people_to_read(saved, a1):
    path = saved().with_name("merges.txt")
    check_true(path.is_file(), "save writes no merges.txt beside tokenizer.json")
    lines = [f"{printable(left)} {printable(right)}" for left, right in a1.merges]
    text = path.read_bytes().decode("utf-8")
    expected = "\n".join(["#version: 0.2", *lines, ""])
    causes = {"the first line is '#version: 0.2'": "\n".join([*lines, ""])}
    a1.expect(text, expected, "merges.txt is wrong", causes)


@pytest.mark.task("a1.18")
@pytest.mark.parametrize("pattern", ["GPT2", "GPT4"])
def test_saved_and_read_again(implementation, saved, a1, pattern):
    path = saved(getattr(a1, pattern))
    tokenizer = implementation(TOKENIZER).Tokenizer.from_hugging_face(path)
    a1.expect(dict(tokenizer.vocab), a1.vocab | {377: b"<x>"}, "the vocabulary comes back changed")
    a1.expect(list(tokenizer.merges), a1.merges, "the merges come back changed")
    expected = {a1.END: 376, "<x>": 377}
    a1.expect(dict(tokenizer.special_tokens), expected, "the special tokens come back changed")
    a1.expect(tokenizer.pattern, getattr(a1, pattern), "the pattern comes back changed")


@pytest.mark.task("a1.18")
@pytest.mark.parametrize("pattern", ["GPT2", "GPT4"])
def test_hugging_face_reads_it(saved, a1, pattern):
    path = saved(getattr(a1, pattern))
    text = f"{a1.CORPUS} 12345<x>\n\n{a1.END}  they'll"
    vocab = a1.vocab | {377: b"<x>"}
    expected = a1.encode(text, vocab, a1.merges, [a1.END, "<x>"], getattr(a1, pattern))
    tokenizers = pytest.importorskip("tokenizers", reason="needs the library `tokenizers`")
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise GradedFailure(f"the library `tokenizers` cannot load your file: {error}") from None
    a1.expect(theirs.encode(text).ids, expected, "`tokenizers` gives different ids with your file")
    decoded = theirs.decode(expected, skip_special_tokens=False)
    a1.expect(decoded, text, "`tokenizers` decodes to a different text: is the decoder ByteLevel?")


@pytest.mark.task("a1.18")
def test_a_file_as_tokenizers_wrote_it_before(implementation, saved, a1, tmp_path):
    """Older versions write a merge as one string."""
    content = json.loads(saved().read_text(encoding="utf-8"))
    pairs = [
        merge.split(" ") if isinstance(merge, str) else merge
        for merge in content["model"]["merges"]
    ]
    content["model"]["merges"] = [" ".join(pair) for pair in pairs]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = implementation(TOKENIZER).Tokenizer.from_hugging_face(path)
    a1.expect(
        list(tokenizer.merges),
        a1.merges,
        'merges in the older format, "a b" as one string, are read wrongly',
    )


@pytest.mark.task("a1.18")
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"type": "WordPiece"}, "a tokenizer.json whose model is WordPiece"),
        ({"continuing_subword_prefix": "##"}, "a continuing_subword_prefix"),
        ({"end_of_word_suffix": "</w>"}, "an end_of_word_suffix"),
        ({"unk_token": "<unk>"}, "an unk_token"),
        ({"byte_fallback": True}, "byte_fallback"),
        ({"dropout": 0.1}, "a dropout, which gives different ids each time"),
        ({"ignore_merges": True}, "ignore_merges"),
    ],
    ids=["type", "prefix", "suffix", "unknown", "byte-fallback", "dropout", "ignore-merges"],
)
def test_models_that_are_not_plain_byte_level_bpe(implementation, saved, a1, change, what):
    path = saved()
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"] |= change
    path.write_text(json.dumps(content), encoding="utf-8")
    read = implementation(TOKENIZER).Tokenizer.from_hugging_face
    what = what if "type" in change else f"a tokenizer.json whose model has {what}"
    a1.expect_value_error(lambda: read(path), what, names="tokenizer.json")


@pytest.mark.task("a1.18")
@pytest.mark.parametrize("which", ["normalizer", "json", "missing"])
def test_files_that_are_not_read_in_silence(implementation, saved, a1, which):
    path = saved()
    content = json.loads(path.read_text(encoding="utf-8"))
    if which == "normalizer":
        content["normalizer"] = {"type": "Lowercase"}
    path.write_text("{" if which == "json" else json.dumps(content), encoding="utf-8")
    if which == "missing":
        path.unlink()
    what = {
        "normalizer": "a tokenizer.json with a normalizer, which would change the text",
        "json": "a file that is not JSON",
        "missing": "a missing tokenizer.json",
    }[which]
    read = implementation(TOKENIZER).Tokenizer.from_hugging_face
    a1.expect_value_error(lambda: read(path), what, names="tokenizer.json")
