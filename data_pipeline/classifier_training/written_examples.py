"""Training examples for the built-in classifiers, recombined from texts that were written for them.

The files beside this one hold the texts: `wiki.txt` explanations and narratives, one passage a
line; `cc.txt` lines as they stand on poor pages; `adult.txt` and `toxic.txt` advertising, obscene
words, insults and threats, kept mild; `harmless.txt` texts with the same words in medicine, news
and fiction. A line that begins with "##" names a section. Nothing in them is copied from a page.

There are a few hundred lines, which is not enough text, so the examples are random combinations of
them: sentences of one or two passages for "wiki", lines of one section and some others for "cc".

What this leaves out: other languages than English, and insults that name groups of people.
"""

import random
import re
from collections.abc import Sequence
from importlib.resources import files

EXAMPLES_PER_LABEL = 600
SENTENCE_END = re.compile(r"(?<=[.!?]) ")


def read_sections(name: str) -> list[list[str]]:
    """Return the lines of a text file of this folder, section by section."""
    text = files("data_pipeline.classifier_training").joinpath(name).read_text(encoding="utf-8")
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("##"):
            sections.append([])
        elif line.strip():
            sections[-1].append(line.strip())
    return [section for section in sections if section]


def _passage(passages: Sequence[str], draw: random.Random) -> str:
    """Return one to four sentences in a row of each of one or two passages."""
    pieces = []
    for passage in draw.sample(passages, draw.choice([1, 1, 2])):
        sentences = SENTENCE_END.split(passage)
        start = draw.randrange(len(sentences))
        pieces += sentences[start : start + draw.randint(1, 4)]
    return " ".join(pieces)


def _lines(sections: Sequence[Sequence[str]], most: int, draw: random.Random) -> str:
    """Return up to `most` lines, mostly of one section."""
    own = draw.choice(sections)
    every = [line for section in sections for line in section]
    count = draw.randint(1, most)
    lines = [draw.choice(own if draw.random() < 0.7 else every) for _ in range(count)]
    return "\n".join(dict.fromkeys(lines))  # in order, each once


def quality_examples(seed: int = 0) -> list[tuple[str, str]]:
    """Return (text, "wiki" or "cc") pairs, as many of one label as of the other."""
    draw = random.Random(seed)
    (passages,) = read_sections("wiki.txt")
    poor = read_sections("cc.txt")
    examples = []
    for _ in range(EXAMPLES_PER_LABEL):
        examples.append((_passage(passages, draw), "wiki"))
        examples.append((_lines(poor, 8, draw), "cc"))
    return examples


def harmful_examples(kind: str, seed: int = 0) -> list[tuple[str, bool]]:
    """Return (text, whether it is harmful) pairs, as many of one kind as of the other.

    Harmless are, besides `harmless.txt`: for "adult", insults without obscene words, and threats;
    for "toxic", advertising for adult pages; for both, texts of `wiki.txt` and `cc.txt`.

    Args:
        kind: "adult" or "toxic".
        seed: of the combinations.
    """
    draw = random.Random(seed)
    advertising, obscene = read_sections("adult.txt")
    insults, profanity, threats = read_sections("toxic.txt")
    (passages,) = read_sections("wiki.txt")
    harmful, others = {
        "adult": ([advertising, obscene], [insults, threats]),
        "toxic": ([insults, profanity, threats], [advertising]),
    }[kind]
    harmless = [*read_sections("harmless.txt"), *others]
    poor = read_sections("cc.txt")
    examples = []
    for number in range(EXAMPLES_PER_LABEL):
        examples.append((_with_a_harmless_line(_lines(harmful, 3, draw), harmless, draw), True))
        other = {0: _passage(passages, draw), 1: _lines(poor, 4, draw)}.get(number % 6)
        examples.append((other or _lines(harmless, 4, draw), False))
    return examples


def _with_a_harmless_line(text: str, harmless: Sequence[Sequence[str]], draw: random.Random) -> str:
    """Put a harmless line before every third text: an insult is one also after a polite line."""
    return f"{draw.choice(harmless[0])}\n{text}" if draw.random() < 1 / 3 else text
