"""Plain text files -> documents, as they are: no filter changes or drops a document.

`<|endoftext|>` separates the documents of a file, and every file begins a new one. The line ends
beside a separator are removed. A file without a separator is one document, character
by character.

What this leaves out: every other format (pages are read by `page_files.py`), encodings other than
UTF-8, and documents of 2 GB or more, which parquet's text columns cannot hold.
"""

import bz2
import codecs
import gzip
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from lm_core.formats.documents import Document, document_id, write_documents
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError

STEP_NAME = "read text"
EMPTY = "empty"
BLOCK_BYTES = 1 << 14  # zstd loses what a block holds when its file ends too early
LARGEST_DOCUMENT = 2_000_000_000  # bytes; a text column of parquet holds 2**31 - 1
OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": partial(pa.CompressedInputStream, compression="zstd"),
}
FIRST_BYTES = {
    b"\x1f\x8b": ".gz",
    b"\xfd7zXZ\0": ".xz",
    b"BZh": ".bz2",
    b"\x28\xb5\x2f\xfd": ".zst",
}
SUFFIXES = (".txt", *(f".txt{packed}" for packed in OPENERS))  # the files of a folder


class TextSettings(Settings):
    """The `[text]` section: the text that the documents are made from.

    Attributes:
        path: a file, a folder or a list of them. A name that ends in .gz, .xz, .bz2 or .zst is
            unpacked. Of a folder, all files below it that end in .txt or .txt.gz (.xz, .bz2, .zst)
            are read.
        dataset: the name of a registered data set (`lm data get` lists them); not used if path is
            given.
    """

    path: str | list[str] = Field(default_factory=list)
    dataset: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The given paths, in order."""
        given = [self.path] if isinstance(self.path, str) else self.path
        return tuple(Path(name).expanduser() for name in given if name)


def text_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files to read: those given, and those of the given folders in the order of names.

    Raises:
        UserError: a path does not exist, or a folder holds no text file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
            if not inside:
                raise UserError(
                    f"{path}: no text file in this folder; expected names that end in "
                    f"{', '.join(SUFFIXES)}"
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(
                f"{path}: no such text file or folder; give another with --set text.path=FILE, or "
                "run `lm data get shakespeare` and set text.dataset=shakespeare"
            )
    return files


def write_text_documents(paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Write the documents of text files to `folder`, in order.

    Args:
        paths: files and folders, see `TextSettings.path`.
        folder: the documents artifact to write.

    Returns:
        The row of counts.json: documents and bytes in and out, and the empty documents dropped.

    Raises:
        UserError: a file is missing, damaged or not UTF-8, a document is too long, or there is no
            text; nothing is written then.
    """
    files = text_files(paths)
    row: dict[str, Any] = {"step": STEP_NAME, "documents_in": 0, "documents_out": 0}
    row |= {"bytes_in": 0, "bytes_out": 0, "dropped": {}}
    write_documents(folder, _documents(files, row), [row])
    return row


def _documents(files: Sequence[Path], row: dict[str, Any]) -> Iterator[Document]:
    """Yield the documents, and count them in `row`."""
    with progress_bar("read text", len(files), "files") as bar:
        for path in files:
            for text in file_texts(path):
                size = len(text.encode("utf-8"))
                row["documents_in"] += 1
                row["bytes_in"] += size
                if not text.strip():
                    row["dropped"][EMPTY] = row["dropped"].get(EMPTY, 0) + 1
                    continue
                row["documents_out"] += 1
                row["bytes_out"] += size
                yield Document(document_id(text), text, path.name, "")
            bar.advance()
    if row["documents_out"] == 0:
        raise UserError(f"{', '.join(map(str, files))}: no text there; give a file with text")


def file_texts(path: Path, separator: str = END_OF_TEXT) -> Iterator[str]:
    """Yield the texts between the separators of a file, the empty ones too.

    Raises:
        UserError: the file is damaged or not UTF-8, or a text is too long.
    """
    for text in bounded_texts(path, LARGEST_DOCUMENT, separator):
        if isinstance(text, int):
            raise UserError(
                f"{path}: a document of more than {LARGEST_DOCUMENT:,} bytes; separate documents "
                f"by {separator}"
            )
        yield text


def bounded_texts(path: Path, max_bytes: int, separator: str = END_OF_TEXT) -> Iterator[str | int]:
    """Yield the texts between the separators of a file; of a text that has more than `max_bytes`
    as UTF-8, only the number of bytes, and it is never whole in memory.

    Raises:
        UserError: the file is damaged or not UTF-8.
    """
    held: list[str] = []  # of the current text
    size = 0  # of the current text in bytes, without `rest`
    rest = ""  # may begin a separator
    after_separator = False
    for block in _decoded_blocks(path):
        *ended, rest = (rest + block).split(separator)
        for text in ended:
            size += len(text.encode())
            whole = _trimmed("".join([*held, text]), after_separator, True)
            yield whole if size <= max_bytes else size
            held, size, after_separator = [], 0, True
        cut = max(0, len(rest) - len(separator) + 1)
        held.append(rest[:cut])
        size += len(rest[:cut].encode())
        rest = rest[cut:]
        if size > max_bytes:
            held = []
    size += len(rest.encode())
    yield _trimmed("".join([*held, rest]), after_separator, False) if size <= max_bytes else size


def _trimmed(text: str, after_separator: bool, before_separator: bool) -> str:
    """Remove line ends that are beside a separator."""
    text = text.lstrip("\r\n") if after_separator else text
    return text.rstrip("\r\n") if before_separator else text


def _decoded_blocks(path: Path) -> Iterator[str]:
    """Yield the text of a file in blocks; without a byte order mark at its start."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    started = False
    for block in itertools.chain(unpacked_blocks(path), [b""]):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            place = offset - pending + error.start
            raise UserError(
                f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                f"{place:,}; convert the file to UTF-8 first"
            ) from None
        yield text if started else text.removeprefix("\ufeff")
        started = started or bool(text)
        offset += len(block)


def unpacked_blocks(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file in blocks, unpacked if its name, or else its first bytes, say
    that it is packed by gzip, xz, bzip2 or zstd.

    Raises:
        UserError: the file cannot be opened, is damaged, or is cut off; what comes before the
            damage has been yielded.
    """
    try:
        with _opened(path) as file:
            while block := file.read1(BLOCK_BYTES):
                yield block
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None


def _opened(path: Path) -> Any:
    if path.suffix in OPENERS:
        return OPENERS[path.suffix](path)
    with path.open("rb") as file:
        start = file.read(max(map(len, FIRST_BYTES)))
    for first, suffix in FIRST_BYTES.items():
        if start.startswith(first):
            return OPENERS[suffix](path)
    return path.open("rb")
