"""progress.toml keeps the best result, and is read back as it was written."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_course.learning.learner_progress import (
    DrillProgress,
    Progress,
    TaskProgress,
    read_progress,
    write_progress,
)

MONDAY, TUESDAY = date(2026, 1, 5), date(2026, 1, 6)

results = st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda pair: (min(pair), max(pair)))
tasks = st.builds(
    lambda result, reached, hints: TaskProgress(*result, reached, hints),
    results,
    st.none() | st.dates(min_value=date(1, 1, 1)),
    st.integers(0, 3),
)
drills = st.builds(DrillProgress, st.integers(0, 9), st.none() | st.dates(min_value=date(1, 1, 1)))
names = st.builds("a{}/{}".format, st.integers(1, 6), st.text("ab-", min_size=1))
ids = st.builds("a{}.{}".format, st.integers(1, 6), st.integers(1, 30))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(ids, tasks), st.dictionaries(names, drills))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, content: dict, answered: dict
) -> None:
    path = tmp_path_factory.mktemp("progress") / "progress.toml"
    write_progress(path, Progress(content, answered))
    assert read_progress(path) == Progress(content, answered)


def test_only_a_better_result_counts() -> None:
    progress = Progress()
    assert progress.record("a1.2", 2, 5, MONDAY)
    assert not progress.record("a1.2", 2, 5, TUESDAY)
    assert not progress.record("a1.2", 0, 5, TUESDAY)
    assert progress.of("a1.2") == TaskProgress(2, 5, MONDAY)
    assert progress.record("a1.2", 5, 5, TUESDAY)
    assert progress.of("a1.2") == TaskProgress(5, 5, TUESDAY)
    assert progress.of("a1.2").done
    assert not progress.record("a1.3", 0, 5, MONDAY)
    assert progress.of("a1.3") == TaskProgress()


def test_hints_and_results_do_not_disturb_each_other() -> None:
    progress = Progress()
    progress.take_hint("a1.2", 2)
    progress.take_hint("a1.2", 1)
    progress.record("a1.2", 1, 5, MONDAY)
    assert progress.of("a1.2") == TaskProgress(1, 5, MONDAY, hints=2)


def test_wrong_answers_to_a_drill_count_until_the_right_one() -> None:
    progress = Progress()
    assert progress.of_drill("a1/x") == DrillProgress()
    for answer in (None, None, MONDAY, None, TUESDAY):
        progress.answer_drill("a1/x", answer)
    assert progress.of_drill("a1/x") == DrillProgress(wrong=2, solved=MONDAY)


def test_the_file_as_git_shows_it(tmp_path: Path) -> None:
    progress = Progress()
    progress.record("a1.10", 3, 3, TUESDAY)
    progress.record("a1.2", 2, 5, MONDAY)
    progress.take_hint("a1.2", 1)
    progress.answer_drill("a1/x", None)
    progress.answer_drill("a1/x", TUESDAY)
    write_progress(tmp_path / "progress.toml", progress)
    lines = (tmp_path / "progress.toml").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        '"a1.2" = { passed = 2, checks = 5, reached = 2026-01-05, hints = 1 }',
        '"a1.10" = { passed = 3, checks = 3, reached = 2026-01-06 }',
        "",
        "[drills]  # the wrong answers, and the day of the right one",
        '"a1/x" = { wrong = 1, solved = 2026-01-06 }',
    ]


def test_no_file_is_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "none.toml").tasks == {}


@pytest.mark.parametrize(
    "line",
    [
        '"a1.1" = { passed = 9, checks = 3 }',
        '"a1.1" = { passed = "x" }',
        '"a1.1" = 3',
        '"a1.1" = { scored = 3 }',
        '"a1.1" = { passed = 1, checks = 3, reached = "yesterday" }',
        '"a1.1" = { passed = }',
        'drills = "a1.1"',
        '[drills]\n"a1.1" = { wrong = "a lot" }',
        '[drills]\n"a1.1" = { tries = 1 }',
    ],
)
def test_an_edit_that_went_wrong_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "progress.toml"
    path.write_text(line)
    with pytest.raises(ValueError, match=r"progress\.toml: ") as caught:
        read_progress(path)
    assert "a1.1" in str(caught.value) or "line 1" in str(caught.value)
