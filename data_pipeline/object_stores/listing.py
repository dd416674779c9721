"""The list of the files of a store, as it was when they were looked for.

It takes the place of the pages in a run: a WARC file with one record of metadata for each file
(url, name, size, version, as JSON). A file that changes later is noticed when it is read.
"""

import json
import uuid
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from warcio.warcwriter import WARCWriter

from data_pipeline.object_stores.store_files import StoreFile
from data_pipeline.sources.warc_files import FIXED_DATE
from data_pipeline.sources.warc_records import read_records
from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError

MAX_RECORD_BYTES = 100_000


def write_listing(path: Path, files: Iterable[StoreFile]) -> None:
    """Write the list to a WARC file. The same files give the same bytes."""
    with atomic_file(path) as out:
        writer = WARCWriter(out, gzip=True)
        for file in files:
            block = json.dumps(file._asdict()).encode()
            record = writer.create_warc_record(
                quote(file.url, safe=":/?#[]@!$&'()*+,;=%"),
                "metadata",
                payload=BytesIO(block),
                length=len(block),
                warc_content_type="application/json",
                warc_headers_dict={
                    "WARC-Date": FIXED_DATE,
                    "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, file.url)}>",
                },
            )
            writer.write_record(record)


def read_listing(path: Path) -> list[StoreFile]:
    """Return the files of a list. Raises UserError if it is missing or damaged."""
    try:
        blocks = [record.block for record in read_records(path, MAX_RECORD_BYTES)]
        return [StoreFile(**json.loads(block)) for block in blocks]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a list of files ({error}); make it with `lm data collect --force`"
        ) from None
