"""FineWeb's three numbers by hand, and their thresholds."""

import math

from data_pipeline.rule_sets.fineweb_rules import (
    FINEWEB_RULES,
    FineWebSettings,
    end_mark_share,
    is_end_mark,
    short_line_share,
)
from data_pipeline.rule_sets.text_statistics import TextStatistics


def test_end_marks_of_several_scripts():
    assert all(map(is_end_mark, ".!?。！？।؟"))
    assert not any(map(is_end_mark, "a:;,)\"'-1 "))
    assert end_mark_share(["One.", "two", "three?", "four..."]) == 3 / 4
    assert end_mark_share([]) == 0


def test_a_line_of_30_characters_is_not_short():
    assert short_line_share(["x" * 29, "x" * 30, "x" * 31, ""]) == 2 / 4
    assert short_line_share([]) == 0


def test_what_is_measured_of_a_page():
    page = TextStatistics("Menu\n  Menu\n\nA line of more than thirty characters.\n")
    measures = {name: rule.measure(page) for name, rule in FINEWEB_RULES.items()}
    assert measures == {
        "FineWeb end marks": 1 / 3,
        "FineWeb duplicate characters": 4 / 46,
        "FineWeb short lines": 2 / 3,
    }


def test_the_thresholds_are_those_of_the_paper():
    bounds = [rule.bounds(FineWebSettings()) for rule in FINEWEB_RULES.values()]
    assert bounds == [(0.12, math.inf), (-math.inf, 0.1), (-math.inf, 0.67)]
