"""a1.12 to a1.14: a tokenizer from a vocabulary, encode, decode."""

import math
import random
from collections import Counter

import numpy as np
import pytest

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import check_true

MODULE = "tokenizer_bpe.tokenizer"
HAND_MERGES = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
PERMUTED = (
    "the ids of this vocabulary are in another order: look up every id in the vocabulary, also "
    "those of single bytes"
)


def permuted(vocab):
    """Return the same tokens under other ids."""
    ids = list(vocab)
    random.Random(8).shuffle(ids)
    return dict(zip(ids, vocab.values(), strict=True))


# a1.12


@pytest.mark.task("a1.12")
def test_the_attributes(implementation, a1):
    before = dict(a1.vocab)
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    a1.expect(dict(tokenizer.vocab), before, "the attribute vocab is not the given vocabulary")
    a1.expect(list(tokenizer.merges), a1.merges, "the attribute merges is not the given merges")
    a1.expect(
        dict(tokenizer.special_tokens),
        {a1.END: 376},
        "the attribute special_tokens is not text -> id",
    )
    a1.expect(tokenizer.vocab_size, 377, "vocab_size is not the largest id plus one")


@pytest.mark.task("a1.12")
def test_special_tokens_are_appended(implementation, a1):
    vocab = a1.vocabulary(HAND_MERGES, [a1.END])
    before = dict(vocab)
    tokenizer = implementation(MODULE).Tokenizer(vocab, HAND_MERGES, ["<y>", a1.END, "<x>"])
    added = before | {262: b"<y>", 263: b"<x>"}
    twice = before | {262: b"<y>", 263: a1.END.encode(), 264: b"<x>"}
    causes = {
        "special tokens that the vocabulary lacks are not appended": before,
        f"{a1.END} is appended although the vocabulary has it": twice,
        "append them in the order given": before | {262: b"<x>", 263: b"<y>"},
    }
    a1.expect(
        dict(tokenizer.vocab), added, "the vocabulary with new special tokens is wrong", causes
    )
    ids = {"<y>": 262, a1.END: 261, "<x>": 263}
    a1.expect(dict(tokenizer.special_tokens), ids, "the attribute special_tokens is not text -> id")
    a1.expect(tokenizer.vocab_size, 264, "vocab_size does not count the appended tokens")
    a1.expect(vocab, before, "Tokenizer changes the vocabulary that it was given: work on a copy")


@pytest.mark.task("a1.12")
def test_a_vocabulary_with_unused_ids(implementation, a1):
    vocab = a1.vocabulary([], []) | {400: b"th"}
    tokenizer = implementation(MODULE).Tokenizer(vocab, [(b"t", b"h")], ["<x>"])
    a1.expect(
        dict(tokenizer.special_tokens),
        {"<x>": 401},
        "a new special token must get the largest id plus 1",
    )
    a1.expect(tokenizer.vocab_size, 402, "vocab_size is not the largest id plus one")


@pytest.mark.task("a1.12")
def test_bytes_of_each_token(implementation, a1):
    vocab = a1.vocabulary(HAND_MERGES, [a1.END]) | {300: "🦉".encode()}
    got = implementation(MODULE).Tokenizer(vocab, HAND_MERGES, [a1.END]).byte_lengths()
    expected = np.zeros(301, dtype=np.int32)
    expected[:261] = [len(token) for token in list(vocab.values())[:261]]
    expected[300] = 4
    check_true(
        isinstance(got, np.ndarray) and got.dtype == np.int32,
        f"byte_lengths: expected a NumPy array of int32, got {getattr(got, 'dtype', type(got))}",
    )
    causes = {
        "special tokens count 0, because they have no bytes of text": [
            *expected[:261].tolist(),
            13,
            *expected[262:].tolist(),
        ],
        "it must have one entry for every id below vocab_size": expected[:262].tolist(),
    }
    a1.expect(got.tolist(), expected.tolist(), "byte_lengths is wrong", causes)


@pytest.mark.task("a1.12")
@pytest.mark.parametrize("which", ["byte", "result", "order", "id", "twice", "empty"])
def test_what_is_no_tokenizer(implementation, a1, which):
    tokenizer_class = implementation(MODULE).Tokenizer
    vocab, merges, special_tokens = a1.vocabulary(HAND_MERGES, []), list(HAND_MERGES), []
    if which == "byte":
        del vocab[77]
        what = "a vocabulary without the byte 77"
    elif which == "result":
        del vocab[259]
        what = "a vocabulary without b'the', which a merge makes"
    elif which == "order":
        merges.reverse()
        what = "a merge of b'th' before the merge that makes it"
    elif which == "id":
        vocab[-1] = b"xyz"
        what = "a negative id"
    else:
        special_tokens = ["<x>", "<x>"] if which == "twice" else [""]
        what = f"the special tokens {special_tokens}"
    a1.expect_value_error(lambda: tokenizer_class(vocab, merges, special_tokens), what)


# a1.13


def check_ids(a1, tokenizer, text, expected, sentence, causes=None):
    """Compare ids; show wrong ids as their tokens too."""
    got = tokenizer.encode(text)
    try:
        a1.expect(got, expected, sentence, causes)
    except GradedFailure as failure:
        if not isinstance(got, list) or got == expected:
            raise
        named = [tokenizer.vocab.get(token_id, token_id) for token_id in got]
        raise GradedFailure(f"{failure}\n  got the tokens  {a1.shown(named)}") from None


@pytest.mark.task("a1.13")
def test_the_sentence_of_the_handout(implementation, a1):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocabulary(HAND_MERGES, []), HAND_MERGES)
    expected = [259, 257, 97, 116, 260, 101]
    check_ids(a1, tokenizer, "the cat ate", expected, "the ids of 'the cat ate' are wrong")


@pytest.mark.task("a1.13")
def test_the_earliest_merge_comes_first(implementation, a1):
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"c", b"d")]
    vocab = a1.vocabulary(merges, [])
    tokenizer = implementation(MODULE).Tokenizer(vocab, merges)
    causes = {
        "you take the longest token that fits: apply the merges in order, the earliest first": [
            258,
            100,
        ],
        "you merge from the left: apply the merges in order, the earliest first": [257, 259],
    }
    check_ids(a1, tokenizer, "abcd", [97, 256, 100], "the ids of 'abcd' are wrong", causes)


@pytest.mark.task("a1.13")
def test_a_merge_is_made_in_all_its_places_before_anything_else(implementation, a1):
    """(a, bc) makes abc, and (abc, a) comes before it in the list, but must wait."""
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"abc", b"a"), (b"a", b"bc")]
    vocab = {byte: bytes([byte]) for byte in range(256)}
    vocab |= {256: b"bc", 257: b"ab", 258: b"abc", 259: b"abca"}
    tokenizer = implementation(MODULE).Tokenizer(vocab, merges)
    cause = "apply a merge to all its occurrences before the pairs that it creates"
    causes = {f"(abc, a) was merged between two occurrences of (a, bc): {cause}": [259, 256]}
    check_ids(a1, tokenizer, "abcabc", [258, 258], "the ids of 'abcabc' are wrong", causes)


@pytest.mark.task("a1.13")
def test_a_merge_is_made_everywhere_from_the_left(implementation, a1):
    merges = [(b"a", b"a"), (b"aa", b"aa"), (b"aa", b"a")]
    tokenizer = implementation(MODULE).Tokenizer(a1.vocabulary(merges, []), merges)
    for length, expected in ((3, [258]), (5, [257, 97]), (7, [257, 258]), (11, [257, 257, 258])):
        text = "a" * length
        check_ids(a1, tokenizer, text, expected, f"the ids of {text!r} are wrong")


@pytest.mark.task("a1.13")
def test_ids_come_from_the_vocabulary(implementation, a1):
    vocab = permuted(a1.vocab)
    tokenizer = implementation(MODULE).Tokenizer(vocab, a1.merges, [a1.END])
    text = f"the other owl{a1.END}東京"
    expected = a1.encode(text, vocab, a1.merges, [a1.END])
    causes = {PERMUTED: a1.encode(text, a1.vocab, a1.merges, [a1.END])}
    check_ids(
        a1, tokenizer, text, expected, "the ids under a permuted vocabulary are wrong", causes
    )


@pytest.mark.task("a1.13")
@pytest.mark.parametrize("special", ["none", "one", "overlapping", "new"])
def test_special_tokens(implementation, a1, special):
    tokens = {
        "none": None,
        "one": [a1.END],
        "overlapping": [a1.END, a1.END * 2],
        "new": ["<x>", a1.END],
    }[special]
    vocab = dict(a1.vocab)
    text = f"the{a1.END}{a1.END}{a1.END} owl<x> end"
    tokenizer = implementation(MODULE).Tokenizer(vocab, a1.merges, tokens)
    for token in tokens or []:
        if token.encode() not in vocab.values():
            vocab[max(vocab) + 1] = token.encode()
    expected = a1.encode(text, vocab, a1.merges, tokens or [])
    cause = {
        "none": "no special tokens were given, so this one is ordinary text",
        "one": f"{a1.END} must become one id",
        "overlapping": "the shorter of two special tokens wins: try the longest first",
        "new": "a special token that the vocabulary lacks gets the largest id plus one",
    }[special]
    shorter = a1.encode(text, vocab, a1.merges, [a1.END] if special != "one" else [])
    sentence = f"the ids of a text with the special tokens {tokens} are wrong"
    check_ids(a1, tokenizer, text, expected, sentence, {cause: shorter})


@pytest.mark.task("a1.13")
def test_the_pattern_of_the_tokenizer(implementation, a1):
    merges = [(b"1", b"2"), (b"12", b"3"), (b"123", b"4")]
    tokenizer = implementation(MODULE).Tokenizer(a1.vocabulary(merges, []), merges, pattern=a1.GPT4)
    causes = {"the argument `pattern` is ignored": [258]}
    sentence = (
        "the ids of '1234' are wrong under GPT4_PATTERN, which ends a word after three digits"
    )
    check_ids(a1, tokenizer, "1234", [257, 52], sentence, causes)


@pytest.mark.task("a1.13")
def test_no_text_has_no_ids(implementation, a1):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    check_ids(a1, tokenizer, "", [], "the ids of an empty text are not the empty list")


@pytest.mark.task("a1.13")
def test_ids_as_made_by_tiktoken(implementation, a1):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    text = a1.CORPUS + "the otherwise theatrical owls’ nights, whatever the weather\n\n"
    try:
        import tiktoken
    except ImportError:
        expected = a1.encode(text, a1.vocab, a1.merges, [a1.END])
    else:
        ranks = {token: i for i, token in a1.vocab.items() if token != a1.END.encode()}
        oracle = tiktoken.Encoding(
            "a1", pat_str=a1.GPT2, mergeable_ranks=ranks, special_tokens={a1.END: 376}
        )
        expected = oracle.encode(text, allowed_special="all")
    check_ids(a1, tokenizer, text, expected, "your ids differ from those of tiktoken")


@pytest.mark.task("a1.13")
def test_a_batch(implementation, a1):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    texts = ["the owl", "", a1.END, "the owl"]
    got = [list(ids) for ids in tokenizer.encode_batch(text for text in texts)]
    expected = [a1.encode(text, a1.vocab, a1.merges, [a1.END]) for text in texts]
    a1.expect(got, expected, f"the ids of the batch {texts} are wrong")


@pytest.mark.task("a1.13")
@pytest.mark.parametrize(("largest_id", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_ids_as_an_array(implementation, a1, largest_id, dtype):
    vocab = dict(a1.vocab)
    vocab[largest_id] = vocab.pop(376)
    tokenizer = implementation(MODULE).Tokenizer(vocab, a1.merges, [a1.END])
    got = tokenizer.encode_to_array(f"the owl{a1.END}")
    check_true(
        isinstance(got, np.ndarray) and got.dtype == dtype and got.ndim == 1,
        f"with a largest id of {largest_id:,} encode_to_array returns "
        f"{getattr(got, 'dtype', type(got))}, expected {np.dtype(dtype).name} of shape [length]",
    )
    expected = a1.encode(f"the owl{a1.END}", vocab, a1.merges, [a1.END])
    a1.expect(got.tolist(), expected, "encode_to_array and encode give different ids")


@pytest.mark.task("a1.13")
def test_half_a_surrogate_pair(implementation, a1):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    a1.expect_value_error(lambda: tokenizer.encode("a\ud800b"), "half of a surrogate pair")


@pytest.mark.task("a1.13")
@pytest.mark.parametrize("letters", ["a", "eht"])
def test_a_long_word_is_no_trap(implementation, a1, letters):
    merges = [(b"a" * n, b"a" * n) for n in (1, 2, 4, 8, 16)] if letters == "a" else a1.merges
    tokenizer = implementation(MODULE).Tokenizer(a1.vocabulary(merges, []), merges)
    text = "".join(random.Random(9).choices(letters, k=4000))
    with a1.StepCounter(limit=1000 * len(text)) as counter:
        tokenizer.encode(text)
    check_true(
        counter.steps <= 1000 * len(text),
        f"encoding one word of {len(text):,} bytes takes more than {1000 * len(text):,} steps: do "
        "not look at the whole word again for every replacement; apply a merge to all its "
        "occurrences at once, or keep the pairs that can be merged in a heap",
    )


@pytest.mark.task("a1.13")
@pytest.mark.parametrize("letters", ["a", "eht"])
def test_a_long_word_is_no_trap_inside_of_c(implementation, a1, letters):
    """`min(map(...))` over the word is few steps, however long the word is, so this check measures
    time. Four times the letters take 16 times as long if every merge looks at the whole word. A
    first comparison that fails is followed by one of longer words, because an encoder may use
    another method from some length on.
    """
    merges = [(b"a" * n, b"a" * n) for n in (1, 2, 4, 8, 16)] if letters == "a" else a1.merges
    tokenizer_class, vocab = implementation(MODULE).Tokenizer, a1.vocabulary(merges, [])
    choose, made = random.Random(10).choices, Counter()

    def seconds(length):
        """Return the time of a word that was not encoded before, with a new tokenizer."""
        tokenizer, text = tokenizer_class(vocab, merges), "".join(choose(letters, k=length))
        text += letters[0] * made[length]
        made[length] += 1
        return a1.processor_seconds(tokenizer.encode, text)

    short = middle = long = math.inf
    for _ in range(5):  # tries: the first that passes is enough
        short, middle = min([short, *(seconds(240) for _ in range(5))]), min(middle, seconds(960))
        if middle <= 9 * short:
            return
    for _ in range(2):
        long = min(long, seconds(3840))
        if long <= 9 * middle:
            return
    raise GradedFailure(
        f"the time for a word grows with the square of its length: {middle / short:.0f} times from "
        f"240 to 960 bytes, and {long / middle:.0f} times from there to 3,840: do not look at the "
        "whole word again for every replacement; apply a merge to all its occurrences at once, or "
        "keep the pairs that can be merged in a heap"
    )


# a1.14


@pytest.mark.task("a1.14")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"the owl", "the owl"),
        ("🦉 東".encode(), "🦉 東"),
        (b"a\xffb", "a\ufffdb"),
        (b"\xf0\x9f\xa6", "\ufffd"),
        (b"\xf0\x9f\xa6 \xa9\xa9", "\ufffd \ufffd\ufffd"),
        (b"\xc3", "\ufffd"),
        (b"", ""),
    ],
    ids=["ascii", "characters", "never", "unfinished", "middle", "last", "empty"],
)
def test_decode_bytes(implementation, a1, content, expected):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    got = tokenizer.decode(list(content))
    one_by_one = "".join(bytes([byte]).decode("utf-8", "replace") for byte in content)
    causes = {
        "errors are ignored: invalid bytes become U+FFFD": content.decode("utf-8", "ignore"),
        "each token is decoded alone: join the bytes of all tokens first": one_by_one,
        "decoded as Latin-1: decode as UTF-8": content.decode("latin-1"),
    }
    a1.expect(got, expected, f"the text of the bytes {content} is wrong", causes)


@pytest.mark.task("a1.14")
def test_decode_other_ids_and_special_tokens(implementation, a1):
    vocab = permuted(a1.vocab)
    tokenizer = implementation(MODULE).Tokenizer(vocab, a1.merges, [a1.END])
    ids = a1.encode(a1.CORPUS, vocab, a1.merges, [a1.END])
    causes = {
        "special tokens are missing: decode them to their text": a1.CORPUS.replace(a1.END, "")
    }
    sentence = "decoding the ids of the small corpus does not return the corpus"
    a1.expect(tokenizer.decode(ids), a1.CORPUS, sentence, causes)
    a1.expect(tokenizer.decode(np.array(ids)), a1.CORPUS, f"{sentence}, from a NumPy array")
    a1.expect(tokenizer.decode(i for i in ids), a1.CORPUS, f"{sentence}, from a generator")


@pytest.mark.task("a1.14")
@pytest.mark.parametrize("token_id", [377, -1])
def test_an_id_that_is_not_there(implementation, a1, token_id):
    tokenizer = implementation(MODULE).Tokenizer(a1.vocab, a1.merges, [a1.END])
    a1.expect_value_error(
        lambda: tokenizer.decode([97, token_id]),
        f"the id {token_id}",
        "-1" if token_id < 0 else "377",
    )
