"""The rules of C4 as published: lines are dropped, then pages by what is left of them.

Raffel et al., "Exploring the Limits of Transfer Learning" (JMLR 2020), section 2.2. It asks for at
least 3 sentences and 5 words per line; the first version of the paper and datatrove have 5 and 3.
From its code (`c4_utils.py` of tensorflow_datasets) comes what the paper does not say: a line that
ends with an ellipsis has no end mark, a word of more than 1,000 characters drops its line, and
"javascript" and the policy notices are found in upper and lower case.

On documentation, these rules drop every page with a "{" and most of the code. FineWeb (Penedo et
al. 2024) left out the rule of end marks, which drops the most: do this with `line_rules`.

What this leaves out: the list of bad words, which drops texts on medicine and law with the harmful
ones (Dodge et al., "Documenting Large Webtext Corpora", 2021); a classifier judges better. Also the
deduplication of three-sentence spans (see exact_dedup.py), and the language (see language_id.py).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from data_pipeline.rule_sets.bounded_rules import Rule
from data_pipeline.rule_sets.text_statistics import TextStatistics
from lm_core.settings import Settings

END_MARKS = (".", "!", "?", '"', "”")
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
MAX_WORD_CHARACTERS = 1_000
CITATION = re.compile(r"\[(?:\d*+|edit|citation needed)\]")
# a run of end marks, closing quotes and brackets, then whitespace or the end
SENTENCE_END = re.compile(r"""(?<![.!?])[.!?]++["'”’)\]]*+(?!\S)""")

LineRule = Literal["end mark", "words", "long word", "javascript", "policy"]


class C4Settings(Settings):
    """Thresholds of C4; each default is the paper's.

    Attributes:
        line_rules: the rules that a line must pass: "end mark", "words", "long word", "javascript",
            "policy".
        min_words_per_line: fewest words of a line that is kept.
        min_sentences: fewest sentences in the lines that are kept.
        max_curly_brackets: most '{' of a page.
        max_placeholders: how often "lorem ipsum" may occur on a page.
    """

    line_rules: list[LineRule] = Field(
        default=["end mark", "words", "long word", "javascript", "policy"]
    )
    min_words_per_line: int = Field(default=5, ge=0)
    min_sentences: int = Field(default=3, ge=0)
    max_curly_brackets: int = Field(default=0, ge=0)
    max_placeholders: int = Field(default=0, ge=0)


LINE_SETTINGS = ("line_rules", "min_words_per_line")  # they decide what is measured


@dataclass(frozen=True)
class KeptLines:
    """Lines that C4 keeps, without citation marks, and how many each line rule dropped."""

    lines: list[str]
    dropped: Counter[str]


LINE_RULES: dict[str, Callable[[str, C4Settings], bool]] = {  # name -> whether a line breaks it
    "end mark": lambda line, _: not line.endswith(END_MARKS) or line.endswith("..."),
    "words": lambda line, settings: len(line.split()) < settings.min_words_per_line,
    "long word": lambda line, _: (
        len(line) > MAX_WORD_CHARACTERS and max(map(len, line.split())) > MAX_WORD_CHARACTERS
    ),
    "javascript": lambda line, _: "javascript" in line.lower(),
    "policy": lambda line, _: any(map(line.lower().__contains__, POLICIES)),
}


def broken_line_rule(line: str, settings: C4Settings) -> str | None:
    """Return the first of `settings.line_rules`, in the order of LINE_RULES, that a line without
    surrounding whitespace breaks, or None.

    "end mark": it does not end with one of END_MARKS, or ends with "...". "words": it has too few.
    "long word": a word has more than 1,000 characters. "javascript" and "policy": it contains this
    word, or one of POLICIES, in upper or lower case.
    """
    for name, breaks in LINE_RULES.items():
        if name in settings.line_rules and breaks(line, settings):
            return name
    return None


def keep_c4_lines(lines: list[str], settings: C4Settings) -> KeptLines:
    """Drop the lines that break a line rule, and Wikipedia's citation marks ("[1]", "[edit]",
    "[citation needed]") from the others.

    Args:
        lines: lines with text, stripped.
        settings: see C4Settings.
    """
    kept = KeptLines([], Counter())
    for line in lines:
        bare = CITATION.sub("", line).strip() if "[" in line else line
        reason = broken_line_rule(bare, settings)
        if reason:
            kept.dropped[reason] += 1
        elif bare:
            kept.lines.append(bare)
    return kept


def num_sentences(lines: list[str]) -> int:
    """Return the number of sentences: in each line, the end marks before whitespace or the end of
    the line, but at least one. An abbreviation ("Dr. Who") counts like the end of a sentence.
    """
    return sum(max(len(SENTENCE_END.findall(line)), 1) for line in lines)


def c4_rules(settings: C4Settings) -> dict[str, Rule]:
    """Return C4's rules for a page. Sentences are counted in the lines that the line rules keep,
    brackets and placeholders on the whole page.
    """

    def sentences(page: TextStatistics) -> float:
        return num_sentences(keep_c4_lines(page.lines, settings).lines)

    return {
        "C4 placeholder": Rule(
            lambda page: page.lower_text.count("lorem ipsum"), at_most="max_placeholders"
        ),
        "C4 curly brackets": Rule(lambda page: page.text.count("{"), at_most="max_curly_brackets"),
        "C4 sentences": Rule(sentences, "min_sentences"),
    }
