"""Reading and writing pages in WARC files (ISO 28500), the format of web crawls.

`write_warc` writes the same bytes for the same pages. `read_warc` reads real crawls, and
`read_answers` also reports the pages that it could not read. Both also read ARC files, the format
before WARC, and WET files: text that was extracted before, in records of the type `conversion`.

What this leaves out: revisit records (they have no body), request and metadata records (WAT files),
resource records, and responses with a status other than 200.
"""

import base64
import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipeline.compressed.file_members import DAMAGED
from data_pipeline.sources.http_responses import (
    TOO_LARGE,
    UnreadableAnswer,
    parse_answer,
    split_content_type,
    type_without_header,
    unpacked_body,
)
from data_pipeline.sources.warc_records import ODD_RECORD, Record, read_records
from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

HTTP_MESSAGE = "application/http"  # dns: records are responses too
IDENTIFIED_TYPE = "warc-identified-payload-type"
CONVERSION = "conversion"
PAGE_TYPES = {"response": HTTP_MESSAGE, CONVERSION: "text/plain"}  # of the records that are pages
KINDS_NAMED = 5
MAX_BODY_BYTES = 64_000_000
MAX_HTTP_HEADER_BYTES = 1_000_000
DIGESTS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "md5": hashlib.md5}
FIXED_DATE = (
    "2000-01-01T00:00:00Z"  # WARC requires a date; a real one would change the file in every run
)


@dataclass(frozen=True)
class Page:
    """A server's response: `payload` is the body as sent, `charset` the one in the HTTP header (""
    if none). Or the text of a WET file, in UTF-8.
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
    """A response with status 200 that could not be read, a malformed record, or damage to the file.

    `reason` is one of a few fixed phrases to count by; `detail` names the record.
    """

    url: str
    reason: str
    detail: str
    stored_bytes: int


def _read_answer(record: Record, max_bytes: int) -> Page | LostPage | None:
    """Return the page in a record, None if the record is neither a response with status 200 nor
    extracted text.
    """
    headers = record.headers
    url = headers.get("warc-target-uri", "").strip("<> ")
    kind = _kind(record)

    def lost(reason: str, detail: str) -> LostPage:
        return LostPage(url, reason, f"record {record.number} {detail}", record.length)

    if record.odd:
        is_page = record.reason != ODD_RECORD or kind in ("", *PAGE_TYPES)
        return lost(record.reason, record.odd) if is_page else None
    if not kind:
        return lost(ODD_RECORD, "has no WARC-Type")
    media_type, _ = split_content_type(headers.get("content-type", PAGE_TYPES.get(kind, "")))
    if media_type != PAGE_TYPES.get(kind):
        return None
    if not url:
        return lost(ODD_RECORD, "has no WARC-Target-URI")
    if record.length > len(record.block):
        return lost(TOO_LARGE, f"has {record.length:,} bytes")
    if not has_right_digest(record.block, headers.get("warc-block-digest", "")):
        return lost(DAMAGED, f"({url}): its bytes do not have its WARC-Block-Digest")
    if kind == CONVERSION:
        if record.length > max_bytes:
            return lost(TOO_LARGE, f"({url}): more than {max_bytes:,} bytes")
        return Page(url, media_type, record.block, "utf-8")
    try:
        answer = parse_answer(record.block)
        if answer.status != 200:
            return None
        body = unpacked_body(answer, max_bytes)
    except UnreadableAnswer as error:
        return lost(error.reason, f"({url}): {error.detail}")
    media_type, charset = split_content_type(answer.headers.get("content-type", ""))
    media_type = media_type or type_without_header(body, headers.get(IDENTIFIED_TYPE, ""))
    return Page(url, media_type, body, charset)


def has_right_digest(block: bytes, digest: str) -> bool:
    """Return whether a block has its digest, such as "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ".

    It is written in base32 or in hexadecimal digits. A digest by an unknown algorithm, or of
    another length than its own, is not checked.
    """
    name, _, given = digest.strip().partition(":")
    algorithm = DIGESTS.get(name.lower().replace("-", ""))
    if algorithm is None:
        return True
    found = algorithm(block, usedforsecurity=False).digest()
    written = {base64.b32encode(found).decode().rstrip("="), found.hex().upper()}
    given = given.upper().rstrip("=")
    return given in written or len(given) not in map(len, written)


def _kind(record: Record) -> str:
    return record.headers.get("warc-type", "").lower()


def read_answers(path: Path, max_bytes: int = MAX_BODY_BYTES) -> Iterator[Page | LostPage]:
    """Yield every response record with status 200, and every text of a WET file, in the order of
    the file, one in memory at a time.

    A LostPage stands for a record that could not be read: a body of more than `max_bytes`, damaged,
    or packed in an unknown way, a malformed record, or the place where the file is damaged or cut
    off. All other records are kept.

    Raises UserError, one line that names the file, when it is missing, empty, not a WARC or ARC
    file, or has no page, as is known at its end.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such WARC file; run `lm data collect`, or check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the WARC file is empty; run `lm data collect`, or fetch it again")
    found_one = False
    kinds: Counter[str] = Counter()
    for record in read_records(path, max_bytes + MAX_HTTP_HEADER_BYTES):
        kinds[_kind(record)[:20]] += 1
        answer = _read_answer(record, max_bytes)
        if answer is not None:
            found_one = True
            yield answer
    if not found_one:
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(KINDS_NAMED))
        raise UserError(
            f"{path}: none of its {kinds.total()} records ({listed}) is a page (a response with "
            "status 200, or the text of a WET file); expected a WARC file of a crawl, not a WAT "
            "or index file"
        )


def read_warc(paths: Iterable[Path]) -> Iterator[Page]:
    """Yield the pages of `read_answers`, without those that could not be read."""
    for path in paths:
        yield from (page for page in read_answers(Path(path)) if isinstance(page, Page))
