"""Reading and writing pages in WARC files (ISO 28500), the format of web crawls.

`write_warc` writes the same bytes for the same pages. `read_warc` reads real crawls, and
`read_answers` also reports the pages that it could not read.

What this leaves out: revisit records (they have no body), request and metadata records, responses
with a status other than 200, and WET files (text that was extracted before).
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipeline.sources.http_responses import (
    TOO_LARGE,
    UnreadableAnswer,
    parse_answer,
    split_content_type,
    unpacked_body,
)
from data_pipeline.sources.warc_records import Record, read_records
from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

HTTP_MESSAGE = "application/http"  # dns: records are responses too
ODD_RECORD = "odd WARC record"
MAX_BODY_BYTES = 64_000_000
MAX_HTTP_HEADER_BYTES = 1_000_000
FIXED_DATE = (
    "2000-01-01T00:00:00Z"  # WARC requires a date; a real one would change the file in every run
)


@dataclass(frozen=True)
class Page:
    """A server's response: `payload` is the body as sent, `charset` the one in the HTTP header (""
    if none).
    """

    url: str
    content_type: str
    payload: bytes
    charset: str


def write_warc(path: Path, pages: Iterable[Page]) -> int:
    """Write pages as response records into a gzipped WARC, and return their number.

    The same pages give the same bytes.
    """
    count = 0
    with atomic_file(path) as file:
        writer = WARCWriter(file, gzip=True)
        for page in pages:
            content_type = page.content_type + (f"; charset={page.charset}" if page.charset else "")
            http_headers = [
                ("Content-Type", content_type),
                ("Content-Length", str(len(page.payload))),
            ]
            record = writer.create_warc_record(
                page.url,
                "response",
                payload=BytesIO(page.payload),
                length=len(page.payload),
                http_headers=StatusAndHeaders("200 OK", http_headers, protocol="HTTP/1.1"),
                warc_headers_dict={
                    "WARC-Date": FIXED_DATE,
                    "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, page.url)}>",
                },
            )
            writer.write_record(record)
            count += 1
    return count


@dataclass(frozen=True)
class LostPage:
    """A response with status 200 that could not be read, or a malformed record.

    `reason` is one of a few fixed phrases to count by; `detail` names the record.
    """

    url: str
    reason: str
    detail: str
    stored_bytes: int


def _read_answer(record: Record, max_bytes: int) -> Page | LostPage | None:
    """Return the page in a record, None if the record is not a response with status 200."""
    headers = record.headers
    url = headers.get("warc-target-uri", "").strip("<> ")
    kind = headers.get("warc-type", "").lower()

    def lost(reason: str, detail: str) -> LostPage:
        return LostPage(url, reason, f"record {record.number} {detail}", record.length)

    if record.odd:
        return lost(ODD_RECORD, record.odd) if kind in ("", "response") else None
    if not kind:
        return lost(ODD_RECORD, "has no WARC-Type")
    is_http = headers.get("content-type", HTTP_MESSAGE).lower().startswith(HTTP_MESSAGE)
    if kind != "response" or not is_http:
        return None
    if not url:
        return lost(ODD_RECORD, "has no WARC-Target-URI")
    if record.length > len(record.block):
        return lost(TOO_LARGE, f"has {record.length:,} bytes")
    try:
        answer = parse_answer(record.block)
        if answer.status != 200:
            return None
        body = unpacked_body(answer, max_bytes)
    except UnreadableAnswer as error:
        return lost(error.reason, f"({url}): {error.detail}")
    media_type, charset = split_content_type(answer.headers.get("content-type", ""))
    return Page(url, media_type, body, charset)


def read_answers(path: Path, max_bytes: int = MAX_BODY_BYTES) -> Iterator[Page | LostPage]:
    """Yield every response record with status 200 in file order, one in memory at a time.

    A LostPage stands for a record that could not be read: a body of more than `max_bytes`, damaged,
    or packed in an unknown way, or a malformed record.

    Raises UserError, one line that names the file, when it is missing, empty, cut off, damaged, not
    a WARC file, or has no response with status 200. A caller that must not keep the first half of a
    broken file has to write its output atomically, as lm_core.formats.documents does.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such WARC file; run `lm data collect`, or check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the WARC file is empty; run `lm data collect`, or fetch it again")
    num_records = num_found = 0
    for record in read_records(path, max_bytes + MAX_HTTP_HEADER_BYTES):
        num_records = record.number
        answer = _read_answer(record, max_bytes)
        if answer is not None:
            num_found += 1
            yield answer
    if num_found == 0:
        raise UserError(
            f"{path}: none of its {num_records} records is a page (a response with status 200); "
            "expected a WARC file of a crawl, not a WAT, WET or index file"
        )


def read_warc(paths: Iterable[Path]) -> Iterator[Page]:
    """Yield the pages of `read_answers`, without those that could not be read."""
    for path in paths:
        yield from (page for page in read_answers(Path(path)) if isinstance(page, Page))
