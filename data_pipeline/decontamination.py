"""Decontamination: training documents that contain a part of an evaluation set.

A model that has read the questions of a test is not measured by it. GPT-3 (Brown et al. 2020,
appendix C) looks for n-grams of 13 words that a training document shares with an item of an
evaluation set. Case, punctuation and spacing do not count. An n-gram in more than 10 training
documents is a common phrase or a license and is ignored. GPT-3 cuts 200 characters on both sides of
each n-gram; by default, this file drops the whole document.

An item of 8 to 12 words is searched as a whole. A shorter one is not searched, because it would be
found everywhere; the report counts it. An evaluation set of which nothing can be searched is
refused: it would always look clean.

The steps: `index_of_files` once, `contaminations` for each document, in any process, then
`common_ngrams` and `contamination_report` for all documents, and `clean_pieces` for each.

What this leaves out: paraphrases, translations, and documents that hold less than n words of an
item. N-grams are compared by 64-bit hashes; among
10^10 words and a million n-grams, one is found by chance with a probability of 5e-4.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import regex
from pydantic import Field, model_validator

from data_pipeline.exact_dedup import text_hash
from data_pipeline.sources.evaluation_items import read_items
from lm_core.settings import Settings
from lm_core.user_error import UserError

# In scripts without spaces between words, every character is a word, as in minhash_dedup.py.
WITHOUT_SPACES = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}"
)
WORD = regex.compile(
    rf"(?V1)[[{WITHOUT_SPACES}]&&[\p{{L}}\p{{M}}\p{{N}}]]"
    rf"|[[\p{{L}}\p{{N}}]--[{WITHOUT_SPACES}]][[\p{{L}}\p{{M}}\p{{N}}\p{{Cf}}]--[{WITHOUT_SPACES}]]*+"
)
ASCII_WORD = re.compile(r"[0-9a-z]+")
INVISIBLE = regex.compile(r"\p{Cf}++")  # soft hyphens, zero-width joiners
# normalization sorts the marks of one character in quadratic time (UAX #15, section 13), as in
# minhash_dedup.py; here also marks that only invisible characters separate. NFKC makes marks of
# the half-width U+FF9E and U+FF9F
MARK = r"[\p{M}\uFF9E\uFF9F]\p{Cf}*+"
MARKS_AFTER_THE_30TH = regex.compile(rf"((?:{MARK}){{30}})(?:{MARK})++")
DOCUMENTS_NAMED = 10  # in the report, for each item


class DecontaminationSettings(Settings):
    """The search for n-grams, and what happens to documents that have some; GPT-3's numbers.

    Attributes:
        evaluation_sets: the file of each set by the set's name; without any, nothing is searched.
            In JSON lines (`.jsonl`, `.ndjson` or `.json`) an item is a row, in other files a
            paragraph. They may be packed.
        fields: of a row, joined in this order. A row may lack some, but not all.
        ngram_words: words in an n-gram.
        min_item_words: a shorter item is not searched.
        max_documents_per_ngram: an n-gram in more training documents than this is ignored.
        action: "drop" a document with an n-gram, or "cut" it there.
        cut_characters: on each side of an n-gram.
        max_pieces: a document that is cut into more pieces than this is dropped.
        min_piece_characters: a shorter piece is dropped.
    """

    evaluation_sets: dict[str, str] = Field(default_factory=dict)
    fields: list[str] = Field(
        default=["text", "passage", "context", "question", "prompt", "choices", "answer"],
        min_length=1,
    )
    ngram_words: int = Field(default=13, ge=1)
    min_item_words: int = Field(default=8, ge=1)
    max_documents_per_ngram: int = Field(default=10, ge=1)
    action: Literal["drop", "cut"] = "drop"
    cut_characters: int = Field(default=200, ge=0)
    max_pieces: int = Field(default=10, ge=1)
    min_piece_characters: int = Field(default=200, ge=1)

    @model_validator(mode="after")
    def _lengths_agree(self) -> "DecontaminationSettings":
        if self.min_item_words > self.ngram_words:
            raise UserError(
                f"min_item_words is {self.min_item_words}, more than ngram_words "
                f"({self.ngram_words}); expected at most as many"
            )
        return self


class Hit(NamedTuple):
    """An n-gram of an evaluation set in a document: its hash, and text[start:end] there."""

    ngram: int
    start: int
    end: int


def normalized_words(text: str) -> list[str]:
    """Return the words of the text in the form in which they are compared.

    A word is a run of letters, digits and the marks on them; everything else separates words. Case,
    compatibility forms, invisible characters and the way in which accents are written do not count,
    and no marks after the 30th of one character: "Don't re-use the ﬁle" has the words don, t, re,
    use, the, file.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    return [
        word.lower() if word.isascii() else _normalized(MARKS_AFTER_THE_30TH.sub(r"\1", word))
        for word in WORD.findall(text)
    ]


def _normalized(word: str) -> str:
    return unicodedata.normalize("NFKC", INVISIBLE.sub("", word)).casefold()


def ngram_hashes(word_hashes: np.ndarray, length: int) -> np.ndarray:
    """Return the hash of every n-gram of `length` words, in order: uint64 [words - length + 1], or
    empty for fewer words.

    It is h = h * ODD + hash of the word (mod 2^64), over the words, from h = length.
    """
    count = max(len(word_hashes) - length + 1, 0)
    combined = np.full(count, length, dtype=np.uint64)
    for offset in range(length):
        combined = combined * np.uint64(0x9E3779B97F4A7C15) + word_hashes[offset : offset + count]
    return combined


class EvaluationIndex:
    """The n-grams of all evaluation sets. It can be pickled, so that workers can search.

    Args:
        sets: the items' texts, by the name of the set.
        settings: `ngram_words` and `min_item_words` are used.

    Attributes:
        words: the normalized words of each item, by set.
        ngrams: the n-grams of each item, uint64, by set; empty if the item is too short.
        tables: for each length of n-grams, all of them: uint64, sorted, distinct.

    Raises:
        UserError: there is no set, or no item of a set is long enough.
    """

    def __init__(
        self, sets: Mapping[str, Sequence[str]], settings: DecontaminationSettings
    ) -> None:
        if not sets:
            raise UserError("no evaluation set; name some in decontamination.evaluation_sets")
        self.words = {name: [normalized_words(item) for item in sets[name]] for name in sets}
        every_word = sorted(
            {word for items in self.words.values() for item in items for word in item}
        )
        self.word_hashes = {word: text_hash(word) for word in every_word}
        self.ngrams: dict[str, list[np.ndarray]] = {}
        by_length: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        for name, items in self.words.items():
            self.ngrams[name] = []
            for words in items:
                length = min(len(words), settings.ngram_words)
                searched = words if len(words) >= settings.min_item_words else []
                found = ngram_hashes(self._hashes_of(searched), max(length, 1))
                self.ngrams[name].append(found)
                by_length[length].append(found)
            if not any(map(len, self.ngrams[name])):
                raise UserError(
                    f"evaluation set {name}: none of its {len(items)} items has "
                    f"{settings.min_item_words} words, so nothing of it would ever be found; set "
                    "decontamination.fields to its text, or lower min_item_words"
                )
        tables = {length: np.unique(np.concatenate(all_)) for length, all_ in by_length.items()}
        self.tables = {length: table for length, table in sorted(tables.items()) if len(table)}

    def _hashes_of(self, words: Sequence[str]) -> np.ndarray:
        """Return the words' hashes, and 0 for a word that no evaluation set has: uint64 [words]."""
        return np.array([self.word_hashes.get(word, 0) for word in words], dtype=np.uint64)

    def contaminations(self, text: str) -> list[Hit]:
        """Return where the text contains an n-gram of an evaluation set, from its start to its end.

        An n-gram that several items have is one hit, and one that the text has twice is two. With
        n-grams of three words of "I am the law": "So I am, the..." has one hit, "I am, the".
        """
        hashes = self._hashes_of(normalized_words(text))
        found: list[tuple[int, int, int]] = []  # the first word, the word after, the n-gram
        for length, table in self.tables.items():
            ngrams = ngram_hashes(hashes, length)
            places = np.minimum(np.searchsorted(table, ngrams), len(table) - 1)
            for first in np.flatnonzero(table[places] == ngrams).tolist():
                found.append((first, first + length, int(ngrams[first])))
        if not found:
            return []
        spans = [word.span() for word in WORD.finditer(text)]
        return [Hit(ngram, spans[a][0], spans[b - 1][1]) for a, b, ngram in sorted(found)]


def common_ngrams(hits_of_documents: Iterable[Sequence[Hit]], max_documents: int) -> set[int]:
    """Return the n-grams that are in more than `max_documents` documents.

    One that is in a document twice counts once. For hits of n-grams [[1, 1, 2], [1]] and a limit of
    1: {1}.
    """
    counts: Counter[int] = Counter()
    for hits in hits_of_documents:
        counts.update({hit.ngram for hit in hits})
    return {ngram for ngram, documents in counts.items() if documents > max_documents}


def clean_pieces(
    text: str, hits: Sequence[Hit], common: set[int], settings: DecontaminationSettings
) -> list[str]:
    """Return what is left of a document: [text] if it has no n-gram but common ones, [] if it is
    dropped, and else the pieces between the cuts, without the blanks around them.

    Cuts that overlap or touch are one. All pieces with any text count for `max_pieces`, also those
    that are then dropped as too short.

    For "0123456789", a hit from 4 to 6 and one cut character on each side: ["012", "789"], if
    pieces of 3 characters are long enough.
    """
    hits = [hit for hit in hits if hit.ngram not in common]
    if not hits:
        return [text]
    if settings.action == "drop":
        return []
    pieces, position = [], 0
    for hit in sorted(hits, key=lambda hit: hit.start):
        pieces.append(text[position : max(hit.start - settings.cut_characters, position)].strip())
        position = max(position, hit.end + settings.cut_characters)
    pieces = [piece for piece in [*pieces, text[position:].strip()] if piece]
    if len(pieces) > settings.max_pieces:
        return []
    return [piece for piece in pieces if len(piece) >= settings.min_piece_characters]


def contamination_report(
    index: EvaluationIndex, documents: Iterable[tuple[str, Sequence[Hit]]], common: set[int]
) -> dict[str, Any]:
    """Return what was found of every evaluation set and item, ready for JSON.

    Args:
        index: of the evaluation sets.
        documents: the name (such as the URL) and the hits of each training document that has any.
        common: n-grams to ignore.

    Returns:
        {"sets": a row for each set, "items": a row for each contaminated item, numbered from 1}.
        `share` is the share of the item's words that n-grams cover which are in some document, and
        `documents` the number of documents that have one of its n-grams.
    """
    names: defaultdict[int, dict[str, None]] = defaultdict(dict)  # documents of each n-gram
    for document, hits in documents:
        for hit in hits:
            if hit.ngram not in common:
                names[hit.ngram][document] = None
    sets, rows = [], []
    for name, items in index.ngrams.items():
        before, in_set = len(rows), {}
        for number, (ngrams, words) in enumerate(zip(items, index.words[name], strict=True), 1):
            starts = [place for place, key in enumerate(ngrams.tolist()) if key in names]
            if not starts:
                continue
            length = len(words) - len(ngrams) + 1
            covered = {start + offset for start in starts for offset in range(length)}
            found = {document: None for place in starts for document in names[int(ngrams[place])]}
            in_set |= found
            rows.append({
                "set": name, "item": number, "share": len(covered) / len(words),
                "documents": len(found), "first_documents": list(found)[:DOCUMENTS_NAMED],
                "ngram": " ".join(words[starts[0] : starts[0] + length]),
            })  # fmt: skip
        keys = {key for ngrams in items for key in ngrams.tolist()}
        sets.append({
            "set": name, "items": len(items), "searched": sum(len(ngrams) > 0 for ngrams in items),
            "contaminated": len(rows) - before, "documents": len(in_set),
            "ngrams": len(keys), "common_ngrams": len(keys & common),
        })  # fmt: skip
    return {"sets": sets, "items": rows}


def index_of_files(settings: DecontaminationSettings) -> EvaluationIndex:
    """Read the evaluation sets and return their index.

    Raises:
        UserError: a file is missing or cannot be read, a row has none of the fields, or no item of
            a set is long enough to be found.
    """
    sets = {name: read_items(Path(path), name, settings.fields)
            for name, path in settings.evaluation_sets.items()}  # fmt: skip
    return EvaluationIndex(sets, settings)
