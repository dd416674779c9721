"""The rule sets that a recipe names: what they measure of a text, and the verdict.

Measures and settings are enough for a verdict. `verdict_files.py` keeps the measures of every
document, so another threshold needs neither the texts nor another run.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field

from data_pipeline.quality_rules import (
    GOPHER_RULES,
    RELAXED_C4_RULES,
    REPETITION_RULES,
    QualitySettings,
    RepetitionSettings,
)
from data_pipeline.rule_sets.bounded_rules import Rule
from data_pipeline.rule_sets.c4_rules import C4Settings, c4_rules, keep_c4_lines
from data_pipeline.rule_sets.fineweb_rules import FINEWEB_RULES, FineWebSettings
from data_pipeline.rule_sets.text_statistics import TextStatistics
from lm_core.settings import Settings

RuleSet = Literal["gopher", "gopher_repetition", "relaxed_c4", "c4", "fineweb"]
EVERY_RULE_SET: tuple[RuleSet, ...] = get_args(RuleSet)


class RuleSettings(QualitySettings):
    """QualitySettings, and which rule sets a document must pass.

    Attributes:
        rules: names of rule sets, in the order in which a document meets them. "gopher": the seven
            quality rules. "gopher_repetition": the thirteen rules of repetition. "relaxed_c4": the
            three rules of C4 as documentation needs them. "c4": the rules as published, which
            also drop lines. "fineweb": FineWeb's own three.
        repetition: see RepetitionSettings.
        c4: see C4Settings.
        fineweb: see FineWebSettings.
        also_measure: rule sets that are measured and kept with the verdicts, but drop nothing.
    """

    rules: list[RuleSet] = Field(default=["gopher", "relaxed_c4"])
    repetition: RepetitionSettings = RepetitionSettings()
    c4: C4Settings = C4Settings()
    fineweb: FineWebSettings = FineWebSettings()
    also_measure: list[RuleSet] = Field(default_factory=list)

    @property
    def measured_sets(self) -> tuple[RuleSet, ...]:
        """`rules` and `also_measure`, each once."""
        return tuple(dict.fromkeys([*self.rules, *self.also_measure]))


def rules_of(
    settings: RuleSettings, rule_sets: Sequence[RuleSet] | None = None
) -> dict[str, tuple[Rule, Settings]]:
    """Return, for each rule's name, the rule and the settings that bound it.

    Args:
        settings: all thresholds.
        rule_sets: whose rules to return, in this order; None for `settings.rules`.
    """
    tables: dict[RuleSet, tuple[dict[str, Rule], Settings]] = {
        "gopher": (GOPHER_RULES, settings),
        "gopher_repetition": (REPETITION_RULES, settings.repetition),
        "relaxed_c4": (RELAXED_C4_RULES, settings),
        "c4": (c4_rules(settings.c4), settings.c4),
        "fineweb": (FINEWEB_RULES, settings.fineweb),
    }
    return {
        name: (rule, tables[rule_set][1])
        for rule_set in (settings.rules if rule_sets is None else rule_sets)
        for name, rule in tables[rule_set][0].items()
    }


def measure_rules(
    text: str, settings: RuleSettings, rule_sets: Sequence[RuleSet] | None = EVERY_RULE_SET
) -> dict[str, float]:
    """Return the measured number of each rule, by its name.

    Args:
        text: of a document.
        settings: the thresholds. Only those of C4's lines change what is measured.
        rule_sets: to measure; None for `settings.rules`. Measure all of them to be able to judge by
            any of them later.
    """
    page = TextStatistics(text)
    rules = rules_of(settings, rule_sets)
    return {name: float(rule.measure(page)) for name, (rule, _) in rules.items()}


def broken_rules(measures: dict[str, float], settings: RuleSettings) -> list[str]:
    """Return the names of the rules of `settings.rules` that a document with these measures breaks,
    in order.

    Raises:
        KeyError: a rule has not been measured.
    """
    return [
        name
        for name, (rule, bounds) in rules_of(settings).items()
        if not rule.holds(measures[name], bounds)
    ]


def first_broken_rule(text: str, settings: RuleSettings) -> str | None:
    """Return the first of `broken_rules(measure_rules(text, settings), settings)`, or None, without
    measuring the rules after it.
    """
    page = TextStatistics(text)
    for name, (rule, bounds) in rules_of(settings).items():
        if not rule.holds(rule.measure(page), bounds):
            return name
    return None


def text_of_kept_lines(text: str, settings: RuleSettings) -> str:
    """Return what the rules keep of a document's text: all of it, or, if `settings.rules` has "c4",
    the lines that C4 keeps, with a blank line between paragraphs.
    """
    if "c4" not in settings.rules:
        return text
    paragraphs = (paragraph.split("\n") for paragraph in TextStatistics(text).paragraphs)
    kept = (keep_c4_lines(lines, settings.c4).lines for lines in paragraphs)
    return "\n\n".join("\n".join(lines) for lines in kept if lines)
