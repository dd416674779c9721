"""A terminal shows a bar that fits its width; elsewhere a few plain lines are printed."""

import io
import re

import pytest
from rich.console import Console

from lm_core import progress
from lm_core.progress import clock, progress_bar


def plain_lines(monkeypatch: pytest.MonkeyPatch, seconds_per_step: float) -> list[str]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    output = io.StringIO()
    with progress_bar("pretrain", 100, "steps", Console(file=output, width=80)) as bar:
        for step in range(100):
            now[0] += seconds_per_step
            bar.advance(1, note=f"loss {5 - step / 100:.2f}")
    return [line.strip() for line in output.getvalue().splitlines()]


def test_without_a_terminal_a_line_every_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = plain_lines(monkeypatch, seconds_per_step=1)
    assert len(lines) == 5
    assert lines[0] == "pretrain: 20/100 steps in 0:20, 1:20 left · loss 4.81"
    assert lines[-1] == "pretrain: 100/100 steps in 1:40 · loss 4.01"


def test_without_a_terminal_a_short_step_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_lines(monkeypatch, seconds_per_step=0.01) == []


@pytest.mark.parametrize("width", [40, 80, 120])
def test_on_a_terminal_it_fits_one_line(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=True, color_system=None)
    with progress_bar("pretrain", 1000, "steps", console) as bar:
        bar.advance(1000, note="loss 3.21 · 5,210 tokens/s")
    last = [
        line for line in output.getvalue().replace("\r", "\n").split("\n") if "pretrain" in line
    ]
    assert "1,000" in last[-1]
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last[-1])
    assert len(visible.rstrip()) <= width


def test_clock() -> None:
    assert [clock(value) for value in (None, 0, 65, 3725)] == ["-:--", "0:00", "1:05", "1:02:05"]


def test_without_a_terminal_the_last_line_is_that_of_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if the last fifth takes less than the time between two lines."""
    now, output = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress_bar("unpack", 10, "tensors", Console(file=output, width=80)) as bar:
        for step in range(10):
            now[0] += 3 if step < 4 else 0.1
            bar.advance()
    assert output.getvalue().splitlines()[-1].split() == [
        "unpack:",
        "10/10",
        "tensors",
        "in",
        "0:13",
    ]
