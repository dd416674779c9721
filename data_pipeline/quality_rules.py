"""Heuristic rules for text that is worth training on: the Gopher rules, and three of C4's.

Gopher: Rae et al., "Scaling Language Models" (2021), appendix A.1.1, "Quality Filtering". C4:
Raffel et al., "Exploring the Limits of Transfer Learning" (2020), section 2.2. Words are separated
by whitespace.

Gopher's thresholds are the paper's. Two of C4's rules are relaxed, because documentation lists many
names and shows code. C4 drops *every line* without an end mark and every page with a "{"; here a
small share of lines with an end mark and few brackets per word are enough.

What this leaves out: Gopher's repetition rules (exact_dedup.py drops repeated lines), C4's list of
bad words, and learned classifiers.
"""

from collections.abc import Callable

from pydantic import Field

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


def has_enough_words(text: str, settings: QualitySettings) -> bool:
    """Return whether the text has between 50 and 100,000 words."""
    return settings.min_words <= len(text.split()) <= settings.max_words


def has_usual_word_length(text: str, settings: QualitySettings) -> bool:
    """Return whether a word has 3 to 10 characters on average."""
    words = text.split()
    mean = sum(map(len, words)) / max(len(words), 1)
    return settings.min_mean_word_length <= mean <= settings.max_mean_word_length


def has_few_symbols(text: str, settings: QualitySettings) -> bool:
    """Return whether there is at most one hash sign and at most one ellipsis per ten words."""
    num_words = max(len(text.split()), 1)
    num_ellipses = sum(text.count(mark) for mark in ELLIPSES)
    return max(text.count("#"), num_ellipses) / num_words <= settings.max_symbol_share


def _lines(text: str) -> list[str]:
    """Return the lines that have any text, without their indentation."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _share(lines: list[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, lines)) / max(len(lines), 1)


def has_few_bullet_lines(text: str, settings: QualitySettings) -> bool:
    """Return whether at most 90 % of the lines begin with a bullet."""
    return (
        _share(_lines(text), lambda line: line.startswith(BULLETS))
        <= settings.max_bullet_line_share
    )


def has_few_ellipsis_lines(text: str, settings: QualitySettings) -> bool:
    """Return whether at most 30 % of the lines end with an ellipsis."""
    return (
        _share(_lines(text), lambda line: line.endswith(ELLIPSES))
        <= settings.max_ellipsis_line_share
    )


def has_alphabetic_words(text: str, settings: QualitySettings) -> bool:
    """Return whether at least 80 % of the words contain a letter."""
    words = text.split()
    alphabetic = sum(any(map(str.isalpha, word)) for word in words)
    return alphabetic / max(len(words), 1) >= settings.min_alphabetic_share


def has_stop_words(text: str, settings: QualitySettings) -> bool:
    """Return whether at least two different stop words of the eight occur; sentences have them,
    lists do not.
    """
    return len(STOP_WORDS.intersection(text.lower().split())) >= settings.min_stop_words


def has_sentences(text: str, settings: QualitySettings) -> bool:
    """Return whether a small share of the lines ends like a sentence (with C4's end marks, or a
    colon before an example).
    """
    return (
        _share(_lines(text), lambda line: line.endswith(SENTENCE_ENDS))
        >= settings.min_terminal_line_share
    )


def has_no_placeholder(text: str, settings: QualitySettings) -> bool:
    """Return whether the text has no "lorem ipsum" (C4)."""
    return "lorem ipsum" not in text.lower()


def has_few_curly_brackets(text: str, settings: QualitySettings) -> bool:
    """Return whether "{" is rare; many of them mark a style sheet or a script (C4, relaxed)."""
    return text.count("{") / max(len(text.split()), 1) <= settings.max_curly_brackets_per_word


RULES: dict[str, Callable[[str, QualitySettings], bool]] = {
    "number of words": has_enough_words,
    "mean word length": has_usual_word_length,
    "symbols": has_few_symbols,
    "bullet lines": has_few_bullet_lines,
    "ellipsis lines": has_few_ellipsis_lines,
    "alphabetic words": has_alphabetic_words,
    "stop words": has_stop_words,
    "sentences": has_sentences,
    "placeholder": has_no_placeholder,
    "curly brackets": has_few_curly_brackets,
}


def first_failed_rule(text: str, settings: QualitySettings) -> str | None:
    """Return the name of the first rule, in the order of RULES, that the text breaks, or None if it
    passes them all.
    """
    for name, holds in RULES.items():
        if not holds(text, settings):
            return name
    return None
