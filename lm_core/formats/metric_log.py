"""metrics.jsonl: one row per training step, for plots, scaling laws and people.

Every row has `stage` and `step`. A resumed run first drops the rows after its checkpoint, so that
each step is there once. What this leaves out: buffering; a row is on the disk before the next step
starts.
"""

import json
from pathlib import Path
from typing import Any, Protocol

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError


class MetricMirror(Protocol):
    """The interface of a second place to write to, such as a wandb run."""

    def log(self, data: dict[str, Any]) -> Any: ...


class MetricLog:
    """A log that appends the rows of one stage to a file that several stages share.

    Args:
        path: the run's metrics.jsonl.
        stage: "pretrain", "sft", "dpo" ...; written into every row.
        mirror: also gets every row, its keys prefixed with the stage ("pretrain/loss"); None for
            none.
    """

    def __init__(self, path: Path, stage: str, mirror: MetricMirror | None = None) -> None:
        self.path = path
        self.stage = stage
        self.mirror = mirror

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. `row` must hold "step"; NaN is refused, because it is not JSON."""
        assert "step" in row, "a metrics row without its step could not be rewound on a resume"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"stage": self.stage, **row}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.mirror is not None:
            self.mirror.log({f"{self.stage}/{key}": value for key, value in row.items()})

    def rewind(self, step: int) -> None:
        """Drop this stage's rows past `step` (-1 drops all of them); other stages' rows stay."""
        if self.path.exists():
            self.replace_rows([row for row in self.rows() if row["step"] <= step])

    def rows(self) -> list[dict[str, Any]]:
        """Return this stage's rows, in the order written."""
        return read_metrics(self.path, self.stage)

    def replace_rows(self, rows: list[dict[str, Any]]) -> None:
        """Replace this stage's rows with `rows`; other stages' rows stay, and come first."""
        others = [row for row in read_metrics(self.path) if row["stage"] != self.stage]
        with atomic_file(self.path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in [*others, *rows])


def read_metrics(path: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of one stage, or of all stages, in the order written.

    If a killed process left the last line half-written, the line is dropped: its step is run
    again.

    Raises:
        ValueError: a line other than the last is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON; remove that line") from None
    return [row for row in rows if stage is None or row["stage"] == stage]
