"""Heuristic rules for text that is worth training on: all of Gopher's, and three of C4's, relaxed.

Gopher: Rae et al., "Scaling Language Models" (2021), appendix A.1.1. "Quality Filtering" looks for
text that is not prose: too short, too long, of odd words, of symbols or lists. "Repetition Removal"
looks for text that repeats its lines, paragraphs or n-grams. Thresholds are the paper's.

Each rule is a number, measured by a small function, and its bounds in a settings class, which are
inclusive. Words are separated by whitespace; lines have any text, and are stripped; paragraphs are
lines without a blank line between them. The paper says none of these, nor the following:

- A line, paragraph or n-gram is a duplicate if it occurred before: the first one is not.
- Characters of lines and paragraphs are counted without indentation and line breaks, those of
  n-grams without any whitespace; so every share is between 0 and 1.
- A word in several duplicate n-grams is counted once. This is in the paper for n from 5 to 10, and
  done for n from 2 to 4 as well.
- Of several n-grams that are the most frequent, the first in the text is taken. One that occurs
  only once does not repeat anything: the share is 0.

C4: Raffel et al., "Exploring the Limits of Transfer Learning" (2020), section 2.2. Documentation
lists many names and shows code, so three of its rules are relaxed: a small share of lines with an
end mark and few brackets per word are enough. rule_sets/c4_rules.py has the rules as published.

What this leaves out: languages other than English (the stop words), and those without spaces.
"""

from collections import Counter
from collections.abc import Callable

from pydantic import Field

from data_pipeline.rule_sets.bounded_rules import Rule, first_broken
from data_pipeline.rule_sets.repeated_ngrams import DUPLICATE_NGRAMS, TOP_NGRAMS
from data_pipeline.rule_sets.text_statistics import TextStatistics
from lm_core.settings import Settings

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})  # Gopher's eight
BULLETS = ("-", "*", "•", "‣", "◦", "–", "·")
ELLIPSES = ("...", "…")
SENTENCE_ENDS = (".", "!", "?", '"', "”", ":", ")")


class QualitySettings(Settings):
    """Thresholds; each default is the paper's, unless C4 is named below.

    Attributes:
        min_words: fewest words of a page.
        max_words: most words of a page.
        min_mean_word_length: smallest mean length of a word, in characters.
        max_mean_word_length: largest mean length of a word, in characters.
        max_symbol_share: most '#' for each word, and most ellipses.
        max_bullet_line_share: largest share of lines that begin with a bullet.
        max_ellipsis_line_share: largest share of lines that end with an ellipsis.
        min_alphabetic_share: smallest share of words with at least one letter.
        min_stop_words: how many of eight common English words must occur.
        min_terminal_line_share: smallest share of lines that end like a sentence; C4 drops all
            others.
        max_curly_brackets_per_word: C4 drops a page with any '{', but documentation shows code
            and dictionaries.
    """

    min_words: int = Field(default=50, ge=0)
    max_words: int = Field(default=100_000, ge=1)
    min_mean_word_length: float = Field(default=3.0, ge=0)
    max_mean_word_length: float = Field(default=10.0, ge=0)
    max_symbol_share: float = Field(default=0.1, ge=0)
    max_bullet_line_share: float = Field(default=0.9, ge=0, le=1)
    max_ellipsis_line_share: float = Field(default=0.3, ge=0, le=1)
    min_alphabetic_share: float = Field(default=0.8, ge=0, le=1)
    min_stop_words: int = Field(default=2, ge=0, le=8)
    min_terminal_line_share: float = Field(default=0.05, ge=0, le=1)
    max_curly_brackets_per_word: float = Field(default=0.1, ge=0)


class RepetitionSettings(Settings):
    """Largest shares of repeated text; each default is that of Gopher's table A1.

    Attributes:
        max_duplicate_lines: of lines that occurred before, among the lines.
        max_duplicate_paragraphs: of paragraphs that occurred before, among the paragraphs.
        max_duplicate_line_characters: of characters in lines that occurred before.
        max_duplicate_paragraph_characters: of characters in paragraphs that occurred before.
        max_top_2gram, max_top_3gram, max_top_4gram: of characters in the most frequent n-gram.
        max_duplicate_5gram, max_duplicate_6gram, max_duplicate_7gram: of characters in n-grams
            that occurred before.
        max_duplicate_8gram, max_duplicate_9gram, max_duplicate_10gram: the same for longer ones.
    """

    max_duplicate_lines: float = Field(default=0.30, ge=0, le=1)
    max_duplicate_paragraphs: float = Field(default=0.30, ge=0, le=1)
    max_duplicate_line_characters: float = Field(default=0.20, ge=0, le=1)
    max_duplicate_paragraph_characters: float = Field(default=0.20, ge=0, le=1)
    max_top_2gram: float = Field(default=0.20, ge=0, le=1)
    max_top_3gram: float = Field(default=0.18, ge=0, le=1)
    max_top_4gram: float = Field(default=0.16, ge=0, le=1)
    max_duplicate_5gram: float = Field(default=0.15, ge=0, le=1)
    max_duplicate_6gram: float = Field(default=0.14, ge=0, le=1)
    max_duplicate_7gram: float = Field(default=0.13, ge=0, le=1)
    max_duplicate_8gram: float = Field(default=0.12, ge=0, le=1)
    max_duplicate_9gram: float = Field(default=0.11, ge=0, le=1)
    max_duplicate_10gram: float = Field(default=0.10, ge=0, le=1)


def mean_word_length(words: list[str]) -> float:
    """Return the mean number of characters of a word, or 0 if there is none."""
    return sum(map(len, words)) / max(len(words), 1)


def symbols_per_word(text: str, num_words: int) -> float:
    """Return the hash signs per word or the ellipses per word, whichever is more. An ellipsis is
    "..." or "…"; a text without words counts as one word.
    """
    num_ellipses = sum(text.count(mark) for mark in ELLIPSES)
    return max(text.count("#"), num_ellipses) / max(num_words, 1)


def _share(pieces: list[str], holds: Callable[[str], bool]) -> float:
    """Return for which share of the pieces the condition holds, or 0 if there is none."""
    return sum(map(holds, pieces)) / max(len(pieces), 1)


def bullet_line_share(lines: list[str]) -> float:
    """Return the share of lines that begin with one of BULLETS, or 0 without lines."""
    return _share(lines, lambda line: line.startswith(BULLETS))


def ellipsis_line_share(lines: list[str]) -> float:
    """Return the share of *lines* that end with an ellipsis, however many they have elsewhere, or 0
    without lines.
    """
    return _share(lines, lambda line: line.endswith(ELLIPSES))


def alphabetic_word_share(word_counts: Counter[str]) -> float:
    """Return the share of words with at least one letter of any script, or 0 without words.

    Args:
        word_counts: how often each word occurs.
    """
    lettered = sum(
        count
        for word, count in word_counts.items()
        if word.isalpha() or any(map(str.isalpha, word))
    )
    return lettered / max(word_counts.total(), 1)


def stop_words_found(lower_text: str) -> int:
    """Return how many different words of STOP_WORDS occur in a text in lower case. Sentences have
    them, lists do not.
    """
    return len(STOP_WORDS.intersection(lower_text.split()))


def sentence_line_share(lines: list[str]) -> float:
    """Return the share of lines that end like a sentence, or 0 without lines: with one of C4's end
    marks, or a colon or bracket before an example (SENTENCE_ENDS).
    """
    return _share(lines, lambda line: line.endswith(SENTENCE_ENDS))


def duplicate_shares(pieces: list[str]) -> tuple[float, float]:
    """Return (share of pieces that occurred before, share of their characters).

    Both are 0 if there are no pieces, and the second is 0 if no piece has characters.
    ["ab", "ab", "c"] gives (1/3, 2/5).
    """
    seen: set[str] = set()
    duplicates = characters = 0
    for piece in pieces:
        if piece in seen:
            duplicates += 1
            characters += len(piece)
        seen.add(piece)
    return duplicates / max(len(pieces), 1), characters / max(sum(map(len, pieces)), 1)


def _covered_share(words: list[str], starts: list[int], n: int) -> float:
    """Return the share of the characters in the words from each start to n words later, each word
    once.
    """
    covered = end = 0
    for start in starts:  # ascending
        covered += sum(len(word) for word in words[max(start, end) : start + n])
        end = start + n
    return covered / max(sum(map(len, words)), 1)


def top_ngram_character_share(words: list[str], n: int) -> float:
    """Return the share of the characters in the most frequent n-gram, at all places where it
    occurs. See the top of this file for ties, overlaps, and an n-gram that occurs once.

    "to be or to be" has 10 characters without spaces; "to be" occurs twice: 8/10.
    """
    starts_of: dict[tuple[str, ...], list[int]] = {}
    for start in range(len(words) - n + 1):
        starts_of.setdefault(tuple(words[start : start + n]), []).append(start)
    top = max(starts_of.values(), key=len, default=[])  # the first of several
    return _covered_share(words, top, n) if len(top) > 1 else 0.0


def duplicate_ngram_character_share(words: list[str], n: int) -> float:
    """Return the share of the characters in n-grams that occurred before.

    For n = 2, "to be or to be" has one such n-gram, the last two words: 4/10.
    """
    seen: set[tuple[str, ...]] = set()
    starts = []
    for start in range(len(words) - n + 1):
        ngram = tuple(words[start : start + n])
        if ngram in seen:
            starts.append(start)
        seen.add(ngram)
    return _covered_share(words, starts, n)


GOPHER_RULES = {
    "number of words": Rule(lambda page: len(page.words), "min_words", "max_words"),
    "mean word length": Rule(
        lambda page: mean_word_length(page.words), "min_mean_word_length", "max_mean_word_length"
    ),
    "symbols": Rule(
        lambda page: symbols_per_word(page.text, len(page.words)), at_most="max_symbol_share"
    ),
    "bullet lines": Rule(
        lambda page: bullet_line_share(page.lines), at_most="max_bullet_line_share"
    ),
    "ellipsis lines": Rule(
        lambda page: ellipsis_line_share(page.lines), at_most="max_ellipsis_line_share"
    ),
    "alphabetic words": Rule(
        lambda page: alphabetic_word_share(page.word_counts), "min_alphabetic_share"
    ),
    "stop words": Rule(lambda page: stop_words_found(page.lower_text), "min_stop_words"),
}
RELAXED_C4_RULES = {
    "sentences": Rule(lambda page: sentence_line_share(page.lines), "min_terminal_line_share"),
    "placeholder": Rule(lambda page: page.lower_text.count("lorem ipsum"), at_most=0),
    "curly brackets": Rule(
        lambda page: page.text.count("{") / max(len(page.words), 1),
        at_most="max_curly_brackets_per_word",
    ),
}
RULES = GOPHER_RULES | RELAXED_C4_RULES
REPETITION_RULES = {
    "duplicate lines": Rule(
        lambda page: duplicate_shares(page.lines)[0], at_most="max_duplicate_lines"
    ),
    "duplicate paragraphs": Rule(
        lambda page: duplicate_shares(page.paragraphs)[0], at_most="max_duplicate_paragraphs"
    ),
    "duplicate line characters": Rule(
        lambda page: duplicate_shares(page.lines)[1], at_most="max_duplicate_line_characters"
    ),
    "duplicate paragraph characters": Rule(
        lambda page: duplicate_shares(page.paragraphs)[1],
        at_most="max_duplicate_paragraph_characters",
    ),
    **{
        f"top {n}-gram": Rule(
            lambda page, n=n: page.ngram_shares.top[n], at_most=f"max_top_{n}gram"
        )
        for n in TOP_NGRAMS
    },
    **{
        f"duplicate {n}-grams": Rule(
            lambda page, n=n: page.ngram_shares.duplicate[n], at_most=f"max_duplicate_{n}gram"
        )
        for n in DUPLICATE_NGRAMS
    },
}


def first_failed_rule(text: str, settings: QualitySettings) -> str | None:
    """Return the name of the first rule, in the order of RULES, that the text breaks, or None if it
    passes them all.
    """
    return first_broken(TextStatistics(text), RULES, settings)


def passes_gopher(text: str) -> bool:
    """Return whether the text passes the seven rules under "Quality Filtering" in Gopher's
    appendix A.1.1, with the paper's thresholds and no rule of others.

    Repetition is not among them: the paper has it under a heading of its own, and so does
    `passes_gopher_repetition`. A sentence repeated a hundred times passes here and fails there.
    """
    return first_broken(TextStatistics(text), GOPHER_RULES, QualitySettings()) is None


def passes_gopher_repetition(text: str) -> bool:
    """Return whether the text passes the thirteen rules under "Repetition Removal" in Gopher's
    appendix A.1.1, with the thresholds of its table A1.
    """
    return first_broken(TextStatistics(text), REPETITION_RULES, RepetitionSettings()) is None
