"""Near duplicates: an estimate that agrees with datasketch, and all shortcuts."""

import unicodedata

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.minhash_dedup import (
    Components,
    MinHashSettings,
    choose_bands,
    duplicate_components,
    first_of_each_component,
    hash_functions,
    jaccard,
    normalize,
    shingle_hashes,
    signature,
)

RNG = np.random.default_rng(7)


def random_words(count: int) -> list[str]:
    return [f"word{number}" for number in RNG.integers(0, 10_000_000, count)]


def sets_with_similarity(size: int, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of `size` random 64-bit numbers that have `shared` in common."""
    numbers = np.unique(RNG.integers(0, 2**64, 2 * size - shared, dtype=np.uint64))
    RNG.shuffle(numbers)
    return np.sort(numbers[:size]), np.sort(numbers[size - shared :])


def test_normalization_removes_accents_case_punctuation_and_spacing():
    assert normalize("  Crème-Brûlée,\n\tÉTÉ!! ") == ["creme", "brulee", "ete"]
    assert normalize("e\u0301te\u0301") == normalize("été")


def test_shingles_by_hand():
    words = ["a", "b", "c", "a", "b", "c"]  # 3-grams: abc bca cab abc -> three distinct
    assert len(shingle_hashes(words, 3)) == 3
    assert len(shingle_hashes(["a", "b"], 5)) == 1
    assert len(shingle_hashes([], 5)) == 0
    assert shingle_hashes(["a", "b"], 2) != shingle_hashes(["b", "a"], 2)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_jaccard_of_shingle_hashes_is_that_of_the_ngrams(first, second):
    def ngrams(words):
        return (
            {tuple(words[i : i + 2]) for i in range(len(words) - 1)}
            if len(words) > 1
            else {tuple(words)} - {()}
        )

    a, b = ngrams(first), ngrams(second)
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert jaccard(shingle_hashes(first, 2), shingle_hashes(second, 2)) == expected


@pytest.mark.parametrize("shared", [0, 200, 500, 800, 1000])
def test_equal_minima_estimate_the_similarity_as_well_as_datasketch(shared):
    settings = MinHashSettings(num_hashes=1024)
    a, b = sets_with_similarity(1000, shared)
    truth = jaccard(a, b)
    functions = hash_functions(settings)
    ours = np.mean(signature(a, functions) == signature(b, functions))
    theirs = []
    for numbers in (a, b):
        sketch = MinHash(num_perm=1024)
        sketch.update_batch([number.tobytes() for number in numbers])
        theirs.append(sketch)
    tolerance = 4 * np.sqrt(0.25 / 1024)  # four standard deviations of a mean of 1,024 coin flips
    assert abs(ours - truth) <= tolerance
    assert abs(ours - theirs[0].jaccard(theirs[1])) <= 2 * tolerance


def test_a_signature_does_not_depend_on_how_the_shingles_are_cut():
    functions = hash_functions(MinHashSettings())
    shingles, _ = sets_with_similarity(40_000, 0)
    parts = [signature(part, functions) for part in np.array_split(shingles, 7)]
    assert np.array_equal(signature(shingles, functions), np.minimum.reduce(parts))


def test_a_signature_depends_on_the_seed_and_not_on_the_run():
    shingles = shingle_hashes(["the", "same", "words"], 2)
    first = signature(shingles, hash_functions(MinHashSettings(num_hashes=8)))
    assert np.array_equal(first, signature(shingles, hash_functions(MinHashSettings(num_hashes=8))))
    assert not np.array_equal(
        first, signature(shingles, hash_functions(MinHashSettings(num_hashes=8, seed=1)))
    )


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_the_bands_fit_the_threshold(threshold):
    bands, rows = choose_bands(128, threshold)
    assert bands * rows <= 128
    found = 1 - (1 - threshold**rows) ** bands
    assert found >= 0.95
    fewer = 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1))
    assert fewer < 0.95, "more rows would still find enough and compare less"


def test_the_figures_in_the_docstring():
    assert choose_bands(128, 0.8) == (18, 7)
    assert pytest.approx(0.986, abs=5e-4) == 1 - (1 - 0.8**7) ** 18
    assert pytest.approx(0.03, abs=2e-3) == 1 - (1 - 0.4**7) ** 18


def near_copies(similarity: float, count: int) -> list[np.ndarray]:
    sets = []
    size = 1000
    shared = round(2 * size * similarity / (1 + similarity))
    for _ in range(count):
        sets += sets_with_similarity(size, shared)
    return sets


def test_pairs_above_the_threshold_are_found_and_pairs_below_are_not():
    above = duplicate_components(near_copies(0.9, 40), MinHashSettings())
    assert sum(first == i for i, first in enumerate(above)) == 40
    below = duplicate_components(near_copies(0.75, 40), MinHashSettings())
    assert below == list(range(80)), "the true similarity decides, not the bands"


def test_duplicates_are_transitive():
    """Each text is similar to the next (0.82), but the first is not similar to the last (0.5)."""
    numbers = np.sort(RNG.integers(0, 2**64, 2000, dtype=np.uint64))
    chain = [np.sort(numbers[start : start + 1000]) for start in range(0, 400, 100)]
    assert jaccard(chain[0], chain[1]) > 0.8
    assert jaccard(chain[0], chain[3]) < 0.6
    assert duplicate_components(chain, MinHashSettings()) == [0, 0, 0, 0]
    assert (
        duplicate_components([chain[3], chain[0], chain[2], chain[1]], MinHashSettings()) == [0] * 4
    )


def test_texts_that_differ_in_case_accents_and_punctuation_are_one():
    words = [*random_words(200), "été"]
    texts = [
        " ".join(words),
        " ".join(random_words(200)),
        ", ".join(words).upper() + "!",
        "\n".join(words),
    ]
    assert first_of_each_component(texts, MinHashSettings()) == [0, 1]


def test_no_texts_and_empty_texts():
    assert first_of_each_component([], MinHashSettings()) == []
    assert first_of_each_component(["", "...", "a b", "", "\n"], MinHashSettings()) == [
        *(0, 1, 2, 4)
    ], "white space is compared as it is"


def test_texts_without_a_letter_are_compared_as_they_are():
    texts = ["...", "!!!", ". . .", "---\n", "…", "😀", "😀 ", "😁", "。。。", "...", "!?"]
    assert first_of_each_component(texts, MinHashSettings()) == [0, 1, 3, 4, 5, 7, 8, 10]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("はは", "ばば"), ("ハート", "パート"), ("мой", "мои"), ("всё", "все"),  # kana, Cyrillic
        ("कि", "कु"), ("কি", "কু"), ("กี", "กู"), ("ကိ", "ကု"),  # vowel signs
        ("שָׁ", "שׂ"), ("عَلَّم", "عُلِم"),
    ],
)  # fmt: skip
def test_marks_that_make_another_letter_stay(one, other):
    assert normalize(one) != normalize(other)
    decomposed = unicodedata.normalize("NFD", one)
    assert normalize(decomposed) == normalize(one), "in every Unicode normalization form"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ﾊﾞｰ", "バー"), ("ＡＢＣ　１", "abc 1"), ("ﬁn—de", "fin de"), ("ΆΛΦΑ", "αλφα"),
        ("İzmir", "izmir"), ("co\u00adop", "coop"), ("„so“, «so»", "so so"), ("何。故？", "何 故"),
    ],
)  # fmt: skip
def test_other_ways_to_write_the_same_are_the_same(one, other):
    assert normalize(one) == normalize(other)


def test_characters_are_words_where_no_blanks_are_written():
    assert normalize("我爱 Python 编程") == ["我", "爱", "python", "编", "程"]
    assert normalize("한국어 문장") == ["한국어", "문장"], "Korean has spaces between words"
    assert len(normalize("ภาษาไทย")) == 7


ALPHABETS = {
    "Chinese": "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
    "Japanese": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほ日本語東京大阪",
    "Thai": "กขคงจชซญณดตถทธนบปผพฟภมยรลวศษสหอะาเแโใไ",
    "Khmer": "កខគឃងចឆជឈញដឋឌឍណតថទធនបផពភមយរលវសហឡអ",
}


@pytest.mark.parametrize("language", ALPHABETS)
def test_near_copies_are_found_in_languages_without_blanks(language):
    letters = np.array(list(ALPHABETS[language]))
    first = "".join(RNG.choice(letters, 600))
    other = "".join(RNG.choice(letters, 600))
    copy = first[:200] + letters[0] + first[201:400] + first[401:] + letters[1] * 3
    shingles = [shingle_hashes(normalize(text), 5) for text in (first, copy, other)]
    by_hand = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (first, copy, other)]
    for one, two in ((0, 1), (0, 2)):
        expected = len(by_hand[one] & by_hand[two]) / len(by_hand[one] | by_hand[two])
        assert jaccard(shingles[one], shingles[two]) == expected
    assert first_of_each_component([first, other, copy], MinHashSettings()) == [0, 1]


def test_a_pile_of_marks_does_not_take_the_square_of_its_length():
    assert len(normalize("я" + "\u0316\u0301" * 50_000)[0]) <= 32


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15))
def test_components_against_repeated_relabelling(pairs):
    components = Components(10)
    labels = list(range(10))
    for first, second in pairs:
        components.join(first, second)
        old, new = max(labels[first], labels[second]), min(labels[first], labels[second])
        labels = [new if label == old else label for label in labels]
    assert [components.find(item) for item in range(10)] == labels
