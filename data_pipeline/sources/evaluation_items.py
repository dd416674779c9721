"""The items of an evaluation set: the rows of JSON lines, or the paragraphs of a text.

A line that cannot be read is refused, not skipped: nobody would look for what it contained. What
this leaves out: parquet files, JSON files that are one array, and fields inside other fields.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.sources.plain_text import OPENERS, file_texts, unpacked_blocks
from lm_core.user_error import UserError

PARAGRAPH_END = re.compile(r"\n(?:[ \t\r]*\n)+")
JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_items(path: Path, name: str, fields: Sequence[str]) -> list[str]:
    """Return the items of a file: a row's fields, joined by blanks, or a paragraph.

    Args:
        path: JSON lines if its name ends in .jsonl, .ndjson or .json, else text. It may be packed.
        name: of the evaluation set, for messages.
        fields: of a row. A field is a string or a list of strings; others are passed over.

    Raises:
        UserError: the file is missing, a line cannot be read, or a row has none of the fields.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, for the evaluation set {name}; correct "
            "decontamination.evaluation_sets"
        )
    plain = path.with_suffix("") if path.suffix in OPENERS else path
    if plain.suffix not in JSON_LINES:
        texts = (part for text in file_texts(path) for part in PARAGRAPH_END.split(text))
        return [text for text in texts if text.strip()]
    lines = b"".join(unpacked_blocks(path)).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [_item(line, f"{path}, line {number}", fields)
            for number, line in enumerate(lines, 1) if line.strip()]  # fmt: skip


def _item(line: bytes, place: str, fields: Sequence[str]) -> str:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place}: expected a JSON object in UTF-8 ({error}); mend the file"
        ) from None
    if not isinstance(row, dict) or not any(field in row for field in fields):
        found = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise UserError(
            f"{place}: expected one of the fields {', '.join(fields)}, found "
            f"{found[:200] or 'none'}; set decontamination.fields"
        )
    values = [row[field] for field in fields if field in row]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return " ".join(part for part in parts if isinstance(part, str))
