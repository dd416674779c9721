"""How well an extractor separates main text from the rest, on pages whose paragraphs were labelled
by people.

A page is cut into paragraphs at its block tags, whatever extractor will read it. The words of an
extractor's text are aligned with the words of the page, in order. A paragraph counts as kept if
more than half of its words are aligned. Precision and recall follow, of paragraphs and of words
(Barbaresi, "Trafilatura", ACL 2021, section 4.2, measures paragraphs).

The labels of a page name each paragraph by a part of its SHA-256, so that they can be stored
without the text of others, and do not fit another version of the page.

What this leaves out: the order of the paragraphs, and how markup is written (bullets, the cells of
a table): only words are compared.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from data_pipeline.html.html_tokens import EndTag, StartTag, tokens
from data_pipeline.text_extraction import BLOCK_TAGS
from lm_core.user_error import UserError

INVISIBLE_TAGS = frozenset({"script", "style", "noscript", "template", "title"})
WORD = re.compile(r"\w+")
HASH_DIGITS = 8
MAIN, BOILERPLATE = "m", "b"


def page_paragraphs(html: str) -> list[list[str]]:
    """Return the words of every paragraph of a page, in lower case, menus included.

    A paragraph is what stands between two block tags, and has at least one word.

    >>> page_paragraphs("<p>One, two<li>a_b <b>Th</b>ree<script>x</script>")
    [['one', 'two'], ['a_b', 'three']]
    """
    paragraphs: list[str] = [""]
    invisible = ""
    for token in tokens(html):
        if isinstance(token, str):
            paragraphs[-1] += "" if invisible else token
        elif invisible:
            invisible = "" if isinstance(token, EndTag) and token.name == invisible else invisible
        elif token.name in INVISIBLE_TAGS and isinstance(token, StartTag):
            invisible = "" if token.closes_itself else token.name
        elif token.name in BLOCK_TAGS:
            paragraphs.append("")
        elif token.name == "br":
            paragraphs[-1] += "\n"
    return [words for words in map(words_of, paragraphs) if words]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters, digits and underscores."""
    return WORD.findall(text.lower())


def paragraph_hash(words: Sequence[str]) -> str:
    """Return the first digits of the SHA-256 of a paragraph's words."""
    return hashlib.sha256(" ".join(words).encode("utf-8")).hexdigest()[:HASH_DIGITS]


def write_labels(paragraphs: Sequence[Sequence[str]], main: Sequence[range]) -> str:
    """Return the labels of a page in one string.

    Args:
        paragraphs: see `page_paragraphs`.
        main: the positions of the main text; all others are boilerplate.
    """
    positions = {position for part in main for position in part}
    return " ".join(
        (MAIN if position in positions else BOILERPLATE) + paragraph_hash(words)
        for position, words in enumerate(paragraphs)
    )


def read_labels(labels: str, paragraphs: Sequence[Sequence[str]], name: str) -> list[bool]:
    """Return for each paragraph of a page whether it is main text.

    Args:
        labels: what `write_labels` returned.
        paragraphs: of the page as it is now.
        name: of the page, for the error.

    Raises:
        UserError: the page is not the one that was labelled.
    """
    expected = labels.split()
    found = [paragraph_hash(words) for words in paragraphs]
    if [label[1:] for label in expected] != found:
        raise UserError(
            f"{name}: not the page that was labelled ({len(found)} paragraphs, expected "
            f"{len(expected)}); use the version that the labels name"
        )
    return [label.startswith(MAIN) for label in expected]


def kept_words(paragraphs: Sequence[Sequence[str]], text: str) -> list[int]:
    """Return how many words of each paragraph an extractor's text has, in the order of the page.

    >>> kept_words([["menu"], ["one", "two"], ["menu"]], "One two. Menu")
    [0, 2, 1]
    """
    owner = [number for number, words in enumerate(paragraphs) for _ in words]
    page = [word for words in paragraphs for word in words]
    kept = [0] * len(paragraphs)
    matcher = SequenceMatcher(None, page, words_of(text), autojunk=False)
    for start, _, length in matcher.get_matching_blocks():
        for number in owner[start : start + length]:
            kept[number] += 1
    return kept


@dataclass(frozen=True)
class Agreement:
    """Counts of paragraphs or of words; sums of several pages add up."""

    right: int = 0  # kept, and main text
    kept: int = 0
    main: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.right + other.right, self.kept + other.kept, self.main + other.main)

    @property
    def precision(self) -> float:
        """Share of what was kept that is main text; 1 if nothing was kept."""
        return self.right / self.kept if self.kept else 1.0

    @property
    def recall(self) -> float:
        """Share of the main text that was kept; 1 if there is none."""
        return self.right / self.main if self.main else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, computed from the counts."""
        return 2 * self.right / (self.kept + self.main) if self.kept + self.main else 1.0


def compare(
    paragraphs: Sequence[Sequence[str]], is_main: Sequence[bool], text: str
) -> tuple[Agreement, Agreement]:
    """Return the agreement of an extractor's text with the labels of a page: of paragraphs, and of
    words.
    """
    kept = kept_words(paragraphs, text)
    sizes = [len(words) for words in paragraphs]
    whole = [2 * number > size for number, size in zip(kept, sizes, strict=True)]
    of_paragraphs = Agreement(
        sum(a and b for a, b in zip(whole, is_main, strict=True)), sum(whole), sum(is_main)
    )
    of_words = Agreement(
        sum(number for number, main in zip(kept, is_main, strict=True) if main),
        sum(kept),
        sum(size for size, main in zip(sizes, is_main, strict=True) if main),
    )
    return of_paragraphs, of_words
