"""Pages in and out of WARC files (ISO 28500), the format in which web crawls are stored.

`write_warc` writes the same bytes for the same pages; `read_warc` is the door for real crawls. Left
out: revisit records (they hold no body), request and metadata records, answers other than 200, and
WET files (text that somebody else extracted).
"""

import os
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord
from warcio.statusandheaders import (
    StatusAndHeaders,
    StatusAndHeadersParser,
    StatusAndHeadersParserException,
)
from warcio.warcwriter import WARCWriter

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

CHARSET_PARAMETER = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
# the last two are what warcio raises for a record whose header is cut off
UNREADABLE = (ArchiveLoadFailed, StatusAndHeadersParserException, AttributeError, EOFError)
HTTP_MESSAGE = "application/http"  # dns: records are responses too
FIXED_DATE = (
    "2000-01-01T00:00:00Z"  # WARC demands a date; a real one would change the file at every run
)


@dataclass(frozen=True)
class Page:
    """One answer of a server: `payload` is the body as sent, `charset` what the HTTP header says
    ("" if nothing).
    """

    url: str
    content_type: str
    payload: bytes
    charset: str


def write_warc(path: Path, pages: Iterable[Page]) -> int:
    """Write pages as response records into a gzipped WARC; the same pages give the same bytes.
    Returns their number.
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


def _check_whole_gzip(path: Path) -> None:
    """Raise ValueError if the last gzip member is cut off: warcio would end quietly with what there
    is.
    """
    members_done = 0
    decompressor = zlib.decompressobj(wbits=31)  # 31: a gzip header is expected
    started = False
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            while block:
                started = True
                try:
                    decompressor.decompress(block)
                except zlib.error as error:
                    raise _broken(path, members_done + 1, f"is damaged ({error})") from None
                block = decompressor.unused_data
                if decompressor.eof:
                    members_done += 1
                    decompressor, started = zlib.decompressobj(wbits=31), False
    if started:
        raise _broken(path, members_done + 1, "is cut off")


def _check_whole_plain(path: Path) -> None:
    """The same for a file without compression: every record's header and block must be there."""
    size = path.stat().st_size
    num_records = 0
    with path.open("rb") as file:
        while line := file.readline():
            if not line.strip():  # two blank lines end a record
                continue
            num_records += 1
            if not line.startswith(b"WARC/"):
                raise _broken(path, num_records, "is no WARC record")
            length = None
            while line.strip():
                line = file.readline()
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length" and value.strip().isdigit():
                    length = int(value)
            if not line or length is None or file.tell() + length > size:
                raise _broken(path, num_records, "is cut off")
            file.seek(length, os.SEEK_CUR)


def _broken(path: Path, record_number: int, what: str) -> UserError:
    return UserError(
        f"{path}: record {record_number} {what}; fetch the file again, or keep "
        f"its whole records with `warcio recompress {path} whole.warc.gz`"
    )


def _page_of_record(record: ArcWarcRecord) -> Page | None:
    """The page in a record, None if the record is no answer with status 200."""
    if record.rec_type != "response" or not (record.content_type or "").startswith(HTTP_MESSAGE):
        return None
    if record.http_headers is None:  # warcio parses those of http: addresses only, ours are pydoc:
        parser = StatusAndHeadersParser(["HTTP/1.0", "HTTP/1.1"])
        record.http_headers = parser.parse(record.raw_stream)
    if record.http_headers.get_statuscode() != "200":
        return None
    header = record.http_headers.get_header("Content-Type") or ""
    content_type, _, parameters = header.partition(";")
    found = CHARSET_PARAMETER.search(parameters)
    return Page(
        url=record.rec_headers.get_header("WARC-Target-URI") or "",
        content_type=content_type.strip().lower(),
        payload=record.content_stream().read(),  # chunks and content encodings undone
        charset=found.group(1) if found else "",
    )


def _read_one(path: Path) -> Iterator[Page]:
    if not path.is_file():
        raise UserError(f"{path}: no such WARC file; run `lm data collect`, or check the path")
    with path.open("rb") as file:
        magic = file.read(2)
    if not magic:
        raise UserError(f"{path}: the WARC file is empty; run `lm data collect`, or fetch it again")
    if magic == b"\x1f\x8b":
        _check_whole_gzip(path)
    else:
        _check_whole_plain(path)
    num_records = num_pages = 0
    with path.open("rb") as file:
        try:
            for record in ArchiveIterator(file):
                num_records += 1
                page = _page_of_record(record)
                while record.raw_stream.read(1 << 20):
                    pass
                if getattr(record.raw_stream, "limit", 0) > 0:  # bytes that the header promised
                    raise _broken(path, num_records, "is cut off")
                if page is not None:
                    num_pages += 1
                    yield page
        except UNREADABLE as error:
            reason = " ".join(str(error).split())[:100]
            raise _broken(path, num_records + 1, f"is no WARC record ({reason})") from None
    if num_pages == 0:
        raise UserError(
            f"{path}: none of its {num_records} records is a page (a response with status 200); "
            "expected a WARC file of a crawl, not a WAT, WET or index file"
        )


def read_warc(paths: Iterable[Path]) -> Iterator[Page]:
    """Every response record with status 200, in file order, one in memory at a time.

    Raises ValueError, one line that names the file, when it is missing, empty, cut off, damaged, or
    holds no page. A caller that must not keep half of a broken file writes what it makes
    atomically, as lm_core.documents does.
    """
    for path in paths:
        yield from _read_one(Path(path))
