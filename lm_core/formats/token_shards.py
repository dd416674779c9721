"""The shards artifact: token ids in flat binary files that training maps into memory, and a record
of their origin.

`<split>-00000.bin` holds uint16 ids, or uint32 if the vocabulary has more than 65,536 entries, in
little-endian order and without a header. A document is its ids, followed by the end-of-text id.
`<split>-documents.npy` has the length of each document, so that packing knows their borders.
`manifest.json` has the tokenizer's hash and the counts. `token_byte_lengths.npy` says how many
bytes each id stands for, so that a loss in nats becomes bits per byte without a tokenizer. What
this leaves out: compression and shuffling (training/batching.py chooses the order).
"""

import io
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from lm_core.artifact_paths import atomic_folder, read_json, write_json
from lm_core.user_error import UserError

FORMAT_VERSION = 1
MAKE_SHARDS = "lm data shard RECIPE"
MANIFEST = "manifest.json"


class ShardWriter:
    """Context manager that writes a shards folder atomically.

    Args:
        folder: the folder to create or to replace.
        tokenizer_hash: hash of the tokenizer that made the ids.
        vocab_size: the number of ids; decides between uint16 and uint32.
        token_byte_lengths: bytes that each id stands for, shape [vocab_size]; special tokens 0.
        tokens_per_file: a new file is started after this many.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_hash: str,
        vocab_size: int,
        token_byte_lengths: np.ndarray,
        tokens_per_file: int = 2**24,
    ) -> None:
        assert len(token_byte_lengths) == vocab_size, "every id needs a length in bytes"
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self.folder = folder
        self.tokenizer_hash = tokenizer_hash
        self.vocab_size = vocab_size
        self.token_byte_lengths = np.asarray(token_byte_lengths, dtype=np.int32)
        self.tokens_per_file = tokens_per_file
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.document_lengths: dict[str, array[int]] = {}  # 8 bytes for each document

    def __enter__(self) -> "ShardWriter":
        self.stack = ExitStack()
        self.temporary = self.stack.enter_context(atomic_folder(self.folder))
        self.open_files: dict[str, IO[bytes]] = {}
        return self

    def add(self, split: str, ids: Sequence[int] | np.ndarray) -> None:
        """Append one document, including its end-of-text id, to a split such as "train"."""
        values = self.checked(ids)
        files = self.files.setdefault(split, [])
        if not files or files[-1]["tokens"] >= self.tokens_per_file:
            files.append({"file": f"{split}-{len(files):05}.bin", "tokens": 0})
            self._start_file(split, self.temporary / files[-1]["file"])
        self.open_files[split].write(values)
        files[-1]["tokens"] += len(values)
        self.document_lengths.setdefault(split, array("q")).append(len(values))

    def checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the ids in the type of the files; raise ValueError if one is not in the
        vocabulary.
        """
        values = np.asarray(ids)
        if len(values) and not (values.min() >= 0 and values.max() < self.vocab_size):
            raise UserError(
                f"token id {values.max()} is outside the vocabulary of {self.vocab_size}; "
                "encode with the tokenizer that these shards name"
            )
        return np.ascontiguousarray(values, self.dtype)

    def _start_file(self, split: str, path: Path) -> None:
        if split in self.open_files:
            self.open_files[split].close()
        self.open_files[split] = self.stack.enter_context(path.open("wb"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                self._write_manifest()
            except BaseException as failure:
                self.stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self.stack.__exit__(kind, error, trace)

    def _write_manifest(self) -> None:
        for file in self.open_files.values():
            file.close()
        _save_array(self.temporary / "token_byte_lengths.npy", self.token_byte_lengths)
        splits = {}
        for split, files in self.files.items():
            lengths = self.document_lengths[split]
            _save_array(self.temporary / f"{split}-documents.npy", np.asarray(lengths, np.int64))
            splits[split] = {"tokens": sum(lengths), "documents": len(lengths), "files": files}
        manifest = {
            "format_version": FORMAT_VERSION,
            "tokenizer_hash": self.tokenizer_hash,
            "vocab_size": self.vocab_size,
            "dtype": self.dtype.name,
            "splits": splits,
        }
        write_json(self.temporary / MANIFEST, manifest)


def _save_array(path: Path, array: np.ndarray) -> None:
    """Save as np.save does, whose error on a full disk lacks the number that says so."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getvalue())


class TokenShards:
    """One split of a shards folder, mapped into memory. Create it with `TokenShards.open`."""

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        described = manifest["splits"][split]
        dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self.folder = folder
        self.split = split
        self.tokenizer_hash: str = manifest["tokenizer_hash"]
        self.vocab_size: int = manifest["vocab_size"]
        self.num_tokens: int = described["tokens"]
        self.num_documents: int = described["documents"]
        self.files = [
            _map_file(folder / row["file"], dtype, row["tokens"]) for row in described["files"]
        ]
        self.file_starts = np.cumsum([0] + [row["tokens"] for row in described["files"]])

    @classmethod
    def open(cls, folder: Path, split: str, tokenizer_hash: str | None = None) -> "TokenShards":
        """Open a split such as "train" or "validation".

        Raises:
            ValueError: the folder or the split is missing, a file's length is not what the manifest
                says, the format is newer than this code, or the shards were made with another
                tokenizer than `tokenizer_hash`.
        """
        path = folder / MANIFEST
        manifest = read_json(path, "the shards' manifest", MAKE_SHARDS)
        if manifest.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {manifest.get('format_version')}, but this code reads "
                f"{FORMAT_VERSION}; "
                f"make the shards again with `{MAKE_SHARDS}`"
            )
        if split not in manifest["splits"]:
            raise UserError(f"{path}: no split {split!r}; it has {', '.join(manifest['splits'])}")
        if tokenizer_hash is not None and tokenizer_hash != manifest["tokenizer_hash"]:
            raise UserError(
                f"{path}: made with tokenizer {manifest['tokenizer_hash'][:12]}, but the "
                "tokenizer beside it is "
                f"{tokenizer_hash[:12]}; make the shards again with `{MAKE_SHARDS}`"
            )
        return cls(folder, split, manifest)

    @property
    def token_byte_lengths(self) -> np.ndarray:
        """The bytes that each id stands for, int32, shape [vocab_size]; special tokens 0."""
        return np.load(self.folder / "token_byte_lengths.npy")

    @property
    def document_starts(self) -> np.ndarray:
        """The index of each document's first token, int64, shape [num_documents]."""
        lengths = np.load(self.folder / f"{self.split}-documents.npy")
        return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return the ids start .. start + count - 1 as int64, across the boundaries of files."""
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise UserError(
                f"{self.folder}: cannot read tokens {start}..{start + count}, {self.split} has "
                f"{self.num_tokens}"
            )
        result = np.empty(count, dtype=np.int64)
        filled = 0
        index = int(np.searchsorted(self.file_starts, start, side="right")) - 1
        while filled < count:
            offset = start + filled - int(self.file_starts[index])
            piece = self.files[index][offset : offset + count - filled]
            result[filled : filled + len(piece)] = piece
            filled += len(piece)
            index += 1
        return result


def _map_file(path: Path, dtype: np.dtype, tokens: int) -> np.ndarray:
    expected = tokens * dtype.itemsize
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        what = "is missing" if found is None else f"has {found:,} bytes"
        raise UserError(
            f"{path}: {what}, but the manifest says {expected:,} bytes; make the shards again "
            f"with `{MAKE_SHARDS}`"
        )
    return np.memmap(path, dtype=dtype, mode="r") if tokens else np.empty(0, dtype=dtype)
