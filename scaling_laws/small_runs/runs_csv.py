"""Reading and writing the table of finished training runs to which a scaling law is fitted.

Each line is a run: parameters (trainable numbers, a tied matrix counted once), tokens (seen in
training), loss (validation, nats per token) and flops. The column names `N` and `D` of published
tables are accepted, too.

What this leaves out: any judgment of the runs; the caller chooses which ones to trust.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

FEWEST_RUNS = 6  # with five unknowns, only a sixth run can contradict the fit
# Plausible counts and losses are within these; outside, logarithms times exponents could overflow.
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-30, 1e30
COLUMN_NAMES = {"parameters": ("parameters", "N"), "tokens": ("tokens", "D"), "loss": ("loss",)}


@dataclass(frozen=True)
class FinishedRun:
    """One training run: N parameters, D training tokens, and the loss reached (nats per token)."""

    parameters: float
    tokens: float
    loss: float


def is_usable(value: float) -> bool:
    """Return whether a run can have this number: not NaN, zero, negative or absurdly large."""
    return bool(SMALLEST_NUMBER <= value <= LARGEST_NUMBER)


def usable_range() -> str:
    """Return the range that `is_usable` accepts, in words."""
    return f"a positive number (from {SMALLEST_NUMBER:g} to {LARGEST_NUMBER:g})"


def read_runs_csv(path: Path) -> list[FinishedRun]:
    """Return the runs of a CSV file, in its order.

    Raises UserError, naming the file and if possible the line, if the file cannot be read, a column
    is missing, a cell is not a usable number, or there are fewer than six runs.
    """
    reader = csv.reader(io.StringIO(_text_of(path), newline=""))
    try:
        return _runs(reader, path)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a line of CSV: {error}") from None


def _text_of(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"there is no table of runs at {path}; give a CSV file with the columns parameters, "
            "tokens and loss"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file; give a CSV file in UTF-8") from None


def _runs(reader: Any, path: Path) -> list[FinishedRun]:
    heads = [head.strip() for head in next(reader, [])]
    columns = {quantity: _column(heads, quantity, path) for quantity in COLUMN_NAMES}
    runs = [
        FinishedRun(
            **{
                quantity: _positive_number(cells, column, heads, reader.line_num, path)
                for quantity, column in columns.items()
            }
        )
        for cells in reader
        if cells
    ]
    if len(runs) < FEWEST_RUNS:
        raise UserError(
            f"{path} holds {len(runs)} runs, but a surface with five unknowns needs at least "
            f"{FEWEST_RUNS}; add runs of other sizes and token counts"
        )
    return runs


def write_runs_csv(path: Path, runs: list[FinishedRun]) -> None:
    """Write the columns parameters, tokens, loss and flops (6 N D), atomically."""
    with atomic_file(Path(path), "w") as file:
        file.write("parameters,tokens,loss,flops\n")
        for run in runs:
            flops = 6 * run.parameters * run.tokens
            file.write(f"{run.parameters:.0f},{run.tokens:.0f},{run.loss:.9g},{flops:.6e}\n")


def _column(heads: list[str], quantity: str, path: Path) -> int:
    for name in COLUMN_NAMES[quantity]:
        if name in heads:
            return heads.index(name)
    raise UserError(
        f"{path} has no column {' or '.join(COLUMN_NAMES[quantity])}: "
        f"its columns are {', '.join(heads) or 'none'}; rename the right column, and separate "
        "columns by commas"
    )


def _positive_number(
    cells: list[str], column: int, heads: list[str], line: int, path: Path
) -> float:
    cell = cells[column].strip() if column < len(cells) else ""
    try:
        number = float(cell)
    except ValueError:
        number = 0.0
    if not is_usable(number):
        shown = cell if len(cell) < 40 else cell[:40] + "..."
        raise UserError(
            f"{path}, line {line}: {heads[column]} must be {usable_range()}, got {shown!r}"
        )
    return number
