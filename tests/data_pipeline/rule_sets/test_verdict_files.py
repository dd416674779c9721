"""Verdicts written, read, and judged again by other settings without the texts."""

import pytest

from data_pipeline.rule_sets.c4_rules import C4Settings
from data_pipeline.rule_sets.fineweb_rules import FineWebSettings
from data_pipeline.rule_sets.rule_verdicts import RuleSettings, first_broken_rule, measure_rules
from data_pipeline.rule_sets.verdict_files import (
    RuleDrops,
    Verdict,
    count_drops,
    read_settings,
    read_verdicts,
    write_verdicts,
)
from lm_core.user_error import UserError

SENTENCE = "The quick brown fox of the field jumps over the lazy dog and looks back to see it."
TEXTS = [
    "\n".join(f"{SENTENCE} It is number {i}." for i in range(8)),
    "too short",
    "too short {",
    " ".join(["x" * 11] * 60),
    "\n".join([f"The {i}. of the names" for i in range(40)]),
]
SETTINGS = RuleSettings(rules=["gopher"])


def verdict(number: int, settings: RuleSettings = SETTINGS) -> Verdict:
    text = TEXTS[number]
    failed = first_broken_rule(text, settings)
    return Verdict(f"page {number}", "crawl", "en", failed, measure_rules(text, settings))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("verdicts") / "verdicts.parquet"
    assert write_verdicts(path, map(verdict, range(len(TEXTS))), SETTINGS) == len(TEXTS)
    return path


def test_what_is_read_is_what_was_written(written):
    assert list(read_verdicts(written)) == [verdict(i) for i in range(len(TEXTS))]
    assert read_settings(written) == SETTINGS


def test_no_documents_can_be_written(tmp_path):
    assert write_verdicts(tmp_path / "v.parquet", [], SETTINGS) == 0
    assert list(read_verdicts(tmp_path / "v.parquet")) == []
    drops, kept = count_drops(tmp_path / "v.parquet", SETTINGS)
    assert kept == 0
    assert set(drops.values()) == {RuleDrops(0, 0, 0)}


def test_drops_by_the_settings_of_then(written):
    drops, kept = count_drops(written, SETTINGS)
    assert kept == 2
    assert drops["number of words"] == RuleDrops(broken=2, first=2, alone=0)
    assert drops["mean word length"] == RuleDrops(broken=1, first=1, alone=0)
    assert drops["stop words"] == RuleDrops(broken=3, first=0, alone=0)
    assert sum(drop.first for drop in drops.values()) + kept == len(TEXTS)


@pytest.mark.parametrize(
    "settings",
    [
        RuleSettings(rules=["gopher"], min_words=1, min_stop_words=0),
        RuleSettings(rules=["c4", "gopher"]),
        RuleSettings(rules=["fineweb"], fineweb=FineWebSettings(max_short_line_share=0.0)),
        RuleSettings(rules=["gopher_repetition", "relaxed_c4"], max_curly_brackets_per_word=1.0),
        RuleSettings(rules=[]),
    ],
)
def test_other_settings_count_as_if_the_texts_were_read_again(written, settings):
    drops, kept = count_drops(written, settings)
    failed = [first_broken_rule(text, settings) for text in TEXTS]
    assert kept == failed.count(None)
    for name, drop in drops.items():
        assert drop.first == failed.count(name)


def test_more_rows_than_are_read_at_once(tmp_path):
    one = verdict(1)
    path = tmp_path / "many.parquet"
    assert write_verdicts(path, [one] * 5000, SETTINGS) == 5000
    drops, kept = count_drops(path, SETTINGS)
    assert (drops["number of words"].first, kept) == (5000, 0)


def test_settings_that_need_the_texts_are_refused(written):
    lines = RuleSettings(rules=["c4"], c4=C4Settings(min_words_per_line=3))
    with pytest.raises(UserError, match=r"chosen with min_words_per_line = 5, not 3; .*again"):
        count_drops(written, lines)
    not_used = RuleSettings(rules=["gopher"], c4=C4Settings(min_words_per_line=3))
    count_drops(written, not_used)


def test_rules_that_were_not_measured_are_refused(tmp_path):
    path = tmp_path / "some.parquet"
    write_verdicts(path, [verdict(0)], SETTINGS, ["gopher"])
    assert set(next(read_verdicts(path)).measures) < set(verdict(0).measures)
    with pytest.raises(UserError, match=r"'FineWeb end marks' was not measured; take its set out"):
        count_drops(path, RuleSettings(rules=["fineweb"]))


def test_a_missing_or_other_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no verdicts there"):
        count_drops(tmp_path / "no.parquet", SETTINGS)
    other = tmp_path / "other.parquet"
    other.write_bytes(b"PAR1 is not all")
    with pytest.raises(UserError, match="found another file") as raised:
        list(read_verdicts(other))
    assert "\n" not in str(raised.value)


def test_a_failure_leaves_the_old_file(written, tmp_path):
    path = tmp_path / "v.parquet"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        write_verdicts(path, [Verdict("", "", "", None, {})], SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["v.parquet"]
    assert path.read_bytes() == b"old"
