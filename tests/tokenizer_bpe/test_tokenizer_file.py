"""Files: other libraries read ours, we read theirs, and invalid ones are rejected."""

import base64
import inspect
import itertools
import json
import string
from pathlib import Path

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from shared_data import GPT2_VOCABULARY, needs_shared_data
from transformers import AutoTokenizer

from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.chat_template import encode_chat
from tokenizer_bpe.merge_training import train_bpe, train_bpe_from_counts
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    count_words,
    gpt4_pattern,
)
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import (
    byte_characters,
    from_printable,
    hugging_face_files,
    tokenizer_hash,
    write_tiktoken_ranks,
)

STDLIB = Path(string.__file__).parent
BYTES = {byte: bytes([byte]) for byte in range(256)}


def real_texts(number):
    """Return sources of the standard library, cut into `number` pieces of 300 characters."""
    text = "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in sorted(STDLIB.glob("*.py"))
    )
    step = len(text) // number
    return [text[i * step : i * step + 300] for i in range(number)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Return pattern -> (our tokenizer, the same file loaded by `tokenizers`, the file)."""
    result = {}
    for name, pattern in (("gpt2", GPT2_PATTERN), ("gpt4", GPT4_PATTERN)):
        vocab, merges = train_bpe(inspect.getsourcefile(inspect), 1500, SPECIAL_TOKENS, pattern)
        ours = Tokenizer(vocab, merges, SPECIAL_TOKENS, pattern)
        path = tmp_path_factory.mktemp(name) / "tokenizer.json"
        ours.save(path)
        result[pattern] = ours, tokenizers.Tokenizer.from_file(str(path)), path
    return result


both_patterns = pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN])


@both_patterns
def test_tokenizers_gives_the_same_ids_on_a_thousand_real_texts(pairs, pattern):
    ours, theirs, _ = pairs[pattern]
    for text in real_texts(1000):
        assert ours.encode(text) == theirs.encode(text).ids


# The other library may classify characters differently that this Unicode version does not define.
assigned = st.text(
    st.characters(exclude_categories=["Cs", "Cn"]).filter(lambda c: not regex.match(r"\p{Cn}", c)),
    max_size=30,
)
awkward = st.text(
    "aſK'lLsS19 \t\n\r\x1c\x85\xa0\u2028\u3000٣é漢\u0301\u200d\U0001f600", max_size=30
)


@both_patterns
@given(text=st.one_of(assigned, awkward))
def test_tokenizers_gives_the_same_ids_on_odd_text(pairs, pattern, text):
    ours, theirs, _ = pairs[pattern]
    text += "<|endoftext|>" + text[:3]
    assert ours.encode(text) == theirs.encode(text).ids
    assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text


@both_patterns
def test_reading_gives_back_what_was_saved(pairs, pattern, tmp_path):
    ours, theirs, path = pairs[pattern]
    theirs.save(str(tmp_path / "rewritten.json"))
    for file in (path, tmp_path / "rewritten.json"):
        again = Tokenizer.from_hugging_face(file)
        assert (again.vocab, again.merges) == (ours.vocab, ours.merges)
        assert (again.special_tokens, again.pattern) == (ours.special_tokens, pattern)


numbers = st.text("0123456789٣٤½²x.,+-$ \n", max_size=30)


@pytest.mark.parametrize("max_digits", [0, 1, 2, 3])
def test_the_digit_rule_goes_into_the_file(tmp_path_factory, max_digits):
    pattern = gpt4_pattern(max_digits)
    text = " the ٣٤ ".join(map(str, range(100, 1000)))
    counts = count_words([text], SPECIAL_TOKENS, pattern)
    vocab, merges = train_bpe_from_counts(counts, 1500, SPECIAL_TOKENS)
    ours = Tokenizer(vocab, merges, SPECIAL_TOKENS, pattern)
    path = tmp_path_factory.mktemp("digits") / "tokenizer.json"
    ours.save(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    assert Tokenizer.from_hugging_face(path).pattern == pattern

    @given(text=numbers)
    def same_ids(text):
        assert ours.encode(text) == theirs.encode(text).ids

    same_ids()
    assert max(len(vocab[i]) for i in ours.encode("347 + 85 = 432")) == (max_digits or 3)


def test_the_vocabulary_beside_its_merges_reads_as_gpt2_files(pairs, tmp_path):
    ours, theirs, path = pairs[GPT2_PATTERN]
    theirs.model.save(str(tmp_path))  # vocab.json and merges.txt
    for merges in (path.with_name("merges.txt"), tmp_path / "merges.txt"):
        again = Tokenizer.from_files(tmp_path / "vocab.json", merges, SPECIAL_TOKENS)
        assert (again.vocab, again.merges) == (ours.vocab, ours.merges)


def test_the_hash_is_of_what_decides_ids(pairs, tmp_path):
    ours, theirs, path = pairs[GPT2_PATTERN]
    theirs.save(str(tmp_path / "rewritten.json"))
    assert tokenizer_hash(tmp_path / "rewritten.json") == tokenizer_hash(path)
    assert len(tokenizer_hash(path)) == 64
    hashes = {tokenizer_hash(path)}
    for change in (
        {"merges": ours.merges[:-1]},
        {"special_tokens": [*SPECIAL_TOKENS, "<new>"]},
        {"pattern": GPT4_PATTERN},
    ):
        parts = {"special_tokens": SPECIAL_TOKENS, "merges": ours.merges, "pattern": GPT2_PATTERN}
        Tokenizer(ours.vocab, **(parts | change)).save(tmp_path / "changed.json")
        hashes.add(tokenizer_hash(tmp_path / "changed.json"))
    assert len(hashes) == 4


def test_a_special_token_that_is_an_ordinary_token_is_not_saved(tmp_path):
    tokenizer = Tokenizer(*train_bpe_from_counts({" the": 9}, 300, []), [" the"])
    with pytest.raises(ValueError, match="special token ' the'"):
        tokenizer.save(tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


def test_special_tokens_of_any_characters(tmp_path):
    special = ["<é 漢>", "[ x ]"]
    ours = Tokenizer(BYTES, [], special)
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "é <é 漢> [ x ]"
    assert ours.encode(text) == theirs.encode(text).ids
    assert Tokenizer.from_hugging_face(tmp_path / "tokenizer.json").vocab == ours.vocab


def test_printable_bytes():
    """In GPT-2's table, a printable byte is itself; a space is the 33rd of the others, U+0120."""
    table = byte_characters()
    assert (table[ord("a")], table[ord(" ")], table[0], table[0xAD]) == ("a", "Ġ", "Ā", "Ń")
    assert len(set(table.values())) == 256
    with pytest.raises(ValueError, match="stands for no byte"):
        from_printable("a b", "here")


# transformers


@pytest.fixture(scope="module")
def auto(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    ours = pairs[GPT2_PATTERN][0]
    for name, content in hugging_face_files(ours).items():
        (folder / name).write_bytes(content)
    return ours, AutoTokenizer.from_pretrained(folder)


def test_auto_tokenizer_encodes_and_decodes_the_same(auto):
    ours, theirs = auto
    for text in [*real_texts(50), " it 's , a . b !\n\n", "é漢 <|im_start|> x<|endoftext|>", " a "]:
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == ours.special_tokens["<|im_end|>"]
    assert theirs.pad_token_id == ours.special_tokens["<|endoftext|>"]
    assert theirs.bos_token is None
    assert len(theirs) == ours.vocab_size


@pytest.mark.parametrize("prompt", [False, True])
def test_the_chat_template_gives_the_same_ids(auto, prompt):
    ours, theirs = auto
    messages = [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "\x1c'll  you?\n\n"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "{{ 漢 }}\n\nx"},
    ]
    expected = theirs.apply_chat_template(
        messages, add_generation_prompt=prompt, tokenize=True, return_dict=False
    )
    assert encode_chat(ours, messages, prompt)[0] == expected


# tiktoken


def test_ranks_go_to_tiktoken_and_come_back(pairs, tmp_path):
    for pattern, (ours, _, _) in pairs.items():
        path = tmp_path / "ours.tiktoken"
        write_tiktoken_ranks(ours, path)
        lines = [line.split() for line in path.read_text().splitlines()]
        theirs = tiktoken.Encoding(
            "ours",
            pat_str=pattern,
            mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
            special_tokens=ours.special_tokens,
        )
        for text in [*real_texts(100), "é漢 'll<|im_end|>"]:
            assert ours.encode(text) == theirs.encode(text, allowed_special="all")
        again = Tokenizer.from_tiktoken_ranks(path, ours.special_tokens, pattern)
        assert (again.vocab, again.merges) == (ours.vocab, ours.merges)
        assert (again.special_tokens, again.pattern) == (ours.special_tokens, pattern)


@needs_shared_data
def test_gpt2_survives_every_format(tmp_path):
    gpt2 = Tokenizer.from_files(
        GPT2_VOCABULARY / "gpt2_vocab.json", GPT2_VOCABULARY / "gpt2_merges.txt", ["<|endoftext|>"]
    )
    write_tiktoken_ranks(gpt2, tmp_path / "gpt2.tiktoken")
    gpt2.save(tmp_path / "tokenizer.json")
    for again in (
        Tokenizer.from_tiktoken_ranks(tmp_path / "gpt2.tiktoken", {"<|endoftext|>": 50256}),
        Tokenizer.from_hugging_face(tmp_path / "tokenizer.json"),
    ):
        assert (again.vocab, again.merges) == (gpt2.vocab, gpt2.merges)
        assert again.special_tokens == {"<|endoftext|>": 50256}


def test_ranks_that_do_not_follow_the_merges_are_not_written(tmp_path):
    tokenizer = Tokenizer(BYTES | {256: b"cd", 257: b"ab"}, [(b"a", b"b"), (b"c", b"d")])
    with pytest.raises(ValueError, match="do not follow the order of the merges"):
        write_tiktoken_ranks(tokenizer, tmp_path / "x.tiktoken")


# Merges in all their places at once, or one place at a time

ODD_MERGES = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"abc", b"a"), (b"a", b"bc")]
TOO_LATE = (
    "5 makes b'abc', but .*4 joins b'abc' and b'a' already: `tokenizers` and tiktoken, which merge "
    "one place at a time, would give other ids"
)


def vocabulary_of(merges):
    made = dict.fromkeys(left + right for left, right in merges)
    return BYTES | dict(enumerate(made, 256))


def one_place_at_a_time(merges, text):
    """Merge as `tokenizers` does."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = [bytes([byte]) for byte in text.encode()]
    while fitting := [
        (ranks[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in ranks
    ]:
        place = min(fitting)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def test_merges_that_others_would_make_in_another_order_are_refused(tmp_path):
    tokenizer = Tokenizer(vocabulary_of(ODD_MERGES), ODD_MERGES)
    assert [tokenizer.vocab[i] for i in tokenizer.encode("abcabc")] == [b"abc", b"abc"]
    assert one_place_at_a_time(ODD_MERGES, "abcabc") == [b"abca", b"bc"]
    for write in (tokenizer.save, lambda path: write_tiktoken_ranks(tokenizer, path)):
        with pytest.raises(ValueError, match=f"^merge {TOO_LATE}"):
            write(tmp_path / "odd")
    assert list(tmp_path.iterdir()) == []
    Tokenizer(vocabulary_of(ODD_MERGES), []).save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["merges"] = [f"{left.decode()} {right.decode()}" for left, right in ODD_MERGES]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: merge {TOO_LATE}"):
        Tokenizer.from_hugging_face(tmp_path / "tokenizer.json")
    (tmp_path / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(content["model"]["merges"]))
    with pytest.raises(ValueError, match=rf"merges\.txt, line {TOO_LATE}"):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


@given(st.data())
def test_merges_that_are_not_refused_give_the_ids_of_others(tmp_path_factory, data):
    merges, made = [], [b"a", b"b", b"c"]
    for _ in range(data.draw(st.integers(1, 8))):
        pair = data.draw(st.tuples(st.sampled_from(made), st.sampled_from(made)))
        if pair not in merges:
            merges.append(pair)
            made.append(pair[0] + pair[1])
    text = data.draw(st.text("abc", max_size=20))
    tokenizer = Tokenizer(vocabulary_of(merges), merges)
    ours = [tokenizer.vocab[token_id] for token_id in tokenizer.encode(text)]
    folder = tmp_path_factory.mktemp("merges")
    try:
        tokenizer.save(folder / "tokenizer.json")
    except ValueError:
        return
    assert ours == one_place_at_a_time(merges, text)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert theirs.encode(text).ids == tokenizer.encode(text)
    try:
        write_tiktoken_ranks(tokenizer, folder / "ranks.tiktoken")
    except ValueError:
        return
    ranks = {token: token_id for token_id, token in tokenizer.vocab.items()}
    encoding = tiktoken.Encoding(
        "x", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    assert encoding.encode(text) == tokenizer.encode(text)


def test_a_token_that_ranks_would_make_otherwise_is_not_written(tmp_path):
    """By the merges, abc is (a, bc); by the ranks, (a, b) comes first and abc is (ab, c)."""
    merges = [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")]
    tokenizer = Tokenizer(vocabulary_of(merges), merges)
    message = r"merge of b'a' and b'bc' cannot be written: .* b'abc' is made of b'ab' and b'c'"
    with pytest.raises(ValueError, match=message):
        write_tiktoken_ranks(tokenizer, tmp_path / "x.tiktoken")


@given(st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 5), max_size=8))
def test_what_a_trainer_makes_is_never_refused(tmp_path_factory, counts):
    tokenizer = Tokenizer(*train_bpe_from_counts(counts, 256 + 60, []))
    folder = tmp_path_factory.mktemp("trained")
    tokenizer.save(folder / "tokenizer.json")
    write_tiktoken_ranks(tokenizer, folder / "ranks.tiktoken")
    assert Tokenizer.from_hugging_face(folder / "tokenizer.json").merges == tokenizer.merges
    assert Tokenizer.from_tiktoken_ranks(folder / "ranks.tiktoken").merges == tokenizer.merges


# Bad files


def changed_json(pairs, change):
    content = json.loads(pairs[GPT2_PATTERN][2].read_text(encoding="utf-8"))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(type="WordPiece"), "the model is 'WordPiece', expected 'BPE'"),
        (lambda c: c.pop("model"), "the model is None"),
        (lambda c: c["model"].update(byte_fallback=True), "has model.byte_fallback"),
        (lambda c: c["model"].update(unk_token="!"), "has model.unk_token"),
        (lambda c: c["model"]["merges"].pop(0), "merge .* but no earlier merge makes"),
        (lambda c: c["model"]["merges"].append(["a"]), "expected two tokens"),
        (lambda c: c["model"]["vocab"].pop("!"), "no token for byte 0x21"),
        (lambda c: c["model"]["vocab"].update({"a b": 9999}), "stands for no byte"),
        (lambda c: c["model"].pop("vocab"), "vocab is missing, expected an object"),
        (lambda c: c["model"].update(vocab=[["a", 1]]), "vocab is a list, expected an object"),
        (lambda c: c["model"]["vocab"].update(a="97"), "id of 'a' is '97', not a whole number"),
        (
            lambda c: c["model"]["vocab"].update(zz=9000.5),
            r"id of 'zz' is 9000\.5, not a whole number",
        ),
        (lambda c: c["model"]["vocab"].update(zz=True), "id of 'zz' is True, not a whole number"),
        (lambda c: c["model"]["vocab"].update(zz=300), "and 'zz' have the same id, 300"),
        (lambda c: c["model"].update(merges={}), "merges is an object, expected a list"),
        (lambda c: c["model"].update(merges=[1]), "merge 1 is 1, expected two tokens"),
        (lambda c: c["model"].update(merges=[["a", 1]]), "merge 1 is .*expected two tokens"),
        (lambda c: c.update(added_tokens={"id": 1}), "added_tokens is an object, expected a list"),
        (lambda c: c["added_tokens"][0].pop("id"), "needs `content`, a string, and `id`, a whole"),
        (lambda c: c["added_tokens"][0].update(id=1.5), "needs `content`, a string, and `id`"),
        (lambda c: c["added_tokens"].append("<x>"), "added_tokens: a token is a string, expected"),
        (lambda c: c.update(pre_tokenizer=["ByteLevel"]), "pre_tokenizer is a list, expected an"),
        (lambda c: c.update(pre_tokenizer={"type": "Sequence"}), "pretokenizers is missing"),
        (
            lambda c: c.update(pre_tokenizer={}),
            r"the pre-tokenizer is \[None\]; expected ByteLevel",
        ),
        (lambda c: c.update(post_processor=7), "post_processor is a number, expected an object"),
    ],
)
def test_a_tokenizer_json_that_is_not_ours_to_read(pairs, change, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(changed_json(pairs, change), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_hugging_face(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"{", "not JSON"), (b"\xff", "not UTF-8"), (b"[]", "model is None")],
)
def test_a_file_that_is_no_tokenizer_json(content, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_hugging_face(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_empty_lines_are_skipped_whatever_the_line_end(end, tmp_path):
    table = byte_characters()
    vocab = {table[byte]: byte for byte in range(256)} | {"ab": 256, "abc": 257}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = end.join(["#version: 0.2", "", "a b", "", "ab c", "", ""])
    (tmp_path / "merges.txt").write_bytes(merges.encode())
    tokenizer = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert tokenizer.merges == [(b"a", b"b"), (b"ab", b"c")]


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("#version: 0.2\na b\nx y\n", "merges.txt, line 3 makes b'xy', which .*vocab.json lacks"),
        ("a b\n\nabc d\n", "merges.txt, line 3 joins b'abc' and b'd', but no earlier merge"),
        ("a b c\n", "line 1: 'a b c', expected two tokens"),
        ("a b\r\n\r\na\r\n", "line 3: 'a', expected two tokens"),
    ],
)
def test_the_line_of_a_wrong_merge_is_named(merges, message, tmp_path):
    table = byte_characters()
    vocab = {table[byte]: byte for byte in range(256)} | {"ab": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("YWI= x", "line 257: 'YWI= x', expected base64"),
        ("YWJjZA== 256", "b'abcd' is not made of"),
        ("YWI= 5", "line 257: rank 5 has come before"),
        ("YQ== 256", "line 257: b'a' has come before"),
        ("YWI= -1", "token id -1 is out of range"),
    ],
)
def test_wrong_ranks(line, message, tmp_path):
    lines = [f"{base64.b64encode(token).decode()} {i}" for i, token in BYTES.items()]
    path = tmp_path / "x.tiktoken"
    path.write_text("\n".join([*lines, line]))
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_tiktoken_ranks(path)


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [
        ({"<a>": 300, "<b>": 300}, "'<b>' has the id 300, which the special token '<a>' already"),
        ({"<a>": 97}, "special token '<a>' has the id 97, which b'a' already has; give it"),
    ],
)
def test_an_id_that_is_taken(special_tokens, message, tmp_path):
    path = tmp_path / "x.tiktoken"
    path.write_text("\n".join(f"{base64.b64encode(t).decode()} {i}" for i, t in BYTES.items()))
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_tiktoken_ranks(path, special_tokens)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "vocab.json is a list, expected an object"),
        ('{"a": "1"}', "id of 'a' is '1', not a whole number"),
        ('{"a": [1]}', r"id of 'a' is \[1\], not a whole number"),
        ('{"a": 1, "b": 1}', "'a' and 'b' have the same id, 1"),
    ],
)
def test_a_broken_vocab_json(content, message, tmp_path):
    (tmp_path / "vocab.json").write_text(content)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
