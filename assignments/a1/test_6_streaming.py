"""a1.15 and a1.16: encode a stream of texts, decode a stream of ids."""

import itertools

import pytest

from lm_course.grading.comparisons import check_true

MODULE = "tokenizer_bpe.tokenizer"
LAG = 400  # characters; the handout's limit


class Pulled:
    """An iterator that counts the items taken from it."""

    def __init__(self, items):
        self._items = iter(items)
        self.count = 0
        self.characters = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self._items)
        self.count += 1
        self.characters += len(item) if isinstance(item, str) else 1
        return item


@pytest.fixture
def make_tokenizer(implementation, a1):
    """Return a function that makes a tokenizer: the learner's code must run inside a check."""
    return lambda: implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])


# a1.15


@pytest.mark.task("a1.15")
@pytest.mark.parametrize(
    "texts",
    [
        ["the ", "owl"],
        ["a\n", "\n", "\n", "b"],
        ["the  ", " owl", " ", " "],
        ["they", "'", "l", "l be the", "re"],
        ["they'l", "l be"],
        ["1", "2", "é東", "夜!", "?"],
        ["", "the", "", ""],
        [],
    ],
    ids=["words", "newlines", "spaces", "signs", "ending", "scripts", "empty-texts", "none"],
)
def test_a_stream_has_the_ids_of_the_whole(make_tokenizer, a1, texts):
    tokenizer = make_tokenizer()
    got = list(tokenizer.encode_iterable(texts))
    expected = a1.encode("".join(texts), a1.vocab, a1.merges, [a1.END])
    alone = [i for text in texts for i in a1.encode(text, a1.vocab, a1.merges, [a1.END])]
    causes = {
        "each text is encoded alone, but a word may continue in the next text: hold back the words "
        "that later text can change": alone
    }
    a1.expect(
        got, expected, f"the ids of the stream {texts} are not those of the joined text", causes
    )


@pytest.mark.task("a1.15")
def test_a_special_token_across_texts(make_tokenizer, a1):
    tokenizer = make_tokenizer()
    for cut in range(1, len(a1.END)):
        texts = ["the", a1.END[:cut], f"{a1.END[cut:]} owl"]
        got = list(tokenizer.encode_iterable(texts))
        expected = a1.encode("".join(texts), a1.vocab, a1.merges, [a1.END])
        a1.expect(got, expected, f"the ids of {texts} are wrong: a special token is cut in two")


@pytest.mark.task("a1.15")
def test_a_longer_special_token_across_texts(implementation, a1):
    tokens = [a1.END, a1.END * 2]
    vocab = a1.vocabulary(a1.merges, tokens)
    tokenizer = implementation(MODULE).Tokenizer(vocab, a1.merges, tokens)
    texts = ["the", a1.END, a1.END, "owl", a1.END, " end"]
    got = list(tokenizer.encode_iterable(texts))
    expected = a1.encode("".join(texts), vocab, a1.merges, tokens)
    causes = {
        "a special token may be the beginning of a longer one that the next text completes": (
            a1.encode("".join(texts), vocab, a1.merges, [a1.END])
        )
    }
    a1.expect(got, expected, f"the ids of {texts} with special tokens {tokens} are wrong", causes)


@pytest.mark.task("a1.15")
def test_one_character_at_a_time(make_tokenizer, a1):
    tokenizer = make_tokenizer()
    got = list(tokenizer.encode_iterable(iter(a1.CORPUS)))
    expected = a1.encode(a1.CORPUS, a1.vocab, a1.merges, [a1.END])
    a1.expect(got, expected, "the ids of the small corpus, one character at a time, are wrong")


@pytest.mark.task("a1.15")
def test_the_lines_of_a_file(make_tokenizer, a1, tmp_path):
    tokenizer = make_tokenizer()
    path = tmp_path / "corpus.txt"
    path.write_bytes(a1.CORPUS.encode())
    with path.open(encoding="utf-8", newline="") as file:
        got = list(tokenizer.encode_iterable(file))
    expected = a1.encode(a1.CORPUS, a1.vocab, a1.merges, [a1.END])
    a1.expect(got, expected, "the ids of an open file are not those of its text")


@pytest.mark.task("a1.15")
def test_nothing_is_read_before_an_id_is_asked_for(make_tokenizer):
    tokenizer = make_tokenizer()
    texts = Pulled(["the owl\n"] * 100)
    iterator = tokenizer.encode_iterable(texts)
    check_true(
        texts.count == 0,
        f"encode_iterable takes {texts.count} texts before an id is asked for: be a generator",
    )
    next(iter(iterator))
    check_true(
        texts.characters <= LAG,
        f"encode_iterable takes {texts.characters} characters before the first id, at most {LAG} "
        "are allowed: yield ids as soon as they are certain",
    )


@pytest.mark.task("a1.15")
@pytest.mark.parametrize(
    "text",
    ["the other owls stay\n", "owl\n", "e", f"the{'<|endoftext|>'}"],
    ids=["line", "short-line", "word", "special"],
)
def test_what_is_read_comes_out_soon(make_tokenizer, a1, text):
    """Read an endless stream, and count the bytes of every id that comes out."""
    tokenizer = make_tokenizer()
    endless = itertools.repeat(text) if text != "e" else itertools.cycle("the owl is here. ")
    texts = Pulled(endless)
    given_out = 0
    for token_id in itertools.islice(tokenizer.encode_iterable(texts), 2000):
        lag = texts.characters - given_out
        check_true(
            lag <= LAG,
            f"encode_iterable took {texts.characters:,} characters and yielded the ids of only "
            f"{given_out:,}: yield all ids that are certain before you take the next text",
        )
        given_out += len(a1.vocab[token_id])


# a1.16


@pytest.mark.task("a1.16")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"owl", ["o", "w", "l"]),
        ("é!".encode(), ["é", "!"]),
        ("a🦉東".encode(), ["a", "🦉", "東"]),
        (b"", []),
    ],
    ids=["ascii", "two-bytes", "four-bytes", "empty"],
)
def test_pieces_of_single_bytes(make_tokenizer, a1, content, expected):
    tokenizer = make_tokenizer()
    got = list(tokenizer.decode_stream(list(content)))
    one_by_one = [bytes([byte]).decode("utf-8", "replace") for byte in content]
    ignored = [bytes([byte]).decode("utf-8", "ignore") for byte in content]
    causes = {
        "each token is decoded alone: a character may need the next token": one_by_one,
        "a character is lost if its bytes are in several tokens: keep them until it is complete": [
            p for p in ignored if p
        ],
        "the text comes out only at the end: yield each character when it is complete": [
            "".join(expected)
        ],
        "do not yield empty pieces": [*expected, ""],
    }
    a1.expect(got, expected, f"the pieces of the bytes {content}, one at a time, are wrong", causes)


@pytest.mark.task("a1.16")
@pytest.mark.parametrize(
    "content",
    [b"\xf0\x9f\xa6", b"a\xf0\x9f b", b"\xff\xfe", b"\xf0\x9f\xa6\xf0\x9f\xa6\x89", b"\xa9\xc3"],
    ids=["unfinished", "broken-off", "never", "twice", "wrong-order"],
)
def test_bad_bytes_in_a_stream(make_tokenizer, a1, content):
    tokenizer = make_tokenizer()
    pieces = list(tokenizer.decode_stream(list(content)))
    expected = content.decode("utf-8", errors="replace")
    causes = {
        "bytes left over at the end are lost: they become U+FFFD": expected.rstrip("\ufffd"),
        "invalid bytes are dropped: they become U+FFFD": expected.replace("\ufffd", ""),
    }
    a1.expect("".join(pieces), expected, f"the pieces of {content} do not join to its text", causes)
    check_true("" not in pieces, "decode_stream yields an empty piece: wait for a whole character")


@pytest.mark.task("a1.16")
def test_a_piece_comes_with_the_id_that_completes_it(make_tokenizer):
    tokenizer = make_tokenizer()
    content = "ab🦉é".encode()
    ids = Pulled(content)
    pieces = tokenizer.decode_stream(ids)
    check_true(
        ids.count == 0,
        f"decode_stream takes {ids.count} ids before a piece is asked for: be a generator",
    )
    pieces = iter(pieces)
    for piece, taken in (("a", 1), ("b", 2), ("🦉", 6), ("é", 8)):
        got = next(pieces)
        check_true(
            (got, ids.count) == (piece, taken),
            f"the piece {got!r} came out after {ids.count} ids, expected {piece!r} after {taken}: "
            "yield a character with the id that completes it, and never a part of one",
        )


@pytest.mark.task("a1.16")
def test_an_unknown_id_in_a_stream(make_tokenizer, a1):
    tokenizer = make_tokenizer()
    a1.expect_value_error(
        lambda: list(tokenizer.decode_stream([97, 5000])),
        "the id 5000",
        names="5000",
    )
