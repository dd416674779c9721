"""Reading of the questions, answers and preference pairs that `lm data instructions` wrote.

    sft_*.jsonl         {"id", "messages": [{"role", "content"}, ...]}
    preference_*.jsonl  {"id", "prompt": [{"role", "content"}, ...], "chosen", "rejected"}

What this leaves out: other layouts of instruction data; convert them to these.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lm_core.user_error import UserError

Row = TypeVar("Row")
Encoded = TypeVar("Encoded")
Message = dict[str, str]
MAKE_IT = "make it with `lm data instructions RECIPE`"


@dataclass(frozen=True)
class PreferencePair:
    """A conversation up to the last question, with a better and a worse answer to it."""

    prompt: list[Message]
    chosen: str
    rejected: str


def read_conversations(path: Path) -> list[list[Message]]:
    """Return the conversations of sft_train.jsonl or sft_heldout.jsonl, each a list of messages.

    Raises ValueError, naming the file and the line, if one cannot be used.
    """
    return [row["messages"] for row in _rows(path, {"messages": list})]


def read_preferences(path: Path) -> list[PreferencePair]:
    """Return the pairs of preference_train.jsonl or preference_heldout.jsonl; errors as above."""
    fields = {"prompt": list, "chosen": str, "rejected": str}
    return [
        PreferencePair(row["prompt"], row["chosen"], row["rejected"]) for row in _rows(path, fields)
    ]


def encode_rows(
    path: Path,
    rows: Sequence[Row],
    encode: Callable[[Row], Encoded | None],
    at_most: int | None = None,
) -> tuple[list[Encoded], int]:
    """Return `encode` of each row, without the rows for which it is None, and the number of those.

    Stops after the first `at_most` that fit: later rows are neither encoded nor counted. Raises
    ValueError, naming the file and the row, if `encode` does: an unknown role, or a special token
    inside a message.
    """
    encoded: list[Encoded] = []
    num_left_out = 0
    for number, row in enumerate(rows, start=1):
        if len(encoded) == at_most:
            break
        try:
            text = encode(row)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        if text is None:
            num_left_out += 1
        else:
            encoded.append(text)
    return encoded, num_left_out


def _rows(path: Path, fields: dict[str, type]) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {MAKE_IT}") from None
    if not any(lines):
        raise UserError(f"{path} has no rows; {MAKE_IT}")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); {MAKE_IT}") from None
        for field, expected in fields.items():
            found = row.get(field) if isinstance(row, dict) else None
            if not isinstance(found, expected):
                raise UserError(
                    f"{path}, line {number}: {field} must be a {expected.__name__}, got {found!r}"
                )
            for message in found if expected is list else []:
                if not isinstance(message, dict):
                    raise UserError(
                        f"{path}, line {number}: {field} must contain messages, got {message!r}"
                    )
        yield row
