"""a3_data.11 and a3_data.12: words, shingles and signatures."""

import unicodedata

import numpy as np
import pytest
from minhash_oracle import minima, ngram_hash, ngram_hashes, random_sets

MODULE = "data_pipeline.minhash_dedup"

# a3_data.11


def with_accents_kept(text):
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


@pytest.mark.task("a3_data.11")
def test_the_words_of_a_sentence(implementation, a3_data):
    text = "Crème brûlée, s'il vous plaît!"
    causes = {
        "accents do not count: decompose the characters, and remove the marks behind Latin letters":
            with_accents_kept(text),
        "case does not count: use lower()": ["Creme", "brulee", "s", "il", "vous", "plait"],
        "punctuation stays in your words: replace it by spaces":
            ["creme", "brulee,", "s'il", "vous", "plait!"],
        "punctuation separates words: replace it by a space, do not just remove it":
            ["creme", "brulee", "sil", "vous", "plait"],
        "return the list of words, not the text": "creme brulee s il vous plait",
    }  # fmt: skip
    expected = ["creme", "brulee", "s", "il", "vous", "plait"]
    a3_data.expect(implementation(MODULE).normalize(text), expected, f"normalize({text!r})", causes)


@pytest.mark.task("a3_data.11")
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_form_of_a_character_is_the_same(implementation, a3_data, form):
    normalize = implementation(MODULE).normalize
    for text, expected in [
        ("Ἀρχὴ café", ["αρχη", "cafe"]),
        ("мой всё", ["мой", "всё"]),
        ("ばら", ["ば", "ら"]),
        ("한국어", ["한국어"]),
    ]:
        written = unicodedata.normalize(form, text)
        causes = {
            "only Latin and Greek letters lose their marks: й and и are different letters":
                ["мои", "все"],
            "these are characters of another form: compose again (NFC) after the accents are gone":
                [unicodedata.normalize("NFD", word) for word in expected],
            "accents in this form are kept": with_accents_kept(written),
        }  # fmt: skip
        got = normalize(written)
        a3_data.expect(got, expected, f"normalize({text!r} in the form {form})", causes)


@pytest.mark.task("a3_data.11")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢＣ　１２", ["abc", "12"]),
        ("ﬁn—de «x» co\u00adop a\u200bb", ["fin", "de", "x", "coop", "ab"]),
        ("é+b=c $5 <i> x_y ~", ["e", "b", "c", "5", "i", "x", "y"]),
        ("5 € Ünïcode ½", ["5", "€", "unicode", "1⁄2"]),
        ("  one\t two\r\n\u00a0three\u2003", ["one", "two", "three"]),
        ("\u01c6 \u01c4", ["dz", "dz"]),
        ("a\u20d7 b\u034f c\u0327\u0483", ["a\u20d7", "b", "c\u0483"]),
        ("ΑΣ'Α ΟΔΟΣ", ["ασ", "α", "οδος"]),
    ],
    ids=[
        "full-width",
        "invisible",
        "ascii-signs",
        "other-signs",
        "blanks",
        "two-letters-and-mark",
        "other-marks",
        "final-sigma",
    ],
)
def test_other_ways_to_write_the_same(implementation, a3_data, text, expected):
    causes = {
        "compatibility forms count in yours: use NFKD, not NFD": with_accents_kept(text),
        "the signs of ASCII (string.punctuation) are punctuation here, too: $ + < = > ^ ` | ~": (
            lambda got: isinstance(got, list) and any(set("$+<=>|~_") & set(word) for word in got)
        ),
        "decompose by NFKD at once: a mark that NFKC brings later stays": ["dž", "dž"],
        "only the marks U+0300 to U+036F are dropped, each of them, and no others": (
            lambda got: "\u20d7" in text and got != expected
        ),
        "lower case comes before punctuation: at the end of a word, Σ becomes ς": (
            lambda got: got[0] == "ας"
        ),
        "invisible characters (\\p{Cf}) are removed, and separate nothing": (
            lambda got: isinstance(got, list) and {"a\u200bb", "co", "co\u00adop"} & set(got)
        ),
    }
    a3_data.expect(implementation(MODULE).normalize(text), expected, f"normalize({text!r})", causes)


@pytest.mark.task("a3_data.11")
def test_characters_are_words_where_no_blanks_are_written(implementation, a3_data):
    normalize = implementation(MODULE).normalize
    for text, expected in [
        ("我爱 Python编程3", ["我", "爱", "python", "编", "程", "3"]),
        ("ภาษาไทย", list("ภาษาไทย")),
        ("한국어 문장", ["한국어", "문장"]),
        ("ハート、ひらがな", list("ハートひらがな")),
    ]:
        causes = {
            "each character of these scripts is a word (SCRIPTS_WITHOUT_BLANKS)": text.split(),
            "Korean is written with spaces between its words": list("한국어문장"),
        }
        a3_data.expect(normalize(text), expected, f"normalize({text!r})", causes)


@pytest.mark.task("a3_data.11")
@pytest.mark.parametrize(
    ("text", "expected"),
    [("", [""]), (" \n", [" \n"]), ("...", ["..."]), (". -\n.", [".-."]), ("\u00ad", ["\u00ad"])],
    ids=["empty", "blank", "points", "points-and-blanks", "invisible"],
)
def test_texts_without_words(implementation, a3_data, text, expected):
    causes = {
        "without a word, the text itself is the only word: else all such texts are duplicates": [],
        "remove the blanks of a text without words": [text],
    }
    a3_data.expect(implementation(MODULE).normalize(text), expected, f"normalize({text!r})", causes)


@pytest.mark.task("a3_data.11")
def test_the_hash_of_an_ngram_by_hand(implementation, a3_data):
    words = ["to", "be", "or"]
    got = implementation(MODULE).shingle_hashes(words, 3)
    causes = {
        "the hash is not mixed at the end: (h ^ (h >> 31)) * MIX":
            [ngram_hash(words, mixing=False)],
        "the first word is multiplied most often: h = h * ODD + hash(word)":
            [ngram_hash(words[::-1])],
        "the n-gram is hashed as one string: combine the hashes of its words":
            lambda numbers: len(numbers) == 1,
    }  # fmt: skip
    what = "shingle_hashes(['to', 'be', 'or'], 3)"
    a3_data.check_array(got, [ngram_hash(words)], "uint64", what, causes)


@pytest.mark.task("a3_data.11")
def test_the_set_of_ngrams(implementation, a3_data):
    words = ["to", "be", "or", "not", "to", "be"]
    expected = ngram_hashes(words, 2)
    got = implementation(MODULE).shingle_hashes(words, 2)
    in_order = [ngram_hash(words[start : start + 2]) for start in range(5)]
    causes = {
        "(to, be) occurs twice and is one element of the set": sorted(in_order),
        "the result is a set in ascending order: sorted and distinct": in_order,
        "the last n-gram is missing: there are len(words) - n + 1": ngram_hashes(words[:-1], 2),
        "these are single words": ngram_hashes(words, 1),
        "n-grams overlap: one begins at every word": sorted({*in_order[::2]}),
    }
    what = "shingle_hashes of 'to be or not to be' in pairs"
    a3_data.check_array(got, expected, "uint64", what, causes)


@pytest.mark.task("a3_data.11")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_texts_shorter_than_an_ngram(implementation, a3_data, count):
    words = ["a", "rose", "is", "a", "rose", "is"][:count]
    got = implementation(MODULE).shingle_hashes(words, 4)
    causes = {
        "a text shorter than n words is one shingle: without any, all short texts are duplicates":
            [],
        "a text shorter than n words is one shingle of all its words": ngram_hashes(words, 1),
    }  # fmt: skip
    what = f"shingle_hashes of {count} words and ngram_words=4"
    a3_data.check_array(got, ngram_hashes(words, 4), "uint64", what, causes)


@pytest.mark.task("a3_data.11")
def test_no_words_have_no_shingles(implementation, a3_data):
    got = implementation(MODULE).shingle_hashes([], 5)
    a3_data.check_array(got, [], "uint64", "shingle_hashes of no words")


# a3_data.12


def functions_of(multipliers, offsets):
    return np.array(multipliers, dtype=np.uint32), np.array(offsets, dtype=np.uint32)


@pytest.mark.task("a3_data.12")
def test_a_signature_by_hand(implementation, a3_data):
    shingles = np.array([5, 7, 2], dtype=np.uint64) << np.uint64(32)
    got = implementation(MODULE).signature(shingles, functions_of([1, 3], [10, 0]))
    causes = {
        "use the upper 32 bits of each shingle: shift it to the right by 32": [10, 0],
        "keep the smallest value of each function, not the largest": [17, 21],
        "the offset is added: a x + b": [2, 6],
        "this is the value of the first shingle only": [15, 15],
        "this is the smallest shingle under each function of the other: one value per function":
            [6, 12],
    }  # fmt: skip
    a3_data.check_array(got, [12, 6], "uint32", "the signature of 5, 7 and 2", causes)


@pytest.mark.task("a3_data.12")
def test_values_wrap(implementation, a3_data):
    upper = [0x80000001, 3, 0xFFFFFFFF]
    lower = [0xFFFFFFFF, 1, 0]
    each = [(high << 32) + low for high, low in zip(upper, lower, strict=True)]
    multipliers, offsets = [3, 0x9E3779B1, 0xFFFFFFFF], [5, 0xFFFFFFFF, 2**31]
    shingles = np.array(sorted(each), dtype=np.uint64)
    got = implementation(MODULE).signature(shingles, functions_of(multipliers, offsets))
    pairs = list(zip(multipliers, offsets, strict=True))
    causes = {
        "the values do not wrap: a x + b is modulo 2^32": lambda numbers: (
            numbers == [min(a * x + b for x in upper) & 0xFFFFFFFF for a, b in pairs]
        ),
        "use the upper 32 bits of each shingle, not the lower": minima(
            [number << 32 for number in lower], multipliers, offsets
        ),
    }
    expected = minima(each, multipliers, offsets)
    a3_data.check_array(got, expected, "uint32", "the signature of large numbers", causes)


@pytest.mark.task("a3_data.12")
def test_a_document_without_shingles(implementation, a3_data):
    empty = np.array([], dtype=np.uint64)
    got = implementation(MODULE).signature(empty, functions_of([1, 3, 5], [0, 1, 2]))
    causes = {
        "a minimum of nothing is the largest number, 2^32 - 1": [0, 0, 0],
        "there is one number for each function, however many there are": (
            lambda numbers: len(numbers) != 3
        ),
    }
    a3_data.check_array(got, [2**32 - 1] * 3, "uint32", "the signature without shingles", causes)


@pytest.mark.task("a3_data.12")
def test_each_call_has_functions_of_its_own(implementation, a3_data):
    """Python gives the id() of an object that is gone to another one."""
    signature = implementation(MODULE).signature
    shingles = np.array([5], dtype=np.uint64) << np.uint64(32)
    for count in (2, 2, 3, 1):
        for first in (1, 7):
            multipliers = [first + 2 * number for number in range(count)]
            got = signature(shingles, functions_of(multipliers, [0] * count))
            causes = {
                "these are the functions of an earlier call: keep nothing of it, or not by id(), "
                "which an object that comes later may have, too": lambda _: True
            }
            what = f"the signature of 5 with the multipliers {multipliers}, after other calls"
            a3_data.check_array(got, [5 * each for each in multipliers], "uint32", what, causes)


@pytest.mark.task("a3_data.12")
@pytest.mark.parametrize("shared", [200, 500, 800])
def test_equal_minima_estimate_the_similarity(implementation, a3_data, shared):
    """For 2,048 functions, within four standard deviations: 0.045."""
    module = implementation(MODULE)
    functions = module.hash_functions(module.MinHashSettings(num_hashes=2048))
    first, second = random_sets(1000, shared)
    one, other = (
        a3_data.array(module.signature(each, functions), "signature") for each in (first, second)
    )
    similarity = shared / (2000 - shared)
    estimate = float(np.mean(one == other))
    a3_data.true(
        abs(estimate - similarity) <= 0.045,
        f"two sets share {shared:,} of {2000 - shared:,} shingles, so about {similarity:.3f} of "
        f"their minima are equal; of yours {estimate:.3f}",
    )


def borders_of_blocks(count, most):
    """Places beside multiples of usual lengths of blocks, and others: `most` in all."""
    lengths = [1 << power for power in range(8, 17)] + [1000, 10_000, 50_000, 100_000]
    lengths += [(unit << 20) // (size * 256) for unit in (1, 10, 50) for size in (1, 4, 8)]
    places = {0, count - 1}
    for length in lengths:
        last = count // length * length
        places |= {last - 1, last, length - 1, length}
    rng = np.random.default_rng(3)
    others = rng.permutation(count)[: most - len({p for p in places if 0 <= p < count})]
    return sorted({p for p in places if 0 <= p < count} | set(others.tolist()))


@pytest.mark.task("a3_data.12")
def test_a_long_document_takes_little_memory(implementation, a3_data):
    """For many of the functions, the smallest value is 0, at a place where a block may end."""
    module = implementation(MODULE)
    functions = module.hash_functions(module.MinHashSettings(num_hashes=256))
    rng = np.random.default_rng(1)
    shingles = np.sort(rng.integers(0, 2**64, 120_000, dtype=np.uint64))
    places = borders_of_blocks(len(shingles), 240)
    upper = (shingles[places] >> np.uint64(32)).astype(np.uint32)
    functions[1][: len(places)] = -functions[0][: len(places)] * upper
    got = module.signature(shingles, functions)
    expected = minima(shingles, *functions)
    causes = {
        "a shingle was left out: is the last of each block taken, and the last block?": (
            lambda numbers: all(one >= other for one, other in zip(numbers, expected, strict=True))
        )
    }
    a3_data.check_array(got, expected, "uint32", "the signature of 120,000 shingles", causes)
    most = a3_data.peak_bytes(lambda: module.signature(shingles, functions))
    a3_data.true(
        most <= 100 << 20,
        "signature makes the whole table of 120,000 shingles and 256 functions (123 MB): go "
        "through the shingles in blocks, and keep the minimum so far",
        {"bytes": most, "at most": 100 << 20},
    )
