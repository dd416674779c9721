"""Rule sets by name: the default is the earlier rules, and measures alone give the verdict."""

import pytest

from data_pipeline.quality_rules import RULES, QualitySettings, first_failed_rule
from data_pipeline.rule_sets.c4_rules import C4Settings
from data_pipeline.rule_sets.fineweb_rules import FineWebSettings
from data_pipeline.rule_sets.rule_verdicts import (
    EVERY_RULE_SET,
    RuleSettings,
    broken_rules,
    first_broken_rule,
    measure_rules,
    rules_of,
    text_of_kept_lines,
)

SENTENCE = "The quick brown fox of the field jumps over the lazy dog and looks back to see it."
TEXTS = [
    "",
    "too short",
    "\n".join([SENTENCE] * 8),
    "\n".join(f"{SENTENCE} It is number {i}." for i in range(8)),
    " ".join(SENTENCE.split() * 5) + " {",
    "\n".join(f"name_{i} of the field and {{" for i in range(30)),
    "Lorem ipsum. " + " ".join(f"{SENTENCE} {i * i}" for i in range(20)),
]


def test_the_default_is_the_rules_of_before():
    settings = RuleSettings(min_words=3)
    assert list(rules_of(settings)) == list(RULES)
    for text in TEXTS:
        earlier = first_failed_rule(text, QualitySettings(min_words=3))
        assert first_broken_rule(text, settings) == earlier


def test_no_rule_sets_are_not_those_of_the_settings():
    assert rules_of(RuleSettings(), []) == measure_rules("text", RuleSettings(), []) == {}
    assert len(measure_rules("text", RuleSettings(), None)) == len(RULES)


def test_names_of_rules_are_different():
    tables = [rules_of(RuleSettings(), [rule_set]) for rule_set in EVERY_RULE_SET]
    assert len(rules_of(RuleSettings(), EVERY_RULE_SET)) == sum(map(len, tables)) == 29


@pytest.mark.parametrize(
    "settings",
    [
        RuleSettings(),
        RuleSettings(rules=[]),
        RuleSettings(rules=["gopher", "gopher_repetition"]),
        RuleSettings(rules=["fineweb", "c4"], c4=C4Settings(max_curly_brackets=100)),
        RuleSettings(rules=["fineweb"], fineweb=FineWebSettings(max_short_line_share=0.0)),
    ],
)
def test_measures_and_settings_give_the_verdict(settings):
    for text in TEXTS:
        measures = measure_rules(text, RuleSettings())
        broken = broken_rules(measures, settings)
        assert (broken or [None])[0] == first_broken_rule(text, settings)
        assert broken == broken_rules(measure_rules(text, settings, None), settings)


def test_the_order_of_the_rule_sets_is_that_of_the_settings():
    text = "\n".join(["Menu {"] * 40)
    assert first_broken_rule(text, RuleSettings(rules=["c4", "fineweb"])) == "C4 curly brackets"
    assert first_broken_rule(text, RuleSettings(rules=["fineweb", "c4"])) == "FineWeb end marks"


def test_a_rule_that_was_not_measured_gives_no_verdict():
    measures = measure_rules(TEXTS[3], RuleSettings(), ["gopher"])
    with pytest.raises(KeyError, match="duplicate lines"):
        broken_rules(measures, RuleSettings(rules=["gopher_repetition"]))


def test_only_c4_shortens_a_text():
    text = f"Menu\n\n  {SENTENCE}\nHome\n{SENTENCE}\n \n\nMore\n\n{SENTENCE}[1]"
    assert text_of_kept_lines(text, RuleSettings()) == text
    kept = f"{SENTENCE}\n{SENTENCE}\n\n{SENTENCE}"
    assert text_of_kept_lines(text, RuleSettings(rules=["c4"])) == kept, "paragraphs stay apart"
