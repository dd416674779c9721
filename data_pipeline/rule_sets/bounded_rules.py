"""A rule: a number measured of a text, and the names of the settings that bound it.

The verdict depends on the measured numbers and the settings alone, so that another threshold needs
no second look at the text. Bounds are inclusive: a number equal to its bound passes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data_pipeline.rule_sets.text_statistics import TextStatistics
from lm_core.settings import Settings


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        measure: takes the statistics of a text, returns the number that is bounded.
        at_least: the smallest number that passes, or the name of the setting that gives it.
        at_most: the largest number that passes, or the name of the setting that gives it.
    """

    measure: Callable[[TextStatistics], float]
    at_least: str | float = -math.inf
    at_most: str | float = math.inf

    def bounds(self, settings: Settings) -> tuple[float, float]:
        """Return the smallest and the largest number that pass."""
        return _number(self.at_least, settings), _number(self.at_most, settings)

    def holds(self, measured: float, settings: Settings) -> bool:
        """Return whether the number is within the bounds that the settings give."""
        least, most = self.bounds(settings)
        return least <= measured <= most


def _number(bound: str | float, settings: Settings) -> float:
    return getattr(settings, bound) if isinstance(bound, str) else bound


def first_broken(page: TextStatistics, rules: Mapping[str, Rule], settings: Settings) -> str | None:
    """Return the name of the first rule that the text breaks, or None if it passes them all. The
    rules after the first broken one are not measured.
    """
    for name, rule in rules.items():
        if not rule.holds(rule.measure(page), settings):
            return name
    return None
