"""The table that `lm data build` prints: narrow, short, and with the reasons that matter."""

from lm_course.report.funnel_table import WIDTH, funnel_lines

STEP = "drop repeated paragraphs"  # no name of a step is longer


def row(step: str, **dropped: int) -> dict:
    given = 5_000_000
    left = given - sum(dropped.values())
    reasons = {reason.replace("_", " "): number for reason, number in dropped.items()}
    return {"step": step, "documents_in": given, "documents_out": left, "dropped": reasons,
            "bytes_in": 123_456_700_000, "bytes_out": 123_456_700_000}  # fmt: skip


def test_a_table_of_large_figures_is_narrow_and_aligned():
    lines = funnel_lines([row(STEP, same_text=20_000), row("x")], {STEP: 12345.6})
    assert lines == [
        "step                           in      out  MB out       s",
        "drop repeated paragraphs    5.00M    4.98M 123,457  12,346",
        "x                           5.00M    5.00M 123,457",
        "dropped: same text 20,000",
    ]
    assert max(map(len, lines)) <= WIDTH


def test_the_most_frequent_reasons_of_all_steps_are_named_and_the_rest_summed():
    many = {f"the_reason_of_the_number_{n}": n for n in range(1, 9)}
    lines = funnel_lines([row("a", same_text=7, **many), row("b", same_text=70)], {})
    assert " ".join(line.strip() for line in lines[3:]) == (
        "dropped: same text 77, the reason of the number 8 8, the reason of the number 7 7, "
        "the reason of the number 6 6, the reason of the number 5 5, other reasons 10"
    )
    assert max(map(len, lines)) <= WIDTH
    assert all(line.endswith(",") for line in lines[3:-1]), "no reason is broken"


def test_the_longest_build_fits_on_a_small_screen():
    reasons = {f"a_long_reason_of_some_number_{n}": n for n in range(1, 9)}
    lines = funnel_lines([row(f"step {n}", **reasons) for n in range(10)], {})
    assert len(lines) <= 16


def test_nothing_dropped_gives_no_line_of_reasons():
    assert len(funnel_lines([row("a")], {})) == 2
