"""Download a file over HTTP: resumed, retried and checked.

The bytes go to NAME.part beside the file, and the file gets its name only when it is complete and
has the expected checksum. A download that broke off continues with a Range request from the end of
NAME.part. If-Range, with the ETag or date that NAME.part.json remembers, makes a server whose file
has changed send all of it again. If the parts together have another checksum, the file is
downloaded once more, from its first byte. If no checksum is known, an answer is refused that has no
length, is empty, or is a web page.

What this leaves out: several connections for one file, servers that ask for a key, and servers that
send a few bytes a minute.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import requests
from requests.exceptions import (
    InvalidSchema,
    InvalidURL,
    MissingSchema,
    RequestException,
    Timeout,
    TooManyRedirects,
)

from lm_core.artifact_paths import file_sha256, write_json
from lm_core.progress import progress_bar
from lm_core.user_error import UserError

BLOCK_BYTES = 1 << 13  # a block that breaks off is lost
MEGABYTE = 1_000_000
WORTH_A_RETRY = (408, 425, 429, 500, 502, 503, 504)  # statuses
WEB_PAGES = ("text/html", "application/xhtml+xml")
NOT_WORTH_A_RETRY = (InvalidSchema, InvalidURL, MissingSchema, TooManyRedirects)


class Wanted(NamedTuple):
    """The file that is expected.

    Attributes:
        sha256: of its bytes, as 64 hex digits; None if not known.
        size: in bytes; None if not known.
        recorded_in: the file that holds the checksum, if it is only that of an earlier download.
    """

    sha256: str | None = None
    size: int | None = None
    recorded_in: Path | None = None


class Patience(NamedTuple):
    """How long to try.

    Attributes:
        timeout: seconds without a connection, or without a byte, after which an attempt ends.
        attempts: number of attempts in a row that bring nothing new, for each URL.
        first_wait: seconds before the second attempt; twice as many before each further one.
        longest_wait: in seconds, also if the server asks for more with Retry-After.
    """

    timeout: float = 30.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0


NOTHING_KNOWN = Wanted()
PATIENCE = Patience()


class _FailedAttempt(Exception):
    """An attempt that did not bring the whole file."""

    def __init__(self, reason: str, again: bool = True, wait: float = 0.0) -> None:
        """Say why, whether another attempt may succeed, and after how many seconds at least."""
        super().__init__(reason)
        self.again = again
        self.wait = wait


class _WrongParts(_FailedAttempt):
    """A complete file with the wrong hash that came in parts, of which each may be the wrong one: a
    part of another URL's file, or one that a crash has damaged.
    """


def say_on_stderr(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


def download(
    urls: Sequence[str],
    path: Path,
    wanted: Wanted = NOTHING_KNOWN,
    patience: Patience = PATIENCE,
    say: Callable[[str], None] = say_on_stderr,
) -> str:
    """Download a file from the first URL that has it.

    Args:
        urls: tried in order.
        path: the file to write.
        wanted: what is known of the file.
        patience: how long to try.
        say: called with a line before each wait.

    Returns:
        The SHA-256 of the file, as 64 hex digits.

    Raises:
        UserError: no URL has the file; `path` does not exist then. What has been downloaded is kept
            if it can be continued.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(path, wanted)
    reasons = []
    for url in urls:
        try:
            return _from_one_url(url, part, patience, say)
        except _FailedAttempt as failure:
            reasons.append(f"{url}: {failure}")
    kept = f"; {part.size:,} bytes are kept, and the same command continues" if part.size else ""
    raise UserError(f"{path.name} could not be downloaded: {'; '.join(reasons)}{kept}")


def _from_one_url(url: str, part: "_Part", patience: Patience, say: Callable[[str], None]) -> str:
    """Try one URL until it gives the file, and return its hash; _FailedAttempt says why not."""
    in_vain, most, started_again = 0, part.size, False
    while True:
        try:
            if part.size == 0 or part.size != part.wanted.size:
                _one_request(url, part, patience.timeout)
            return part.finish()
        except _WrongParts as failure:
            if started_again:
                raise
            in_vain, most, started_again = 0, 0, True
            reason = f"{failure}; it came in parts; starting again from its first byte"
            say(f"{part.path.name}: {reason}")
        except _FailedAttempt as failure:
            in_vain = 0 if part.size > most else in_vain + 1
            most = max(most, part.size)
            if not failure.again:
                raise
            if in_vain >= patience.attempts:
                raise _FailedAttempt(f"{failure}, after {in_vain} attempts") from None
            doubled = patience.first_wait * 2 ** max(0, in_vain - 1)
            wait = min(max(doubled, failure.wait), patience.longest_wait)
            say(f"{part.path.name}: {failure}; trying again in {wait:.0f} s")
            time.sleep(wait)


def _one_request(url: str, part: "_Part", timeout: float) -> None:
    """Send a request, and add what it brings to the part."""
    # A packed answer could not be continued at a byte of the file.
    headers = {"Accept-Encoding": "identity", **part.range_headers(url)}
    start = part.size if "Range" in headers else 0
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=timeout)
        with closing(answer):
            _receive(answer, url, part, start)
    except NOT_WORTH_A_RETRY as error:
        raise _FailedAttempt(_in_one_line(error), again=False) from None
    except Timeout:
        raise _FailedAttempt(f"no answer for {timeout:g} s") from None
    except RequestException as error:
        timed_out = "timed out" in str(error)
        reason = f"no byte for {timeout:g} s" if timed_out else _in_one_line(error)
        raise _FailedAttempt(f"no connection, or a broken one: {reason}") from None


def _receive(answer: requests.Response, url: str, part: "_Part", start: int) -> None:
    """Add the body of an answer to the part, or replace the part if it is the whole file."""
    status = f"status {answer.status_code} {answer.reason}".rstrip()
    if answer.status_code in WORTH_A_RETRY:
        raise _FailedAttempt(status, wait=_seconds(answer.headers.get("Retry-After", "")))
    begins, total = _place_of(answer)
    out_of_range = answer.status_code == 416 and start > 0
    if out_of_range and total == start:  # the part is complete
        return
    if out_of_range or (answer.status_code == 206 and begins != start):
        part.remove()
        raise _FailedAttempt(f"{status}, but not for the bytes from {start:,}")
    if answer.status_code not in (200, 206):
        raise _FailedAttempt(status, again=False)
    packed = answer.headers.get("Content-Encoding", "identity")
    if packed != "identity":
        raise _FailedAttempt(f"the server packs the file ({packed}), unasked", again=False)
    wanted = part.wanted.size
    if wanted is not None and total not in (None, wanted):
        reason = f"expected {wanted:,} bytes, the server has {total:,}"
        raise _FailedAttempt(reason, again=False)
    expected = total if wanted is None else wanted
    if part.wanted.sha256 is None:
        _refuse_what_may_be_another_file(answer, expected)
    part.append(answer, url, begins, expected)


def _refuse_what_may_be_another_file(answer: requests.Response, size: int | None) -> None:
    """Raise _FailedAttempt for an answer that only a checksum could tell from the file; `size` is
    that of the whole file, None if not known.
    """
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    reason = ""
    if kind in WEB_PAGES:
        reason = f"the server sends a web page ({kind})"
    elif size is None:
        reason = "the server does not say how long the file is"
    elif size == 0:
        reason = "the server sends an empty file"
    if reason:
        raise _FailedAttempt(f"{reason}, and no checksum is known", again=False)


class _Part:
    """The part of a file that has been downloaded; `resumed` is True if it did not come in one
    answer.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path = path
        self.wanted = wanted
        self.file = path.with_name(f"{path.name}.part")
        self.origin = path.with_name(f"{path.name}.part.json")
        self.resumed = self.size > 0

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return self.file.stat().st_size if self.file.exists() else 0

    def range_headers(self, url: str) -> dict[str, str]:
        """Return the headers that ask for the rest; none if it might belong to another file."""
        if self.size == 0:
            return {}
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
            validator = origin["validator"] if origin["url"] == url else ""
        except (OSError, ValueError, KeyError, TypeError):
            validator = ""
        if not validator and self.wanted.sha256 is None:
            return {}
        asked = {"Range": f"bytes={self.size}-"}
        return asked | ({"If-Range": validator} if validator else {})

    def append(self, answer: requests.Response, url: str, start: int, total: int | None) -> None:
        """Write the body of an answer from the byte `start` on; `total` is the expected size."""
        etag = answer.headers.get("ETag", "")
        strong = "" if etag.startswith("W/") else etag  # If-Range takes no weak ones
        validator = strong or answer.headers.get("Last-Modified", "")
        write_json(self.origin, {"url": url, "validator": validator})
        self.resumed = start > 0
        megabytes = None if total is None else -(-(total - start) // MEGABYTE)
        with (
            self.file.open("ab" if start else "wb") as file,
            progress_bar(f"get {self.path.name}", megabytes, "MB") as bar,
        ):
            done = start
            for block in answer.iter_content(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                bar.advance((done - start) // MEGABYTE - bar.done)
                if total is not None and done > total:
                    break
        if total is not None and done > total:
            self.remove()
            raise _FailedAttempt(f"the server sends more than {total:,} bytes", again=False)
        if total is not None and done < total:
            raise _FailedAttempt(f"the connection ended after {done:,} of {total:,} bytes")

    def finish(self) -> str:
        """Give the complete part its name, and return its hash."""
        found = file_sha256(self.file)
        if self.wanted.sha256 not in (None, found):
            self.remove()
            reason = (
                f"expected SHA-256 {self.wanted.sha256}, found {found}: a damaged or another file, "
                "which was not kept"
            )
            if self.wanted.recorded_in is not None:
                reason += f"; {hash_of_first_download(self.wanted.recorded_in)}"
            raise (_WrongParts if self.resumed else _FailedAttempt)(reason, again=False)
        self.file.replace(self.path)
        self.origin.unlink(missing_ok=True)
        return found

    def remove(self) -> None:
        """Forget what has been downloaded."""
        self.file.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)


def hash_of_first_download(sums: Path) -> str:
    """Return where an expected hash comes from, and what to do if it is the wrong one."""
    return f"{sums} has the expected hash, of the first download: delete it to accept another file"


def _place_of(answer: requests.Response) -> tuple[int, int | None]:
    """Return the first byte that an answer holds, and the size of the whole file; None if not
    said.
    """
    found = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", answer.headers.get("Content-Range", "")
    )
    if answer.status_code in (206, 416):
        if found is None:
            return -1, None
        return int(found[1] or 0), None if found[2] is None else int(found[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header; 0 for a date, or if there is none."""
    return float(retry_after) if retry_after.isdecimal() else 0.0


def _in_one_line(error: Exception) -> str:
    """Return the message of an error of requests, without the object that it names first."""
    cause = getattr(error.args[0] if error.args else None, "reason", None) or error
    words = " ".join(str(cause).split())
    return (words.partition("): ")[2] or words)[:200]
