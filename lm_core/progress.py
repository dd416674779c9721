"""One progress bar for every long step: rich on a terminal, elsewhere a plain line after each fifth
of the work.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 2.0  # if there is no terminal; a short step prints no line
NARROW_TERMINAL = 90  # columns; a narrower terminal shows only the text, without the bar


def clock(seconds: float | None) -> str:
    """Return "1:05" for 65 seconds, and "-:--" if the time is not known."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class WordsColumn(ProgressColumn):
    """Everything but the bar in one cell, cut with an ellipsis at the edge of the terminal."""

    def render(self, task: Task) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{task.fields['count']}  ")
        if task.finished:
            text.append(clock(task.finished_time), style="green")
        else:
            left = f"{clock(task.elapsed)} + {clock(task.time_remaining)} left"
            text.append(left, style="cyan")
        return text.append(f"  {task.fields['note']}", style="dim")


class ProgressBar:
    """The progress of one step, which calls only `advance(n, note)`."""

    def __init__(self, description: str, total: int | None, unit: str, console: Console) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self.note = ""
        self.started = time.monotonic()
        self.console = console
        self.live: Progress | None = None
        self.fifths = 0
        self.last_line = self.started
        if console.is_terminal:
            self.live = self._live_progress()
            self.task = self.live.add_task(description, total=total, note="", count="")

    def _live_progress(self) -> Progress:
        bar = [BarColumn(bar_width=24)] if self.console.width >= NARROW_TERMINAL else []
        name = TextColumn("{task.description}")
        return Progress(name, *bar, WordsColumn(), console=self.console)

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """Record that `n` more units are done; `note` is shown after the bar until the next one."""
        self.done += n
        self.note = self.note if note is None else note
        if self.live is not None:
            self.live.update(self.task, advance=n, note=self.note, count=self._count())
        elif self.total and self._is_time_for_a_line(self.done * 5 // self.total):
            self.console.print(f"  {self._line()}", highlight=False, soft_wrap=True)

    def _is_time_for_a_line(self, fifths: int) -> bool:
        now = time.monotonic()
        is_end = fifths >= 5 and self.fifths > 0  # always printed, if there has been a line
        wait = 0 if is_end else SECONDS_BETWEEN_LINES
        if fifths <= self.fifths or now - self.last_line < wait:
            return False
        self.fifths, self.last_line = fifths, now
        return True

    def _count(self) -> str:
        total = f"/{self.total:,}" if self.total else ""
        return f"{self.done:,}{total} {self.unit}".rstrip()

    def _line(self) -> str:
        elapsed = time.monotonic() - self.started
        left = ""
        if self.total and 0 < self.done < self.total:
            left = f", {clock(elapsed / self.done * (self.total - self.done))} left"
        note = f" · {self.note}" if self.note else ""
        return f"{self.description}: {self._count()} in {clock(elapsed)}{left}{note}"


@contextmanager
def progress_bar(
    description: str, total: int | None, unit: str = "", console: Console | None = None
) -> Iterator[ProgressBar]:
    """Show the progress of a step and the time that is left.

    Args:
        description: the step's name, such as "pretrain".
        total: the number of units; None if it is not known.
        unit: the word after the count, such as "pages".
        console: where to write; standard error by default, so that results on standard output stay
            clean.
    """
    bar = ProgressBar(description, total, unit, console or Console(stderr=True))
    if bar.live is None:
        yield bar
        return
    with bar.live:
        yield bar
