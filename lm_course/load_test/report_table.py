"""The figures of a load test as two tables, or more in a narrow terminal, and notes below them."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lm_course.load_test.load_report import LevelReport, LoadReport, Percentiles

LAG_TO_MENTION = 0.010  # seconds
MEASURES = (("TTFT", "time_to_first_token"), ("gap", "between_pieces"), ("total", "whole_answer"))


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds with three digits, or a dash."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _table(columns: Sequence[Sequence[str]]) -> Table:
    """Make a table of columns, each of which begins with its heading."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, *_ in columns:
        table.add_column(heading, justify="right", vertical="bottom")
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*row)
    return table


def _print_columns(columns: Sequence[Sequence[str]], console: Console) -> None:
    """Print as many tables as the window needs; each begins with the first column."""
    first, *left = columns
    any_width = console.options.update_width(1000)
    while left:
        number = len(left)
        while number > 1:
            table = _table([first, *left[:number]])
            if console.measure(table, options=any_width).maximum <= console.width:
                break
            number -= 1
        console.print(_table([first, *left[:number]]))
        console.print()
        left = left[number:]


def _of(found: Percentiles | None, name: str) -> float | None:
    return None if found is None else getattr(found, name)


def print_report(report: LoadReport, console: Console) -> None:
    """Print tables and notes."""
    first = "clients" if report.levels and report.levels[0].clients is not None else "rate"
    headers = ["done", "hung\nup", "re-\nfused", "err-\nors", "time\nlimit"]
    headers += ["requests\nper s", "tokens\nout per s", "tokens\nper s", "prompt\ntokens"]
    counts = [[first, *headers, "answer\ntokens"]]
    times = [[first, *(f"{s}\n{p}" for s, _ in MEASURES for p in ("p50", "p95", "p99"))]]
    for level in report.levels:
        numbers = (level.done, level.hung_up, level.refused, level.errors, level.time_limit)
        rates = (level.requests_per_second, level.output_tokens_per_second)
        means = (level.total_tokens_per_second, level.mean_prompt_tokens, level.mean_answer_tokens)
        counts.append([level.load, *map(str, numbers), *map(_short, (*rates, *means))])
        found = [getattr(level, name) for _, name in MEASURES]
        cells = [milliseconds(_of(each, p)) for each in found for p in ("p50", "p95", "p99")]
        times.append([level.load, *cells])
    for rows in (counts, times):
        _print_columns(list(zip(*rows, strict=True)), console)
    console.print(
        "Milliseconds. TTFT: from the planned start to the first piece of text. gap: from "
        "one piece to the next. total: whole answers, from the planned start."
    )
    for level in report.levels:
        for note in notes_of(level):
            console.print(f"{first} {level.load}: {note}")


def notes_of(level: LevelReport) -> list[str]:
    """Return what the tables do not say about a level."""
    notes = [f"{error.count} x {error.example}" for error in level.errors_by_kind]
    if level.refused:
        notes.append(
            f"{level.refused} refused (429), told to wait {level.mean_retry_after:.1f} s on average"
        )
    if level.stopped:
        notes.append(f"{level.stopped} unfinished at Ctrl-C")
    if level.answers_without_usage:
        notes.append(
            f"the server does not count the tokens of {level.answers_without_usage} answers; "
            "their pieces are counted"
        )
    if level.tokens_per_piece is not None:
        each = milliseconds(_of(level.per_output_token, "p50"))
        notes.append(f"{level.tokens_per_piece:.2f} tokens per piece, {each} ms per token (p50)")
    lag = _of(level.client_lag, "p99")
    if lag is not None and lag > LAG_TO_MENTION:
        notes.append(
            f"this client sent 1% of its requests {milliseconds(lag)} ms or more late; "
            "the times contain this delay"
        )
    return notes
