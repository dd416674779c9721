"""Which filters a pipeline has, and the settings of a pipeline without some of them."""

import pytest

from data_pipeline.executors.comparing_steps import comparing_steps_of
from data_pipeline.executors.document_building import DocumentSettings
from data_pipeline.executors.page_steps import page_steps_of
from data_pipeline.quality_classifier import HarmfulSettings
from data_pipeline.rule_sets.rule_verdicts import RuleSettings
from lm_core.user_error import UserError
from lm_course.data_ablation.left_out_filters import filters_of, variants_of

SETTINGS = DocumentSettings()
STEPS = [
    "identify language",
    "quality rules",
    "mask personal data",
    "drop repeated lines",
    "exact duplicates",
    "near duplicates",
]


def steps_of(settings: DocumentSettings) -> list[str]:
    return [step.name for step in (*page_steps_of(settings), *comparing_steps_of(settings))]


def test_rule_sets_are_filters_if_there_are_several() -> None:
    assert filters_of(SETTINGS) == [*STEPS[:2], "gopher", "relaxed_c4", *STEPS[2:]]
    one = DocumentSettings(quality=RuleSettings(rules=["gopher"]))
    assert filters_of(one) == STEPS
    more = DocumentSettings(harmful=HarmfulSettings(kinds=["toxic"]), leave_out=STEPS[-1:])
    assert "harmful text" in filters_of(more) and "near duplicates" not in filters_of(more)


def test_by_default_each_filter_is_left_out_alone() -> None:
    full, *others = variants_of(SETTINGS)
    assert (full.left_out, full.settings) == ("nothing", SETTINGS)
    assert [variant.left_out for variant in others] == filters_of(SETTINGS)
    for variant in others:
        assert variant.settings != SETTINGS
        missing = [name for name in STEPS if name not in steps_of(variant.settings)]
        rules = [set_ for set_ in SETTINGS.quality.rules if set_ in variant.settings.quality.rules]
        if variant.left_out in STEPS:
            assert (missing, rules) == ([variant.left_out], SETTINGS.quality.rules)
        else:
            assert missing == []
            assert [*rules, variant.left_out] in (
                ["relaxed_c4", "gopher"],
                ["gopher", "relaxed_c4"],
            )


def test_filters_are_left_out_together_and_named_in_several_ways() -> None:
    _, both, everything = variants_of(
        SETTINGS, ["Exact-duplicates+near_duplicates", "all", "all filters"]
    )
    assert both.left_out == "exact duplicates + near duplicates"
    assert both.name == "exact_duplicates-and-near_duplicates"
    assert steps_of(both.settings) == ["extract text", *STEPS[:4]]
    assert steps_of(everything.settings) == ["extract text"]


def test_names_that_stand_for_nothing() -> None:
    with pytest.raises(UserError, match=r"gofer: no such filter; did you mean 'gopher'"):
        variants_of(SETTINGS, ["gofer"])
    with pytest.raises(UserError, match=r"not use the filter 'fineweb'; those that it uses are"):
        variants_of(SETTINGS, ["near duplicates + fineweb"])
    with pytest.raises(UserError, match="every filter is left out already"):
        variants_of(DocumentSettings(leave_out=STEPS))
