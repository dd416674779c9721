"""Each rule for lines, the order of the rules, sentences, and the rules for pages."""

import pytest

from data_pipeline.rule_sets.c4_rules import (
    C4Settings,
    broken_line_rule,
    c4_rules,
    keep_c4_lines,
    num_sentences,
)
from data_pipeline.rule_sets.text_statistics import TextStatistics

SETTINGS = C4Settings()
GOOD = "This is a line of words."


@pytest.mark.parametrize("line", [GOOD, GOOD[:-1] + "!", "Is this a line of words?", GOOD + '"',
                                  GOOD + "”", "Five words are just enough.",
                                  "It has four words and " + "x" * 999 + "."])  # fmt: skip
def test_good_lines_stay(line):
    assert broken_line_rule(line, SETTINGS) is None


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("This is a line of words", "end mark"),
        ("This is a line of words...", "end mark"),
        ("This is a line of words:", "end mark"),
        ("These are four words.", "words"),
        ("It has four words and " + "x" * 1001 + ".", "long word"),
        ("Please enable JavaScript in your browser.", "javascript"),
        ("Read our Privacy Policy before you continue.", "policy"),
        ("This site uses cookies for no reason.", "policy"),
        ("JavaScript", "end mark"),
        ("", "end mark"),
    ],
)
def test_the_first_broken_rule_of_a_line(line, rule):
    assert broken_line_rule(line, SETTINGS) == rule


def test_line_rules_are_a_setting():
    settings = C4Settings(line_rules=["words"], min_words_per_line=2)
    assert broken_line_rule("use cookies", settings) is None
    assert broken_line_rule("one", settings) == "words"


def test_citation_marks_go_and_dropped_lines_are_counted():
    lines = ["It was so[1] in those days.[citation needed]", "Menu", "Home", "[2]", GOOD]
    kept = keep_c4_lines(lines, SETTINGS)
    assert kept.lines == ["It was so in those days.", GOOD]
    assert kept.dropped == {"end mark": 3}
    no_rules = keep_c4_lines(["[2]", "x[a]"], C4Settings(line_rules=[]))
    assert no_rules.lines == ["x[a]"]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("One sentence only.", 1),
        ("One. Two! Three?", 3),
        ("Version 3.11 is one...", 1),
        ('He said "no." Then he left.)', 2),
        ("What?! Yes.", 2),
        ('It ends with a "quote"', 1),
    ],
)
def test_sentences(line, number):
    assert num_sentences([line]) == number
    assert num_sentences([line, line]) == 2 * number


def measured(text: str, settings: C4Settings = SETTINGS) -> dict[str, float]:
    page = TextStatistics(text)
    return {name.removeprefix("C4 "): r.measure(page) for name, r in c4_rules(settings).items()}


def test_pages():
    text = f"{GOOD} {GOOD}\n\nMenu {{\nLorem ipsum. Lorem Ipsum."
    assert measured(text) == {"placeholder": 2, "curly brackets": 1, "sentences": 2}
    every_line = measured(text, C4Settings(line_rules=[]))
    assert every_line == {"placeholder": 2, "curly brackets": 1, "sentences": 2 + 1 + 2}


@pytest.mark.parametrize(
    ("rule", "bounds"),
    [("sentences", (3, float("inf"))), ("curly brackets", (float("-inf"), 0)),
     ("placeholder", (float("-inf"), 0))],
)  # fmt: skip
def test_the_thresholds_are_those_of_the_paper(rule, bounds):
    assert c4_rules(SETTINGS)[f"C4 {rule}"].bounds(SETTINGS) == bounds
