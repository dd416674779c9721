"""Near duplicates, written from the handout: whole numbers of Python, dictionaries and graphs."""

import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import regex

from lm_core.random_state import derived_seed
from lm_core.settings import Settings

SCRIPTS_WITHOUT_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}"
)
ODD, MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
ALONE = regex.compile(f"[{SCRIPTS_WITHOUT_BLANKS}]")
LATIN_OR_GREEK = regex.compile(r"[\p{Latin}\p{Greek}]")
ASCII_SIGNS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class MinHashSettings(Settings):
    threshold: float = 0.8
    ngram_words: int = 5
    num_hashes: int = 128
    num_bands: int | None = None
    seed: int = 0


def without_accents(text):
    kept = []
    after_letter = False
    for character in text:
        if "\u0300" <= character <= "\u036f" and after_letter:
            continue
        kept.append(character)
        after_letter = LATIN_OR_GREEK.match(character) is not None
    return "".join(kept)


def normalize(text):
    plain = unicodedata.normalize("NFC", without_accents(unicodedata.normalize("NFKD", text)))
    pieces = []
    for character in plain.lower():
        category = unicodedata.category(character)
        if category[0] == "P" or character in ASCII_SIGNS:
            pieces.append(" ")
        elif category != "Cf":
            pieces.append(character)
    words = ALONE.sub(lambda found: f" {found.group()} ", "".join(pieces)).split()
    if words:
        return words
    return ["".join(text.split())] if text.split() else [text]


def word_hash(word):
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = (value ^ byte) * 0x100000001B3 & (2**64 - 1)
    return value


def shingle_hashes(words, ngram_words):
    words = list(words)
    grams = {tuple(words[i : i + ngram_words]) for i in range(len(words) - ngram_words + 1)}
    if words and not grams:
        grams = {tuple(words)}
    numbers = set()
    for gram in grams:
        value = 0
        for word in gram:
            value = value * ODD + word_hash(word) & (2**64 - 1)
        numbers.add((value ^ value >> 31) * MIX & (2**64 - 1))
    return np.array(sorted(numbers), dtype=np.uint64)


def hash_functions(settings):
    generator = np.random.default_rng(derived_seed(settings.seed, "minhash"))
    numbers = generator.integers(0, 2**32, size=(2, settings.num_hashes), dtype=np.uint32)
    return numbers[0] | np.uint32(1), numbers[1]


def signature(shingles, functions):
    upper = (shingles >> np.uint64(32)).astype(np.uint32)
    values = [
        int((upper * a + b).min()) if len(upper) else 2**32 - 1
        for a, b in zip(*functions, strict=True)
    ]
    return np.array(values, dtype=np.uint32)


def candidate_probability(similarity, bands, rows):
    no_band = 1.0
    for _ in range(bands):
        no_band *= 1 - similarity**rows
    return 1 - no_band


def false_negative_rate(bands, rows, threshold):
    return (1 - threshold**rows) ** bands


def choose_bands(num_hashes, threshold):
    enough = [
        (num_hashes // rows, rows)
        for rows in range(2, num_hashes + 1)
        if candidate_probability(threshold, num_hashes // rows, rows) >= 0.95
    ]
    return max(enough, key=lambda choice: choice[1], default=(num_hashes, 1))


def bands_and_rows(settings):
    if settings.num_bands is None:
        return choose_bands(settings.num_hashes, settings.threshold)
    if settings.num_hashes % settings.num_bands:
        raise ValueError(f"{settings.num_bands} bands of {settings.num_hashes} hashes")
    return settings.num_bands, settings.num_hashes // settings.num_bands


def band_buckets(signatures, bands, rows):
    found = {}
    for document, numbers in enumerate(signatures.tolist()):
        for band in range(bands):
            key = (band, *numbers[band * rows : (band + 1) * rows])
            found.setdefault(key, []).append(document)
    return [group for group in found.values() if len(group) >= 2]


def jaccard(first, second):
    one, other = set(first.tolist()), set(second.tolist())
    return len(one & other) / len(one | other) if one | other else 1.0


class Components:
    """Each item knows its group, a list; the smaller group moves into the larger."""

    def __init__(self, size):
        self.group_of = [[item] for item in range(size)]

    def find(self, item):
        return min(self.group_of[item])

    def join(self, first, second):
        one, other = self.group_of[first], self.group_of[second]
        if one is other:
            return
        if len(one) < len(other):
            one, other = other, one
        one.extend(other)
        for item in other:
            self.group_of[item] = one


def duplicate_components(sets, settings):
    bands, rows = bands_and_rows(settings)
    functions = hash_functions(settings)
    # the same sets are one vertex
    first_of = {}
    for document, shingles in enumerate(sets):
        first_of.setdefault(shingles.tobytes(), document)
    different = sorted(first_of.values())
    components = Components(len(sets))
    for document, shingles in enumerate(sets):
        components.join(first_of[shingles.tobytes()], document)
    if different:
        table = np.stack([signature(sets[document], functions) for document in different])
        pairs = set()
        for bucket in band_buckets(table, bands, rows):
            pairs |= set(combinations(bucket, 2))
        for one, other in pairs:
            if jaccard(sets[different[one]], sets[different[other]]) >= settings.threshold:
                components.join(different[one], different[other])
    firsts = {}
    for document in range(len(sets)):
        firsts.setdefault(id(components.group_of[document]), document)
    return [firsts[id(components.group_of[document])] for document in range(len(sets))]


def first_of_each_component(texts, settings):
    sets = [shingle_hashes(normalize(text), settings.ngram_words) for text in texts]
    return sorted(set(duplicate_components(sets, settings)))


def deduplicate_documents(paths, num_hashes, num_bands, ngram_words, threshold, folder):
    paths, folder = [Path(path) for path in paths], Path(folder)
    settings = MinHashSettings(
        num_hashes=num_hashes, num_bands=num_bands, ngram_words=ngram_words, threshold=threshold
    )
    bands_and_rows(settings)
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two files are named {twice}")
    if any(path.resolve().parent == folder.resolve() for path in paths):
        raise ValueError("a file would be written over: choose another folder")
    contents = [path.read_bytes() for path in paths]
    texts = [content.decode("utf-8", errors="replace") for content in contents]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for position in first_of_each_component(texts, settings):
        target = folder / names[position]
        target.write_bytes(contents[position])
        written.append(target)
    return written
