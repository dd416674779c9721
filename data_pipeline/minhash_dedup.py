"""Near duplicates: MinHash signatures, LSH bands, a check of the true Jaccard similarity, connected
components.

The Jaccard similarity of two documents is |A ∩ B| / |A ∪ B| of their sets of word n-grams. In
scripts without spaces between words (Chinese, Japanese, Thai, ...), every character counts as a
word: no dictionary is needed, and a changed character changes n of the text's n-grams, as a changed
word does elsewhere. Under a random hash function, the two sets have the same minimum with a
probability of exactly the Jaccard similarity, so the share of equal minima estimates it (Broder
1997). Cut into bands of r rows, two signatures share a band with probability 1 - (1 - s^r)^b
(Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.2): only such pairs are
compared, by their true similarity. Similarity is treated as transitive, so that one document of a
chain A ~ B ~ C stays. The n-grams are words, not characters: long texts of one language share most
of their short character n-grams, and a chain then joins all of them.

What this leaves out: more documents than memory holds (`out_of_core/`, the same clusters), compiled
loops (`compiled/`, the same numbers), texts made to collide, and several machines.
"""

import string
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import regex
from pydantic import Field

from lm_core.random_state import derived_seed
from lm_core.settings import Settings

ASCII_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))
ACCENTS = regex.compile(r"(?=[\u0300-\u036F])(?<=[\p{Latin}\p{Greek}])[\u0300-\u036F]++")
PUNCTUATION = regex.compile(rf"[\p{{P}}{regex.escape(string.punctuation)}]++")
INVISIBLE = regex.compile(r"\p{Cf}++")  # zero-width joiners, soft hyphens
# normalization sorts marks in quadratic time (UAX #15, section 13); U+FF9E and U+FF9F become marks
MARKS_AFTER_THE_30TH = regex.compile(r"([\p{M}\uFF9E\uFF9F]{30})[\p{M}\uFF9E\uFF9F]++")
SCRIPTS_WITHOUT_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}"
)
CHARACTER_OR_WORD = regex.compile(rf"[{SCRIPTS_WITHOUT_BLANKS}]|[^\s{SCRIPTS_WITHOUT_BLANKS}]++")
WANTED_RECALL = 0.95  # of the pairs exactly at the threshold, the share that the bands must find
ODD, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
SHINGLES_AT_A_TIME = 1 << 14  # 16,384 shingles x 128 hashes x 4 bytes = 8 MiB


class MinHashSettings(Settings):
    """Thresholds for near duplicates.

    Attributes:
        threshold: Jaccard similarity from which two documents are duplicates.
        ngram_words: words in a shingle.
        num_hashes: length of a signature.
        num_bands: a divisor of num_hashes; None takes what `choose_bands` returns.
        seed: of the hash functions.
    """

    threshold: float = Field(default=0.8, gt=0, le=1)
    ngram_words: int = Field(default=5, ge=1)
    num_hashes: int = Field(default=128, ge=1)
    num_bands: int | None = Field(default=None, ge=1)
    seed: int = 0


def normalize(text: str) -> list[str]:
    """Return the words of the text in the form in which duplicates are compared.

    Case, punctuation, spacing, compatibility forms (full-width letters), and Latin and Greek
    accents do not count. Marks of other scripts stay: は and ば, й and и are different letters.

    A text without a letter or digit becomes one word, the text itself without spaces, so two such
    texts are duplicates only if they are the same. A text of white space becomes one word as it is.

    >>> normalize("Crème brûlée, s'il vous plaît!")
    ['creme', 'brulee', 's', 'il', 'vous', 'plait']
    """
    if text.isascii():
        words = text.lower().translate(ASCII_PUNCTUATION_TO_SPACE).split()
    else:
        decomposed = unicodedata.normalize("NFKD", MARKS_AFTER_THE_30TH.sub(r"\1", text))
        composed = unicodedata.normalize("NFC", ACCENTS.sub("", decomposed))
        words = []
        for word in INVISIBLE.sub("", PUNCTUATION.sub(" ", composed.lower())).split():
            words += [word] if word.isascii() else CHARACTER_OR_WORD.findall(word)
    return words or ["".join(text.split()) or text]


def word_hash(word: str) -> int:
    """Return the 64-bit FNV-1a hash of the UTF-8 bytes; Python's hash() differs from run to run."""
    value = 0xCBF29CE484222325
    for byte in word.encode("utf-8"):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


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
        combined = combined * ODD + values[offset : offset + count]  # wraps mod 2^64
    return np.unique((combined ^ (combined >> np.uint64(31))) * MIX)


def hash_functions(settings: MinHashSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return multipliers (odd) and offsets of the functions h(x) = a x + b (mod 2^32), each of
    which permutes the 32-bit numbers: uint32 [num_hashes].
    """
    generator = np.random.default_rng(derived_seed(settings.seed, "minhash"))
    numbers = generator.integers(0, 2**32, size=(2, settings.num_hashes), dtype=np.uint32)
    return numbers[0] | np.uint32(1), numbers[1]


def signature(shingles: np.ndarray, functions: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the smallest value of each hash function over the shingles' upper 32 bits, uint32
    [num_hashes]; 2^32 - 1 if there are no shingles.
    """
    multipliers, offsets = functions
    smallest = np.full(len(multipliers), np.iinfo(np.uint32).max, dtype=np.uint32)
    upper = (shingles >> np.uint64(32)).astype(np.uint32)
    for start in range(0, len(upper), SHINGLES_AT_A_TIME):
        block = upper[start : start + SHINGLES_AT_A_TIME, None]  # [shingles, 1]
        values = block * multipliers + offsets  # [shingles, num_hashes], wraps mod 2^32
        smallest = np.minimum(smallest, values.min(axis=0))
    return smallest


def candidate_probability(similarity: float, bands: int, rows: int) -> float:
    """Return the probability that two documents share a band: the S-curve 1 - (1 - s^r)^b.

    More rows move the curve to the right, because all rows of a band must be equal; more bands move
    it to the left, because one equal band is enough.

    >>> round(candidate_probability(0.8, bands=18, rows=7), 3)
    0.986
    """
    return 1 - (1 - similarity**rows) ** bands


def false_negative_rate(bands: int, rows: int, threshold: float) -> float:
    """Return the share of pairs with a similarity of exactly the threshold that share no band."""
    return 1 - candidate_probability(threshold, bands, rows)


def choose_bands(num_hashes: int, threshold: float) -> tuple[int, int]:
    """Return (bands, rows): the most rows with which a pair at the threshold still shares a band
    with a probability of at least WANTED_RECALL. With more rows, fewer pairs are compared.

    For 128 hashes and a threshold of 0.8 the result is 18 bands of 7 rows: a pair at 0.8 is found
    with probability 0.986, and a pair at 0.4 is compared with probability 0.03.
    """
    for rows in range(num_hashes, 1, -1):
        bands = num_hashes // rows
        if candidate_probability(threshold, bands, rows) >= WANTED_RECALL:
            return bands, rows
    return num_hashes, 1


def bands_and_rows(settings: MinHashSettings) -> tuple[int, int]:
    """Return how signatures are cut: the given number of bands, or else that of `choose_bands`.

    Raises ValueError if `num_bands` does not divide `num_hashes`.
    """
    if settings.num_bands is None:
        return choose_bands(settings.num_hashes, settings.threshold)
    rows, left = divmod(settings.num_hashes, settings.num_bands)
    if left:
        hashes, bands = settings.num_hashes, settings.num_bands
        raise ValueError(
            f"expected num_bands to divide num_hashes; {bands} does not divide {hashes}"
        )
    return settings.num_bands, rows


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return the true Jaccard similarity of two sorted, distinct sets; 1 if both are empty."""
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
    """Yield groups of two or more documents that agree in all rows of one band."""
    for band in range(bands):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        columns = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        for document, row in enumerate(columns):
            buckets[row.tobytes()].append(document)
        yield from (bucket for bucket in buckets.values() if len(bucket) > 1)


def join_similar(
    bucket: list[int], sets: Sequence[np.ndarray], threshold: float, components: Components
) -> None:
    """Join every two documents of the bucket whose true similarity reaches the threshold.

    Documents of one component are not compared again: n copies of a text take n - 1 comparisons.
    """
    groups: list[list[int]] = []  # a group's documents are in one component
    for document in bucket:
        for group in groups:
            if components.find(group[0]) != components.find(document) and any(
                jaccard(sets[document], sets[other]) >= threshold for other in group
            ):
                components.join(document, group[0])
        own = components.find(document)
        home = next((group for group in groups if components.find(group[0]) == own), None)
        if home is None:
            groups.append(home := [])
        home.append(document)


def duplicate_components(sets: Sequence[np.ndarray], settings: MinHashSettings) -> list[int]:
    """Return the first document of each document's component; without duplicates, that is itself.

    Two documents are joined if they share a band and their true similarity reaches the threshold.
    Raises ValueError if the settings' `num_bands` does not divide `num_hashes`.
    """
    bands, rows = bands_and_rows(settings)
    functions = hash_functions(settings)
    signatures = np.empty((len(sets), settings.num_hashes), dtype=np.uint32)
    for document, shingles in enumerate(sets):
        signatures[document] = signature(shingles, functions)
    components = Components(len(sets))
    for bucket in band_buckets(signatures, bands, rows):
        join_similar(bucket, sets, settings.threshold, components)
    return [components.find(document) for document in range(len(sets))]


def first_of_each_component(texts: Iterable[str], settings: MinHashSettings) -> list[int]:
    """Return the positions of the texts to keep: the first of every component, in order."""
    sets = [shingle_hashes(normalize(text), settings.ngram_words) for text in texts]
    firsts = duplicate_components(sets, settings)
    return [position for position, first in enumerate(firsts) if position == first]


def deduplicate_documents(
    paths: Sequence[str | Path],
    num_hashes: int,
    num_bands: int,
    ngram_words: int,
    threshold: float,
    folder: str | Path,
) -> list[Path]:
    """Write one file of each cluster of near duplicates to `folder`, and return the paths written.

    Of a cluster, the file that comes first in `paths` is kept, under its own name and with its own
    bytes. For the comparison, bytes that are not UTF-8 become replacement characters. Files without
    visible text are duplicates only if they are the same; a file with fewer words than an n-gram is
    one shingle. The folder is made if it is missing, and other files in it stay.

    Raises ValueError if `num_bands` does not divide `num_hashes`, if two paths have the same file
    name, or if one of the files is in `folder`.
    """
    settings = MinHashSettings(
        threshold=threshold, ngram_words=ngram_words, num_hashes=num_hashes, num_bands=num_bands
    )
    sources: dict[str, Path] = {}
    for path in map(Path, paths):
        if path.name in sources:
            raise ValueError(f"{sources[path.name]} and {path} have the same file name; rename one")
        if path.resolve().parent == Path(folder).resolve():
            raise ValueError(f"{path} is in {folder}; expected another folder for the files kept")
        sources[path.name] = path
    texts = (path.read_bytes().decode("utf-8", errors="replace") for path in sources.values())
    kept = set(first_of_each_component(texts, settings))
    Path(folder).mkdir(parents=True, exist_ok=True)
    names = [name for position, name in enumerate(sources) if position in kept]
    for name in names:
        Path(folder, name).write_bytes(sources[name].read_bytes())
    return [Path(folder, name) for name in names]
