"""Near duplicates: MinHash signatures, LSH bands, a check of the true Jaccard similarity, connected
components.

The Jaccard similarity of two documents is |A ∩ B| / |A ∪ B| of their sets of word n-grams. In
scripts without spaces between words (Chinese, Japanese, Thai, ...), every character counts as a
word: no dictionary is needed, and a changed character changes n of the text's n-grams, as a changed
word does elsewhere. Under a random hash function, the two sets have the same minimum with a
probability of exactly the Jaccard similarity, so the share of equal minima estimates it (Broder
1997). Cut into bands of r rows, two signatures share a band with probability 1 - (1 - s^r)^b
(Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.2): only such pairs are
compared. Similarity is treated as transitive, so that one document of a chain A ~ B ~ C stays.

What this leaves out: a table of bands larger than memory, and several machines.
"""

import hashlib
import string
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import regex
from pydantic import Field

from lm_core.random_state import derived_seed
from lm_core.settings import Settings

ASCII_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))
ACCENTS = regex.compile(r"(?<=[\p{Latin}\p{Greek}])[\u0300-\u036F]++")
# normalization sorts the marks of one character in quadratic time (UAX #15, section 13)
MARKS_AFTER_THE_30TH = regex.compile(r"(\p{M}{30})\p{M}++")
SCRIPTS_WITHOUT_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}"
)
CHARACTER_OR_WORD = regex.compile(rf"[{SCRIPTS_WITHOUT_BLANKS}]|[^\s{SCRIPTS_WITHOUT_BLANKS}]++")
WANTED_RECALL = 0.95  # of the pairs exactly at the threshold, the share that the bands must find
SHINGLES_AT_A_TIME = 1 << 14  # 16,384 shingles x 128 hashes x 8 bytes = 16 MiB


class MinHashSettings(Settings):
    """Thresholds for near duplicates.

    Attributes:
        threshold: Jaccard similarity from which two documents are duplicates.
        ngram_words: words in a shingle.
        num_hashes: length of a signature.
        seed: of the hash functions.
    """

    threshold: float = Field(default=0.8, gt=0, le=1)
    ngram_words: int = Field(default=5, ge=1)
    num_hashes: int = Field(default=128, ge=8)
    seed: int = 0


class _PunctuationToSpace(dict[int, str]):
    """A table for str.translate: punctuation becomes a space, invisible characters are removed, and
    every other character stays.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] == "P" or character in string.punctuation:
            character = " "
        elif category == "Cf":  # zero-width joiners, soft hyphens
            character = ""
        self[code] = character
        return character


PUNCTUATION_TO_SPACE = _PunctuationToSpace()


def normalize(text: str) -> list[str]:
    """Return the words of the text in the form in which duplicates are compared.

    Case, punctuation, spacing, compatibility forms (full-width letters), and Latin and Greek
    accents do not count. Marks of other scripts stay: は and ば, й and и are different letters.

    A text without a letter or digit becomes one word, the text itself without spaces, so two such
    texts are duplicates only if they are the same.
    """
    if text.isascii():
        words = text.lower().translate(ASCII_PUNCTUATION_TO_SPACE).split()
    else:
        decomposed = unicodedata.normalize("NFKD", MARKS_AFTER_THE_30TH.sub(r"\1", text))
        composed = unicodedata.normalize("NFC", ACCENTS.sub("", decomposed))
        words = []
        for word in composed.lower().translate(PUNCTUATION_TO_SPACE).split():
            words += [word] if word.isascii() else CHARACTER_OR_WORD.findall(word)
    return words or ["".join(text.split())]


def word_hash(word: str) -> int:
    """Return 64 bits of BLAKE2b; Python's own hash() of a string changes from run to run."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")


def shingle_hashes(words: Sequence[str], ngram_words: int) -> np.ndarray:
    """Return the set of the text's word n-grams, each as a 64-bit hash: sorted, distinct, uint64,
    shape [shingles].

    A text shorter than n words is one shingle. The hash of an n-gram is h = h * ODD + hash(word)
    (mod 2^64) over its words, mixed at the end; numpy computes it for all n-grams at once.
    """
    hashes = {word: word_hash(word) for word in set(words)}
    values = np.array([hashes[word] for word in words], dtype=np.uint64)
    length = min(ngram_words, len(values))
    if length == 0:
        return values
    count = len(values) - length + 1
    combined = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        combined = (
            combined * np.uint64(0x9E3779B97F4A7C15) + values[offset : offset + count]
        )  # wraps mod 2^64
    combined ^= combined >> np.uint64(31)
    return np.unique(combined * np.uint64(0xBF58476D1CE4E5B9))


def hash_functions(settings: MinHashSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return multipliers (odd) and offsets of the multiply-shift family h(x) = (a x + b mod 2^64)
    >> 32: uint64 [num_hashes].
    """
    generator = np.random.default_rng(derived_seed(settings.seed, "minhash"))
    numbers = generator.integers(0, 2**64, size=(2, settings.num_hashes), dtype=np.uint64)
    return numbers[0] | np.uint64(1), numbers[1]


def signature(shingles: np.ndarray, functions: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the smallest value of each hash function over the shingles: uint32, shape
    [num_hashes].
    """
    multipliers, offsets = functions
    smallest = np.full(len(multipliers), np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(shingles), SHINGLES_AT_A_TIME):
        block = shingles[start : start + SHINGLES_AT_A_TIME, None]  # [shingles, 1]
        values = ((block * multipliers + offsets) >> np.uint64(32)).astype(
            np.uint32
        )  # [shingles, hashes]
        np.minimum(smallest, values.min(axis=0), out=smallest)
    return smallest


def choose_bands(num_hashes: int, threshold: float) -> tuple[int, int]:
    """Return (bands, rows): the most rows with which a pair at the threshold still shares a band
    with a probability of at least WANTED_RECALL.

    With more rows, fewer pairs are checked needlessly; with fewer rows, fewer duplicates are
    missed. For 128 hashes and a threshold of 0.8 the result is 18 bands of 7 rows: a pair at 0.8 is
    found with probability 0.986, and a pair at 0.4 is compared with probability 0.03.
    """
    for rows in range(num_hashes, 1, -1):
        bands = num_hashes // rows
        if 1 - (1 - threshold**rows) ** bands >= WANTED_RECALL:
            return bands, rows
    return num_hashes, 1


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return the true Jaccard similarity of two sets of shingles (sorted, distinct); 1 if both are
    empty.
    """
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


class Components:
    """Union-find: groups of documents that a chain of duplicates connects."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def find(self, item: int) -> int:
        """Return the smallest member of the item's component."""
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, first: int, second: int) -> None:
        low, high = sorted((self.find(first), self.find(second)))
        self.parent[high] = low


def band_buckets(signatures: np.ndarray, bands: int, rows: int) -> Iterable[list[int]]:
    """Yield groups of two or more documents that agree in all rows of one band; signatures has
    shape [documents, num_hashes].
    """
    for band in range(bands):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        columns = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        for document, row in enumerate(columns):
            buckets[row.tobytes()].append(document)
        yield from (bucket for bucket in buckets.values() if len(bucket) > 1)


def duplicate_components(
    shingle_sets: Sequence[np.ndarray], settings: MinHashSettings
) -> list[int]:
    """Return, for each document, the first document of its component; for a document without
    duplicates, itself.

    Two documents of one bucket are joined if their true similarity reaches the threshold,
    regardless of their signatures.
    """
    components = Components(len(shingle_sets))
    if not shingle_sets:
        return []
    functions = hash_functions(settings)
    signatures = np.stack([signature(shingles, functions) for shingles in shingle_sets])
    bands, rows = choose_bands(settings.num_hashes, settings.threshold)
    checked: set[tuple[int, int]] = set()
    for bucket in band_buckets(signatures, bands, rows):
        for position, first in enumerate(bucket):
            for second in bucket[position + 1 :]:
                if (first, second) in checked or components.find(first) == components.find(second):
                    continue  # already known, or already together through others
                checked.add((first, second))
                if jaccard(shingle_sets[first], shingle_sets[second]) >= settings.threshold:
                    components.join(first, second)
    return [components.find(document) for document in range(len(shingle_sets))]


def first_of_each_component(texts: Iterable[str], settings: MinHashSettings) -> list[int]:
    """Return the positions of the texts to keep: the first of every component, in order."""
    sets = [shingle_hashes(normalize(text), settings.ngram_words) for text in texts]
    return [
        position
        for position, first in enumerate(duplicate_components(sets, settings))
        if position == first
    ]
