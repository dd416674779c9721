"""The three rules that FineWeb added to those of Gopher and C4, which it found by comparing the
statistics of good and poor crawls: Penedo et al., "The FineWeb Datasets" (2024).

The paper drops a page whose share is at the threshold; here as everywhere, the threshold itself
passes. Lines have any text, and are stripped. An end mark is what Unicode calls Sentence_Terminal
(of many scripts), as in datatrove, FineWeb's program.

What this leaves out: datatrove's rule of line breaks per word (at most 0.3), which the paper does
not have. The paper's threshold for repeated lines is 0.1, and the default of datatrove 0.01.
"""

from functools import lru_cache

import regex
from pydantic import Field

from data_pipeline.quality_rules import duplicate_shares
from data_pipeline.rule_sets.bounded_rules import Rule
from lm_core.settings import Settings

SHORT_LINE = 30  # characters: a line with fewer is short
END_MARK = regex.compile(r"\p{Sentence_Terminal}")


class FineWebSettings(Settings):
    """Thresholds of FineWeb; each default is the paper's.

    Attributes:
        min_end_mark_share: smallest share of lines that end with an end mark.
        max_duplicate_character_share: largest share of characters in lines that occurred before.
        max_short_line_share: largest share of lines with fewer than 30 characters.
    """

    min_end_mark_share: float = Field(default=0.12, ge=0, le=1)
    max_duplicate_character_share: float = Field(default=0.1, ge=0, le=1)
    max_short_line_share: float = Field(default=0.67, ge=0, le=1)


@lru_cache(maxsize=4096)
def is_end_mark(character: str) -> bool:
    """Return whether a character ends sentences in some script: ". ! ?", "。", and others."""
    return END_MARK.match(character) is not None


def end_mark_share(lines: list[str]) -> float:
    """Return the share of lines whose last character is an end mark, or 0 without lines."""
    return sum(is_end_mark(line[-1]) for line in lines) / max(len(lines), 1)


def short_line_share(lines: list[str]) -> float:
    """Return the share of lines with fewer than 30 characters, or 0 without lines."""
    return sum(len(line) < SHORT_LINE for line in lines) / max(len(lines), 1)


FINEWEB_RULES = {
    "FineWeb end marks": Rule(lambda page: end_mark_share(page.lines), "min_end_mark_share"),
    "FineWeb duplicate characters": Rule(
        lambda page: duplicate_shares(page.lines)[1], at_most="max_duplicate_character_share"
    ),
    "FineWeb short lines": Rule(
        lambda page: short_line_share(page.lines), at_most="max_short_line_share"
    ),
}
