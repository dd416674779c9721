"""The parts of a text that quality rules count: words, lines, paragraphs and repeated n-grams. Each
is computed once, when a rule first asks for it.

Words are separated by whitespace. Lines have any text, and lose their indentation; blank lines do
not count. Paragraphs are lines without a blank line between them.
"""

from collections import Counter
from functools import cached_property

from data_pipeline.rule_sets.repeated_ngrams import NgramShares, ngram_shares


class TextStatistics:
    """A text, with its parts."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lower_text(self) -> str:
        """The text in lower case."""
        return self.text.lower()

    @cached_property
    def words(self) -> list[str]:
        """The words, in order."""
        return self.text.split()

    @cached_property
    def word_counts(self) -> Counter[str]:
        """How often each word occurs, in the order of first occurrence."""
        return Counter(self.words)

    @cached_property
    def _lines_and_gaps(self) -> list[str]:
        """All lines, also blank ones, without their indentation."""
        return [line.strip() for line in self.text.splitlines()]

    @cached_property
    def lines(self) -> list[str]:
        """The lines that have any text, without their indentation."""
        return [line for line in self._lines_and_gaps if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The paragraphs: lines joined by a line break."""
        found: list[list[str]] = [[]]
        for line in self._lines_and_gaps:
            if line:
                found[-1].append(line)
            else:
                found.append([])
        return ["\n".join(lines) for lines in found if lines]

    @cached_property
    def ngram_shares(self) -> NgramShares:
        """Shares of the characters in repeated n-grams of words, for every n of the rules."""
        return ngram_shares(self.words)
