"""The text beside the progress bar of a training run: loss, speed, validation; on a terminal also
the curve of the loss so far, and the utilization if it is measured.

What this leaves out: the bar itself and the time left (lm_core/progress.py).
"""

from typing import Any

from training.runs.training_run import TrainingState

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 16  # characters of the curve


class ProgressNote:
    """Keeps the losses that the curve needs: the mean of each of WIDTH equal parts of the run.

    Args:
        steps: of the whole run.
        is_live: whether the bar is on a terminal.
    """

    def __init__(self, steps: int, is_live: bool) -> None:
        self.steps = steps
        self.is_live = is_live
        self.sums = [0.0] * WIDTH
        self.counts = [0] * WIDTH
        self.utilization: float | None = None

    def after(self, row: dict[str, Any], state: TrainingState) -> str:
        """Return the text after a step, with the first validation figure."""
        part = (row["step"] - 1) * WIDTH // self.steps
        self.sums[part] += row["loss"]
        self.counts[part] += 1
        self.utilization = row.get("mfu", self.utilization)
        note = f"loss {row['loss']:.2f} · {row['tokens_per_second']:,.0f} tokens/s"
        for name, value in list(state.validation_after.items())[:1]:
            note += f" · {name.replace('_', ' ')} {value:.3f}"
        if self.is_live:
            used = "" if self.utilization is None else f" · {self.utilization:.0%} MFU"
            note = f"{self.curve()} {note}{used}"
        return note

    def curve(self) -> str:
        """Return one character for each part of the run so far, from the lowest loss to the
        highest.
        """
        known = [s / n for s, n in zip(self.sums, self.counts, strict=True) if n]
        lowest, highest = min(known), max(known)
        scale = (len(BARS) - 1) / (highest - lowest) if highest > lowest else 0.0
        return "".join(BARS[round((loss - lowest) * scale)] for loss in known)
