"""Files and folders of any kind -> pages: crawls (WARC, WET, ARC), HTML, parquet, JSON lines, text.

The ending of a file's name says which kind it is. Where it says nothing, the first bytes decide:
crawls, parquet, HTML and JSON lines are recognized; a file that was named itself, and not only its
folder, is read as text if it has no byte that never occurs in text. A file that cannot be read is
lost, and the others are kept.

What this leaves out: PDF and office documents, WAT files, archives (zip, tar), hidden files and
folders (their names begin with a dot), and folders behind symbolic links.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from data_pipeline.sources.http_responses import BINARY_BYTES, TOO_LARGE
from data_pipeline.sources.page_rows import RowKeys, json_line_pages, parquet_pages
from data_pipeline.sources.plain_text import OPENERS, bounded_texts, unpacked_blocks
from data_pipeline.sources.warc_files import LostPage, Page, read_answers
from lm_core.user_error import UserError

UNREADABLE, REST_LOST = "unreadable file", "rest of a damaged file"
FIRST_BYTES = 1024
JSON_LINE_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*+\{[ \t]*+\"")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.")  # of an object store; one letter is a drive
CRAWL_START = re.compile(rb"WARC/\d|filedesc://")
HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?:<\?xml[^>]*+>\s*+)?<(?:!doctype\s++html|html|head|body|title)[\s>]",
    re.IGNORECASE,
)


class PagesSettings(RowKeys):
    """The `[pages]` section: the pages that the documents are made from.

    Attributes:
        paths: your own files and folders, or URLs of an object store; if empty, this machine's
            Python documentation is used. Its earlier name, `warc_files`, is still understood.
        text_keys: see RowKeys, as for the other keys.
    """

    paths: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, given: Any) -> Any:
        """Turn `warc_files` into `paths`, so that no other code knows the earlier name."""
        if not isinstance(given, dict):
            return given
        earlier = given.get("warc_files")
        kept = {key: value for key, value in given.items() if key != "warc_files"}
        if earlier and kept.get("paths"):
            raise UserError(
                "paths and warc_files are both given; warc_files is the earlier name "
                "of paths, so write all of them in paths"
            )
        kept |= {"paths": earlier} if earlier else {}
        if isinstance(kept.get("paths"), str):
            kept["paths"] = [kept["paths"]]
        return kept

    @property
    def own_paths(self) -> tuple[Path, ...]:
        """The given files and folders, in order; none if URLs are given."""
        return () if self.own_urls else tuple(Path(path).expanduser() for path in self.paths)

    @property
    def own_urls(self) -> tuple[str, ...]:
        """The given URLs, in order."""
        return tuple(path for path in self.paths if URL.match(path))

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        """Refuse paths and URLs together."""
        if self.own_urls and len(self.own_urls) < len(self.paths):
            raise UserError(
                f"paths: {self.own_urls[0]} is in an object store, and other paths are here; "
                "expected all in a store, or all here"
            )
        return self


class PageFile(NamedTuple):
    """A file to read; `name`, for people, is its path below the given folder."""

    path: Path
    name: str


def page_files(paths: Sequence[Path]) -> list[PageFile]:
    """Return the files to read: those given, and those of the given folders that are of a known
    kind, in the order of names.

    If two files of different folders have the same name below them, the names of all files begin
    with that of the given folder, or, if that does not help, are their whole paths.

    What a folder has but cannot be read, such as a broken symbolic link, is among them, so that it
    is counted.

    Raises:
        UserError: a path does not exist, or a folder holds no file of a known kind.
    """
    found: list[tuple[Path, PageFile]] = []  # the folder, and the file
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises if it may not look)
            inside = _files_below(path)
            if not inside:
                raise UserError(f"{path}: no page in this folder; expected {EXPECTED}")
            found += [(Path(path).absolute(), file) for file in inside]
        elif os.path.lexists(path):
            found.append((Path(path).absolute().parent, PageFile(path, _shown(path.name))))
        else:
            raise UserError(
                f"{path}: no such file or folder; correct pages.paths in the recipe, or give "
                "another with `lm data build --from PATH`"
            )
    names = [file.name for _, file in found]
    num_files = len({file.path.absolute() for _, file in found})
    if len(set(names)) < num_files:
        names = [f"{_shown(folder.name)}/{file.name}" for folder, file in found]
    if len(set(names)) < num_files:
        names = [f"{_shown(folder.as_posix())}/{file.name}" for folder, file in found]
    return [PageFile(file.path, name) for (_, file), name in zip(found, names, strict=True)]


def _files_below(folder: Path) -> list[PageFile]:
    found: list[Path] = []

    def on_error(error: OSError) -> None:
        found.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if _recognized(path) is not None]
    return [PageFile(path, _shown(path.relative_to(folder).as_posix())) for path in sorted(found)]


def _shown(name: str) -> str:
    """Return a name as text; bytes of file names that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def read_every_page(
    paths: Sequence[Path], max_bytes: int, keys: RowKeys
) -> Iterator[tuple[Page | LostPage, str]]:
    """Yield the pages of files and folders: see `read_page_files`.

    Args:
        paths: see `page_files`.
        max_bytes, keys: see `read_page_files`.

    Raises:
        UserError: a path does not exist, or no file has a page.
    """
    yield from read_page_files(page_files(paths), max_bytes, keys)


def read_page_files(
    files: Iterable[PageFile], max_bytes: int, keys: RowKeys
) -> Iterator[tuple[Page | LostPage, str]]:
    """Yield the pages of files, each with the name of its file.

    A LostPage stands for a page, or for a file or the rest of it, that could not be read.

    Args:
        files: read one after the other; the next is asked for when one has been read.
        max_bytes: a page with more bytes is lost.
        keys: of the rows of JSON lines and parquet files.

    Raises:
        UserError: no file has a page.
    """
    errors: list[UserError] = []
    names: list[str] = []
    found_any = found_page = False
    for file in files:
        names.append(file.name)
        reason = UNREADABLE
        try:
            for page in read_pages(file, max_bytes, keys):
                found_any = True
                if isinstance(page, Page):
                    found_page, reason = True, REST_LOST
                yield page, file.name
        except UserError as error:
            errors.append(error)
            detail = str(error).removeprefix(f"{file.path}: ")
            size = file.path.stat().st_size if file.path.is_file() else 0
            yield LostPage(file.name, reason, detail, size), file.name
    if errors and not found_page:
        others = f"; nor is there a page in the other {len(names) - 1}" if len(names) > 1 else ""
        raise UserError(f"{errors[0]}{others}")
    if not found_any:
        raise UserError(f"{', '.join(names)}: no page there; give a file with pages")


def read_pages(file: PageFile, max_bytes: int, keys: RowKeys) -> Iterator[Page | LostPage]:
    """Yield the pages of a file of any kind, one in memory at a time.

    Args:
        file: see `page_files`.
        max_bytes: a page with more bytes is lost; it is never whole in memory, unless it is a value
            of a parquet file.
        keys: of the rows of JSON lines and parquet files.

    Raises:
        UserError: the file cannot be read to its end; the pages before have been yielded.
    """
    try:
        status = file.path.stat()
    except OSError as error:
        link = "a symbolic link that leads to no file" if file.path.is_symlink() else error.strerror
        raise UserError(f"{file.path}: cannot be read ({link})") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{file.path}: a folder whose files cannot be listed")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{file.path}: a pipe, socket or device; expected a file")
    reader = _recognized(file.path)
    if reader is None:
        start = _first_bytes(file.path)
        if BINARY_BYTES.search(start):
            raise UserError(f"{file.path}: begins with {start[:8]!r}; expected {EXPECTED}")
        reader = _read_json_lines if _bare_name(file.path).suffix == ".json" else _read_text
    if status.st_size == 0 and reader is not _read_crawl:
        raise UserError(f"{file.path}: the file is empty")
    yield from reader(file, max_bytes, keys)


def _read_crawl(file: PageFile, max_bytes: int, keys: RowKeys) -> Iterator[Page | LostPage]:
    try:
        yield from read_answers(file.path, max_bytes)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error.strerror})") from None


def _read_html(file: PageFile, max_bytes: int, keys: RowKeys) -> Iterator[Page | LostPage]:
    blocks, size = [], 0
    for block in unpacked_blocks(file.path):
        blocks.append(block)
        size += len(block)
        if size > max_bytes:
            stored = file.path.stat().st_size
            yield LostPage(file.name, TOO_LARGE, f"has more than {max_bytes:,} bytes", stored)
            return
    yield Page(file.name, "text/html", b"".join(blocks), "")


def _read_json_lines(file: PageFile, max_bytes: int, keys: RowKeys) -> Iterator[Page | LostPage]:
    yield from json_line_pages(file.path, file.name, max_bytes, keys)


def _read_parquet(file: PageFile, max_bytes: int, keys: RowKeys) -> Iterator[Page | LostPage]:
    yield from parquet_pages(file.path, file.name, max_bytes, keys)


def _read_text(file: PageFile, max_bytes: int, keys: RowKeys) -> Iterator[Page | LostPage]:
    for number, text in enumerate(bounded_texts(file.path, max_bytes), start=1):
        url = f"{file.name}:{number}"
        if isinstance(text, int):
            yield LostPage(url, TOO_LARGE, f"document {number} has {text:,} bytes", text)
        else:
            yield Page(url, "text/plain", text.encode("utf-8"), "utf-8")


Reader = Callable[[PageFile, int, RowKeys], Iterator[Page | LostPage]]
READERS: dict[str, Reader] = {
    ".warc": _read_crawl, ".wet": _read_crawl, ".arc": _read_crawl,
    ".html": _read_html, ".htm": _read_html, ".xhtml": _read_html,
    ".jsonl": _read_json_lines, ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}  # fmt: skip
EXPECTED = f"files whose names end in {', '.join(READERS)}, also packed ({', '.join(OPENERS)})"


def _recognized(path: Path) -> Reader | None:
    """Return the reader for a file by its name, or else by its first bytes; None for other files,
    and for those of other names that cannot be read.
    """
    name = _bare_name(path)
    if name.suffix in READERS:
        return READERS[name.suffix]
    try:
        return _recognized_by_contents(path)
    except UserError:  # C4 names its JSON lines so
        return _read_json_lines if name.suffix == ".json" else None


def _bare_name(path: Path) -> Path:
    """Return a file's name in lower case, without the ending of packed files."""
    whole = Path(path.name.lower())
    return Path(whole.stem) if whole.suffix in OPENERS else whole


def _recognized_by_contents(path: Path) -> Reader | None:
    start = _first_bytes(path)
    if CRAWL_START.match(start):
        return _read_crawl
    if start.startswith(b"PAR1"):
        return _read_parquet
    if HTML_START.match(start):
        return _read_html
    line, line_end, _ = start.partition(b"\n")
    if JSON_LINE_START.match(line) and (line.rstrip().endswith(b"}") or not line_end):
        return _read_json_lines
    return None


def _first_bytes(path: Path) -> bytes:
    """Return the first bytes after unpacking; none if it is not a regular file."""
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises if it may not look)
        return b""
    return next(unpacked_blocks(path), b"")[:FIRST_BYTES]
