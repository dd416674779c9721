"""The funnel of a build as lines of text, for a terminal or a file: at most 60 columns wide.

What this leaves out: what each source gave, and examples; they are on the report's page.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 60  # columns
REASONS = 5  # named below the table


def funnel_lines(counts: Sequence[dict[str, Any]], seconds: Mapping[str, float]) -> list[str]:
    """Return a table with a row for each step, and below it the most frequent reasons.

    Args:
        counts: the rows of counts.json.
        seconds: of each step, by its name; a step without them has an empty cell.

    >>> row = {"step": "near duplicates", "documents_in": 1234, "documents_out": 1200}
    >>> row |= {"bytes_out": 5_600_000, "dropped": {"similar text": 34}}
    >>> print("\\n".join(funnel_lines([row], {"near duplicates": 0.25})))
    step                           in      out  MB out       s
    near duplicates             1,234    1,200     5.6     0.2
    dropped: similar text 34
    """
    lines = [_line("step", "in", "out", "MB out", "s")]
    for row in counts:
        spent = seconds.get(row["step"])
        documents = _number(row["documents_in"]), _number(row["documents_out"])
        size = _short(row["bytes_out"] / 1e6)
        lines.append(_line(row["step"], *documents, size, "" if spent is None else _short(spent)))
    return lines + _reasons(counts)


def _line(step: str, *cells: str) -> str:
    widths = 9, 9, 8, 8
    aligned = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{textwrap.shorten(step, 24, placeholder='...'):<24}{aligned}".rstrip()


def _number(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.2f}M"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 999.95 else f"{value:,.0f}"


def _reasons(counts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the most frequent reasons of all steps in a few lines."""
    dropped: Counter[str] = Counter()
    for row in counts:
        dropped.update(row["dropped"])
    if not dropped:
        return []
    named = dropped.most_common(REASONS)
    if others := dropped.total() - sum(number for _, number in named):
        named.append(("other reasons", others))
    cells = [f"{reason} {number:,}".replace(" ", "\u00a0") for reason, number in named]
    text = "dropped: " + ", ".join(cells)
    wrapped = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in wrapped]
