"""The tables of a load test fit a terminal of 80 columns and say what else there is to know."""

import io

from rich.console import Console

from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.load_plan import Level
from lm_course.load_test.load_report import LoadReport, level_report
from lm_course.load_test.load_run import LevelRun
from lm_course.load_test.report_table import milliseconds, print_report


def printed(*runs: LevelRun, width: int = 80) -> str:
    levels = [level_report(run) for run in runs]
    report = LoadReport(url="u", model="m", settings={}, was_stopped=False, levels=levels)
    out = io.StringIO()
    print_report(report, Console(file=out, width=width, markup=False))
    return out.getvalue()


def test_milliseconds_have_three_digits() -> None:
    seconds = (0.0, 0.00123, 0.0123, 0.123, 12.3, None)
    assert [milliseconds(s) for s in seconds] == ["0.00", "1.23", "12.3", "123", "12300", "-"]


def test_large_numbers_fit_80_columns() -> None:
    slow = [
        RequestRecord(0, n, 0.0, 0.001, [33.333, 44.444], 99.999, "done", None, None, 12345, 1234)
        for n in range(10_000)
    ]
    text = printed(LevelRun(Level(clients=1024), slow, 100.0))
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = [line.split() for line in lines if line.strip().startswith("1024 ")]
    assert rows[0][:2] == ["1024", "10000"]
    assert rows[0][-2:] == ["12345", "1234"]
    assert rows[1] == ["1024", *["33333"] * 3, *["11111"] * 3, *["99999"] * 3]
    assert "…" not in text, "nothing is cut"


def test_in_a_narrow_window_the_columns_continue_in_further_tables() -> None:
    done = [RequestRecord(0, 0, 0.0, 0.5, [1.0, 3.0], 3.0, "done", None, None, 9, 5)]
    level = LevelRun(Level(clients=64), done, 3.0)
    wide, narrow = printed(level), printed(level, width=40)
    assert "…" not in narrow
    assert all(len(line) <= 40 for line in narrow.splitlines()[:-2])
    rows = [[line.split() for line in text.splitlines() if line.startswith("     64 ")]
            for text in (wide, narrow)]  # fmt: skip
    assert len(rows[0]) == 2 < len(rows[1])
    cells = [[cell for row in table for cell in row[1:]] for table in rows]
    assert cells[0] == cells[1], "the same cells in the same order"


def test_every_level_has_a_row_and_nothing_measured_is_a_dash() -> None:
    text = printed(LevelRun(Level(rate=0.5)), LevelRun(Level(rate=float("inf"))))
    rows = [line.split() for line in text.splitlines()]
    assert ["0.5/s", *["-"] * 9] in rows
    assert ["inf/s", *["-"] * 9] in rows


def test_notes() -> None:
    records = [
        RequestRecord(0, 0, 0.0, 0.5, [1.0, 3.0], 3.0, "done", None, None, 9, 5),
        RequestRecord(0, 1, 0.0, 0.0, [1.0], 2.0, "done"),
        RequestRecord(0, 2, 0.0, 0.0, [], 1.0, "refused", "HTTP 429", 2.5),
        RequestRecord(0, 3, 0.0, 0.0, [], 1.0, "error", "HTTP 500: [bad]"),
        RequestRecord(0, 4, 0.0, 0.0, [], 3.0, "stopped"),
    ]
    text = printed(LevelRun(Level(clients=2), records, 3.0))
    for note in (
        "1 x HTTP 500: [bad]",
        "1 refused (429), told to wait 2.5 s on average",
        "1 unfinished at Ctrl-C",
        "does not count the tokens of 1 answers",
        "2.50 tokens per piece, 500 ms per token (p50)",
        "late",
    ):
        assert f"clients 2: {note}" in text or note in text, note
