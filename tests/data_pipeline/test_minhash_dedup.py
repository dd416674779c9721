"""Near duplicates: an estimate that agrees with datasketch, and all shortcuts."""

import unicodedata

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import minhash_dedup
from data_pipeline.minhash_dedup import (
    Components,
    MinHashSettings,
    bands_and_rows,
    candidate_probability,
    choose_bands,
    deduplicate_documents,
    duplicate_components,
    false_negative_rate,
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


def test_word_hashes_are_fnv_1a():
    """The published test vectors."""
    assert minhash_dedup.word_hash("") == 0xCBF29CE484222325
    assert minhash_dedup.word_hash("a") == 0xAF63DC4C8601EC8C
    assert minhash_dedup.word_hash("foobar") == 0x85944171F73967E8


def test_ngrams_of_words_that_differ_in_one_digit_have_different_hashes():
    numbers = [str(number) for number in range(10)]
    words = [numbers[i] for i in RNG.integers(0, 10, 300_000)]
    ngrams = {tuple(words[i : i + 8]) for i in range(len(words) - 7)}
    assert len(shingle_hashes(words, 8)) == len(ngrams) > 298_000


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


def test_the_s_curve_by_hand():
    assert candidate_probability(0.5, bands=1, rows=2) == 0.25
    assert candidate_probability(0.5, bands=2, rows=1) == 0.75
    assert candidate_probability(0.5, bands=2, rows=2) == 0.4375  # 1 - 0.75^2
    assert candidate_probability(0.0, 16, 8) == 0 and candidate_probability(1.0, 16, 8) == 1
    assert false_negative_rate(bands=2, rows=2, threshold=0.5) == 0.5625


@pytest.mark.parametrize(("bands", "rows"), [(16, 4), (4, 16)])
def test_the_s_curve_is_what_bands_of_real_signatures_do(bands, rows):
    """Catches bands and rows that are swapped: 0.99 and 0.11 of the pairs share a band."""
    functions = hash_functions(MinHashSettings(num_hashes=64))
    sets = near_copies(0.73, 200)
    signatures = np.stack([signature(shingles, functions) for shingles in sets])
    buckets = minhash_dedup.band_buckets(signatures, bands, rows)
    shared = {first for first, *others in buckets if others == [first + 1]}
    expected = candidate_probability(0.73, bands, rows)
    tolerance = 4 * np.sqrt(expected * (1 - expected) / 200)
    assert abs(len(shared) / 200 - expected) <= tolerance + 0.005


def test_bands_must_divide_the_hashes():
    assert bands_and_rows(MinHashSettings(num_hashes=64, num_bands=16)) == (16, 4)
    assert bands_and_rows(MinHashSettings()) == choose_bands(128, 0.8)
    with pytest.raises(ValueError, match="divide num_hashes; 20 does not divide 128"):
        first_of_each_component(["a"], MinHashSettings(num_bands=20))


def test_copies_of_one_text_are_not_compared_pair_by_pair(monkeypatch):
    calls, finds, find = [], [], Components.find
    monkeypatch.setattr(minhash_dedup, "jaccard", lambda *sets: calls.append(1) or jaccard(*sets))
    monkeypatch.setattr(Components, "find", lambda *given: finds.append(1) or find(*given))
    copies = [shingle_hashes(["one", "text"], 2)] * 300
    assert duplicate_components(copies, MinHashSettings()) == [0] * 300
    assert len(calls) == 299
    assert len(finds) < 6 * 300 * 18, "a few for each document and band"


def test_a_document_in_a_bucket_joins_every_group_that_it_is_similar_to():
    """The third is similar to both others, which are not similar to each other."""
    numbers = np.sort(RNG.integers(0, 2**64, 14, dtype=np.uint64))
    sets = [numbers[:10], numbers[4:], numbers[2:12]]
    settings = MinHashSettings(threshold=0.6, num_hashes=64, num_bands=64)
    assert jaccard(sets[0], sets[1]) < 0.6 <= jaccard(sets[0], sets[2])
    assert duplicate_components(sets, settings) == [0, 0, 0]


def test_texts_of_common_letters_are_not_all_one():
    """By character n-grams, long texts of one language are similar, and chains join them all."""
    vocabulary = ["the", "then", "there", "ether", "tree", "three", "here", "her"]
    texts = [" ".join(RNG.choice(vocabulary, 2000)) for _ in range(8)]
    letters = [{text[i : i + 5] for i in range(len(text) - 4)} for text in texts[:2]]
    assert len(letters[0] & letters[1]) / len(letters[0] | letters[1]) > 0.8
    assert first_of_each_component(texts, MinHashSettings()) == list(range(8))


@pytest.fixture
def write(tmp_path):
    """Write files, and return their paths."""

    def write(contents):
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, content in contents.items():
            (tmp_path / "in" / name).write_bytes(content)
        return [tmp_path / "in" / name for name in contents]

    return write


def names_kept(paths, folder, num_hashes=128, num_bands=32, ngram_words=3, threshold=0.8):
    """Return the names of the files that deduplicate_documents writes, and check their bytes."""
    written = deduplicate_documents(paths, num_hashes, num_bands, ngram_words, threshold, folder)
    assert sorted(folder.iterdir()) == sorted(written)
    for path in paths:
        if folder / path.name in written:
            assert (folder / path.name).read_bytes() == path.read_bytes()
    return [path.name for path in written]


def test_one_file_of_each_cluster_is_written_as_it_was(write, tmp_path):
    words = random_words(100)
    text, other = " ".join(words).encode(), " ".join(random_words(100)).encode()
    paths = write(
        {
            "b.txt": text + b"\r\n\xff\x00 " + "été".encode(),
            "a.txt": text.upper() + b"!\n",
            "d.txt": other,
            "c.txt": text,
            "e.bin": b"\x80\x81 caf\xe9 \xfe\xff" + other,
        }
    )
    assert names_kept(paths, tmp_path / "out" / "deep") == ["b.txt", "d.txt"]
    backwards = names_kept(paths[::-1], tmp_path / "other")
    assert backwards == ["e.bin", "c.txt"], "the first in the order of the paths is kept"


def test_candidates_are_verified_and_bands_find_them(write, tmp_path):
    """With bands of one row, nearly all pairs are candidates; with one band, nearly none is."""
    words = random_words(300)
    contents = {f"{start}": " ".join(words[start : start + 200]) for start in (0, 5, 60)}
    paths = write({name: text.encode() for name, text in contents.items()})
    assert names_kept(paths, tmp_path / "a", num_bands=128, ngram_words=1) == ["0", "60"]
    assert names_kept(paths, tmp_path / "b", num_bands=1, ngram_words=1) == ["0", "5", "60"]
    assert names_kept(paths, tmp_path / "c", num_bands=32, ngram_words=1) == ["0", "60"]
    assert names_kept(paths, tmp_path / "d", num_bands=128, threshold=0.5, ngram_words=1) == ["0"]


def test_clusters_of_files_are_transitive(write, tmp_path):
    words = random_words(300)
    starts = (60, 0, 40, 20)
    paths = write({f"{s}": " ".join(words[s : s + 200]).encode() for s in starts})
    assert names_kept(paths, tmp_path / "a", ngram_words=1) == ["60"]


def test_empty_and_short_files(write, tmp_path):
    contents = {"1": b"", "2": b" \n", "3": b"", "4": b"...", "5": b"!!!", "6": b"two words"}
    contents |= {"7": b"Two, words!", "8": b"two", "9": b" \r\n", "10": b"..."}
    assert names_kept(write(contents), tmp_path / "out", ngram_words=5) == [
        *("1", "2", "4", "5", "6", "8", "9")
    ]
    assert deduplicate_documents([], 128, 32, 5, 0.8, tmp_path / "none") == []
    assert not list((tmp_path / "none").iterdir())


def test_what_deduplicate_documents_refuses(write, tmp_path):
    path = write({"a.txt": b"text"})[0]
    (tmp_path / "b").mkdir()
    twin = tmp_path / "b" / "a.txt"
    twin.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"in/a\.txt and .*b/a\.txt have the same file name"):
        deduplicate_documents([path, twin], 128, 32, 5, 0.8, tmp_path / "out")
    with pytest.raises(ValueError, match="20 does not divide 128"):
        deduplicate_documents([path], 128, 20, 5, 0.8, tmp_path / "out")
    with pytest.raises(ValueError, match="expected another folder"):
        deduplicate_documents([path], 128, 32, 5, 0.8, tmp_path / "b" / ".." / "in")
    with pytest.raises(ValueError, match="num_bands"):
        deduplicate_documents([path], 128, 0, 5, 0.8, tmp_path / "out")
    assert not (tmp_path / "out").exists() and path.read_bytes() == b"text"
