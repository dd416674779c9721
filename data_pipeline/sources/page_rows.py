"""Rows of JSON lines and parquet files -> pages.

Such files hold text that somebody else extracted (FineWeb, C4, Dolma), or HTML. A row becomes a
page whose payload is its text in UTF-8, so that every filter sees it like the text of a crawl. One
bad row costs that row, and one bad row group of a parquet file costs that row group.

What this leaves out: JSON files that are one array, keys inside other objects, and damage that
changes a value without making it unreadable (parquet files seldom have checksums of their pages).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_pipeline.sources.http_responses import TOO_LARGE
from data_pipeline.sources.plain_text import unpacked_blocks
from data_pipeline.sources.warc_files import LostPage, Page
from lm_core.settings import Settings
from lm_core.user_error import UserError

NOT_JSON, NOT_UTF8, NO_TEXT, DAMAGED_ROWS = (
    "line is not a JSON object",
    "row is not UTF-8",
    "row has no text",
    "damaged rows",
)
ROWS_TO_JUDGE = 100  # a file whose first lines, that many, have no text is refused
BATCH_ROWS = 64
KEYS_SHOWN, KEY_CHARACTERS = 20, 40
PARQUET_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class RowKeys(Settings):
    """The keys of JSON lines, or columns of parquet files, that are read.

    Attributes:
        text_keys: text that was extracted before. The first that a row has is used, and no other.
        html_keys: HTML, for rows without any of text_keys.
        url_keys: what names the page; without any, the file and the number of the row do.
    """

    text_keys: list[str] = Field(default=["text", "content"])
    html_keys: list[str] = Field(default=["html"])
    url_keys: list[str] = Field(default=["url", "source", "id"])

    @property
    def of_texts(self) -> list[str]:
        """The keys of what becomes a page, in the order in which they are looked for."""
        return self.text_keys + self.html_keys

    def refusal(self, path: Path, found: Sequence[str]) -> UserError:
        """Return the error for a file without any of the keys of a text."""
        return UserError(
            f"{path}: no text there: expected a key or column named "
            f"{' or '.join(self.of_texts)}, found {_listed(found)}; set "
            "pages.text_keys or pages.html_keys, as in --set 'pages.text_keys=[\"NAME\"]'"
        )


def _listed(keys: Sequence[str]) -> str:
    """Return names that a file gives, in one line."""
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    shown = (" ".join(_utf8(key).decode().split())[:KEY_CHARACTERS] for key in keys[:KEYS_SHOWN])
    return (", ".join(shown) + more) or "none"


def _utf8(text: str) -> bytes:
    """Return the text in UTF-8, which cannot write half of a pair of surrogates, as JSON can."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return LONE_SURROGATE.sub("\ufffd", text).encode("utf-8")


def json_line_pages(
    path: Path, name: str, max_bytes: int, keys: RowKeys
) -> Iterator[Page | LostPage]:
    """Yield the pages of a file with one JSON object in each line; empty lines are passed over.

    Args:
        path: the file; it may be packed.
        name: what pages without a URL are named after.
        max_bytes: a longer line is lost, and it is never whole in memory.
        keys: see RowKeys.

    Raises:
        UserError: the file cannot be read to its end, or its rows have no text.
    """
    waiting: list[LostPage] | None = []  # until the first text; None after it
    found: dict[str, None] = {}  # the keys of these lines
    for number, (line, size) in enumerate(_lines(path, max_bytes), start=1):
        row = _row_of_line(line, size, f"{name}:{number}", f"line {number}")
        page = _page_of_row(row, size, name, number, keys) if isinstance(row, dict) else row
        if page is None:
            continue
        if waiting is None:
            yield page
        elif isinstance(page, Page):
            yield from waiting
            waiting = None
            yield page
        else:
            waiting.append(page)
            found |= dict.fromkeys(row if isinstance(row, dict) else ())
            if len(waiting) == ROWS_TO_JUDGE:
                break
    if waiting and found:
        raise keys.refusal(path, list(found))
    if waiting:
        raise UserError(
            f"{path}: not JSON lines: no object in the first {len(waiting)} ({waiting[0].detail}); "
            "expected a JSON object in each line"
        )


def _lines(path: Path, max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Yield every line and its number of bytes; None for a line of more than `max_bytes`."""
    held: list[bytes] = []
    size = 0
    for block in unpacked_blocks(path):
        *ended, rest = block.split(b"\n")
        for piece in ended:
            size += len(piece)
            yield (b"".join([*held, piece]) if size <= max_bytes else None), size
            held, size = [], 0
        size += len(rest)
        held.append(rest)
        if size > max_bytes:
            held = []
    if size:
        yield (b"".join(held) if size <= max_bytes else None), size


def _row_of_line(
    line: bytes | None, size: int, url: str, place: str
) -> dict[str, Any] | LostPage | None:
    """Return the object in a line, None for an empty line."""
    if line is None:
        return LostPage(url, TOO_LARGE, f"{place} has {size:,} bytes", size)
    line = line.removeprefix(b"\xef\xbb\xbf")
    if not line.strip():
        return None
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return LostPage(url, NOT_UTF8, f"{place}, byte {error.start + 1}", size)
    except (ValueError, RecursionError) as error:
        return LostPage(url, NOT_JSON, f"{place}: {error}", size)
    if not isinstance(row, dict):
        return LostPage(url, NOT_JSON, f"{place} is a {type(row).__name__}", size)
    return row


def _page_of_row(
    row: dict[str, Any], size: int, name: str, number: int, keys: RowKeys
) -> Page | LostPage:
    url = _url((row.get(key) for key in keys.url_keys), f"{name}:{number}")
    for key in keys.of_texts:
        if isinstance(text := row.get(key), str):
            kind = "text/plain" if key in keys.text_keys else "text/html"
            return Page(url, kind, _utf8(text), "utf-8")
    return LostPage(url, NO_TEXT, f"line {number} has the keys {_listed(list(row))}", size)


def _url(values: Iterable[Any], otherwise: str) -> str:
    """Return the first value that is a text or a number."""
    for value in values:
        if isinstance(value, str | int) and value != "":
            return _utf8(str(value)).decode()
    return otherwise


def parquet_pages(
    path: Path, name: str, max_bytes: int, keys: RowKeys
) -> Iterator[Page | LostPage]:
    """Yield the pages of a parquet file, with one batch of rows in memory at a time.

    Args:
        path: the file.
        name: what pages without a URL are named after.
        max_bytes: a longer text is lost.
        keys: see RowKeys. The text's column holds strings or bytes.

    Raises:
        UserError: the file's footer cannot be read, or it has no column of text.
    """
    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)
    except PARQUET_ERRORS as error:
        raise UserError(
            f"{path}: cannot be read as parquet ({_first_line(error)}); fetch the file again"
        ) from None
    with file:
        texts, urls = _chosen_columns(path, file.schema_arrow, keys)
        wanted = [*(column.name for column in texts), *urls]
        start = 1  # the first row of the row group
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            row = start
            try:
                for batch in file.iter_batches(BATCH_ROWS, [group], wanted):
                    for given, url in zip(_texts(batch, texts), _urls(batch, urls), strict=True):
                        yield _page_of_cell(given, url or f"{name}:{row}", f"row {row}", max_bytes)
                        row += 1
            except PARQUET_ERRORS as error:
                detail = f"rows {row:,} to {end - 1:,} (row group {group + 1}): "
                size = file.metadata.row_group(group).total_byte_size
                yield LostPage(name, DAMAGED_ROWS, detail + _first_line(error), size)
            start = end


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


class _TextColumn(NamedTuple):
    name: str
    is_html: bool
    is_string: bool  # and not bytes


Cell = tuple[_TextColumn, pa.Scalar, int]  # a text: its column, value and number of bytes


def _chosen_columns(
    path: Path, schema: pa.Schema, keys: RowKeys
) -> tuple[list[_TextColumn], list[str]]:
    """Return the columns of texts and of URLs, in the order in which they are looked for."""
    fields = dict(zip(schema.names, schema, strict=True))
    kinds = {name: _value_type(field.type) for name, field in fields.items()}
    texts = [
        _TextColumn(key, key not in keys.text_keys, _is_one_of(STRINGS, kinds[key]))
        for key in keys.of_texts
        if key in kinds and _is_one_of((*STRINGS, *BYTES), kinds[key])
    ]
    if not texts:
        raise keys.refusal(path, [f"{name} ({field.type})" for name, field in fields.items()])
    taken = [column.name for column in texts]
    return texts, [key for key in keys.url_keys if key in kinds and key not in taken]


def _is_one_of(tests: Iterable[Callable[[pa.DataType], bool]], kind: pa.DataType) -> bool:
    return any(test(kind) for test in tests)


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _texts(batch: pa.RecordBatch, columns: Sequence[_TextColumn]) -> Iterator[Cell | None]:
    """Yield the text of each row: of the first column that has one there."""
    found = []
    for column in columns:
        values = _column(batch, column.name).cast(pa.large_binary())
        found.append((column, values, pc.binary_length(values).to_pylist()))
    for row in range(len(batch)):
        given = ((column, values[row], sizes[row]) for column, values, sizes in found)
        yield next((cell for cell in given if cell[2] is not None), None)


def _urls(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[str]:
    """Yield the URL of each row, "" for none. A byte that is not UTF-8 is replaced."""
    values = []
    for name in columns:
        column = _column(batch, name)
        if _is_one_of(STRINGS, _value_type(column.type)):
            texts = column.cast(pa.large_binary()).to_pylist()
            values.append([text and text.decode("utf-8", "replace") for text in texts])
        else:
            values.append(column.to_pylist())
    for row in range(len(batch)):
        yield _url((of_column[row] for of_column in values), "")


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.names.index(name))


def _page_of_cell(cell: Cell | None, url: str, place: str, max_bytes: int) -> Page | LostPage:
    if cell is None:
        return LostPage(url, NO_TEXT, f"{place} is null", 0)
    column, value, size = cell
    if size > max_bytes:
        return LostPage(url, TOO_LARGE, f"{place} has {size:,} bytes", size)
    payload = value.as_py()
    if column.is_html:  # of bytes, the extraction finds the charset
        return Page(url, "text/html", payload, "utf-8" if column.is_string else "")
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError as error:
        return LostPage(url, NOT_UTF8, f"{place}, byte {error.start + 1}", size)
    return Page(url, "text/plain", payload, "utf-8")
