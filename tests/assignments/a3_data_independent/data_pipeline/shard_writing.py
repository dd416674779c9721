"""Documents -> token shards: encode, end each document with the end-of-text token, split into train
and validation.

The hash of a document alone decides whether it goes to the validation split, so that it stays there
when documents are added or their order changes. For one long text, `held_out = "end"` validates on
the last characters instead, as nanoGPT does. A special token that a document's text spells out
(`<|endoftext|>` in the README of a tokenizer) is encoded as plain characters: only the pipeline may
end a document.

Several sources are mixed by weights if `[shards.mixing]` says so; otherwise documents keep their
order. The validation split is never mixed or repeated. What this leaves out: how to encode in
parallel (sharding/document_encoding.py), and the order of windows (training/batching.py).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field, model_validator

from data_pipeline.sharding.document_encoding import (
    PROCESSES_FROM_BYTES,
    batch_encoder,
    encode_items,
)
from data_pipeline.sharding.mixed_shards import EncodedDocuments, MixingSettings
from lm_core.formats.documents import Document, read_counts, read_documents
from lm_core.formats.token_shards import ShardWriter
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError

TRAIN, VALIDATION = "train", "validation"


class TextEncoder(Protocol):
    """The interface that a tokenizer must have; tokenizer_bpe.tokenizer.Tokenizer has it."""

    special_tokens: Mapping[str, int]
    vocab_size: int

    def encode(self, text: str) -> list[int]: ...

    def byte_lengths(self) -> np.ndarray: ...


class ShardSettings(Settings):
    """How to turn documents into shards.

    Attributes:
        validation_share: expected share of documents, or share of characters, held out.
        held_out: "documents" chosen by their hashes, or the "end" of the text: its last characters,
            whose first document may have begun before them.
        training_share: share of the training split's characters that is used, from its beginning;
            the validation split stays whole. Many epochs of a small share show overfitting.
        tokens_per_file: a new shard file is started after this many tokens.
        num_processes: that encode; threads for the compiled tokenizer. Does not change the output.
        mixing: weights and epochs of the sources; by default, every document once, in its order.
    """

    validation_share: float = Field(default=0.05, gt=0, lt=1)
    held_out: Literal["documents", "end"] = "documents"
    training_share: float = Field(default=1.0, gt=0, le=1)
    tokens_per_file: int = Field(default=2**24, ge=1)
    num_processes: int = Field(default=2, ge=1)
    mixing: MixingSettings | None = None

    @model_validator(mode="after")
    def _mixes_whole_documents(self) -> "ShardSettings":
        if self.mixing and (self.held_out != "documents" or self.training_share != 1):
            raise UserError(
                'mixing repeats whole documents; use it with held_out = "documents" and '
                "training_share = 1 (mixing.epochs = 0.1 uses a tenth)"
            )
        return self


def split_of(document_id: str, validation_share: float) -> str:
    """Return the split of a document, from its id alone (16 hex digits = 64 random bits)."""
    return VALIDATION if int(document_id, 16) < validation_share * 2**64 else TRAIN


class SplitDocument(NamedTuple):
    """A document in its split, or the part of it that is in this split.

    Attributes:
        split: TRAIN or VALIDATION.
        document: the document; of a part, with the text of the part and the id of the whole.
        is_whole: False for a part that another part follows.
    """

    split: str
    document: Document
    is_whole: bool = True


def split_documents(documents_folder: Path, settings: ShardSettings) -> Iterator[SplitDocument]:
    """Yield the documents in their order, each with its split.

    With held_out = "end", the first int(n (1 - validation_share)) of the n characters are for
    training. A document across that place is yielded in two parts.
    """
    if settings.held_out == "documents":
        for document in read_documents(documents_folder):
            if document.text:
                yield SplitDocument(split_of(document.id, settings.validation_share), document)
        return
    total = sum(len(document.text) for document in read_documents(documents_folder))
    left = int(total * (1 - settings.validation_share))  # characters for training still to come
    for document in read_documents(documents_folder):
        head, tail = document.text[:left], document.text[left:]
        left -= len(head)
        if head:
            yield SplitDocument(TRAIN, replace(document, text=head), not tail)
        if tail:
            yield SplitDocument(VALIDATION, replace(document, text=tail))


def used_documents(documents_folder: Path, settings: ShardSettings) -> Iterator[SplitDocument]:
    """Yield what `split_documents` yields, without the part of the training split after the first
    int(n training_share) of its n characters, or after the first one.
    """
    if settings.training_share == 1:
        yield from split_documents(documents_folder, settings)
        return
    total = sum(
        len(part.document.text)
        for part in split_documents(documents_folder, settings)
        if part.split == TRAIN
    )
    left = max(1, int(total * settings.training_share))
    for part in split_documents(documents_folder, settings):
        if part.split != TRAIN:
            yield part
        elif left:
            document, text = part.document, part.document.text[:left]
            left -= len(text)
            whole = part.is_whole and len(text) == len(document.text)
            yield SplitDocument(TRAIN, replace(document, text=text), whole)


def plain_parts(text: str, special_tokens: Iterable[str]) -> list[str]:
    """Cut a text after the first character of every special token in it, so that none is whole.

    >>> plain_parts("see <|pad|>!", ["<|pad|>"])
    ['see <', '|pad|>!']
    """
    tokens = [re.escape(token) for token in special_tokens]
    if not tokens:
        return [text]
    # The lookahead takes no characters, so tokens that overlap are all found.
    begins = [match.start() for match in re.finditer(f"(?={'|'.join(tokens)})", text)]
    cuts = [0, *(begin + 1 for begin in begins), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


def encode_as_plain_text(tokenizer: TextEncoder, text: str) -> list[int]:
    """Return token ids of the text, none of them a special token; they decode to the same text.

    If the text spells out a special token, its parts are encoded separately.
    """
    ids: list[int] = []
    for part in plain_parts(text, tokenizer.special_tokens):
        ids.extend(tokenizer.encode(part))
    return ids


def plain_text_ids(tokenizer: TextEncoder, text: str) -> list[int] | np.ndarray:
    """Return the ids of `encode_as_plain_text`; from the compiled tokenizer, as an array."""
    if not getattr(tokenizer, "encodes_in_threads", False):
        return encode_as_plain_text(tokenizer, text)
    parts = plain_parts(text, tokenizer.special_tokens)
    return np.concatenate([tokenizer.encode_to_array(part) for part in parts])


class SplitWriter:
    """Writes documents to the shards, and counts them by split and, for training, by source.

    With `mixing`, training documents wait in a temporary file until all are encoded.
    """

    def __init__(self, writer: ShardWriter, mixing: MixingSettings | None) -> None:
        self.writer, self.mixing = writer, mixing
        self.documents = {TRAIN: 0, VALIDATION: 0}
        self.tokens = {TRAIN: 0, VALIDATION: 0}
        self.sources: dict[str, dict[str, float]] = {}
        self.unmixed: EncodedDocuments | None = None

    def __enter__(self) -> "SplitWriter":
        if self.mixing:
            self.unmixed = EncodedDocuments(self.writer.folder.parent, self.writer.dtype)
        return self

    def __exit__(self, *error: object) -> None:
        if self.unmixed:
            self.unmixed.close()

    def add(self, split: str, source: str, ids: np.ndarray) -> None:
        """Write a document now, or keep it for the mix."""
        if self.unmixed and split == TRAIN:
            self.unmixed.add(source, self.writer.checked(ids))
        else:
            self._write(split, source, ids)

    def write_mix(self) -> None:
        """Write the documents that are kept, and add to each source's counts how many epochs."""
        documents = {source: counts["documents"] for source, counts in self.sources.items()}
        if self.unmixed and self.mixing:
            documents = self.unmixed.documents
            for source, ids in self.unmixed.in_mixed_order(self.mixing):
                self._write(TRAIN, source, ids)
        for source, number in documents.items():
            counts = self.sources.setdefault(source, {"documents": 0, "tokens": 0})
            counts["epochs"] = round(counts["documents"] / number, 3)

    def _write(self, split: str, source: str, ids: np.ndarray) -> None:
        self.writer.add(split, ids)
        self.documents[split] += 1
        self.tokens[split] += len(ids)
        if split == TRAIN:
            counts = self.sources.setdefault(source, {"documents": 0, "tokens": 0})
            counts["documents"] += 1
            counts["tokens"] += len(ids)


def write_token_shards(
    documents_folder: Path,
    tokenizer: TextEncoder,
    tokenizer_hash: str,
    out_folder: Path,
    settings: ShardSettings,
    load_tokenizer: Callable[[], TextEncoder] | None = None,
) -> dict[str, object]:
    """Write both splits into `out_folder`, either both or neither.

    Returns the documents and tokens of each split, those of each source for training with its
    epochs ("sources"), and the UTF-8 bytes per token. A document that is cut counts in both splits,
    and its first part has no end-of-text token.

    Args:
        documents_folder: from `lm data build` or `lm data text`.
        tokenizer: encodes, unless worker processes do.
        tokenizer_hash: is written into the shards.
        out_folder: is created or replaced.
        settings: the section [shards].
        load_tokenizer: makes the tokenizer in a worker process; importable by name. Without it, and
            for small texts, one process encodes.

    Raises:
        ValueError: the tokenizer has no end-of-text token, a split would be empty, or the sources
            are not those of `settings.mixing`.
    """
    if END_OF_TEXT not in tokenizer.special_tokens:
        raise UserError(
            f"the tokenizer has no {END_OF_TEXT} token; train it with that special token"
        )
    byte_lengths = np.asarray(tokenizer.byte_lengths())
    writer = ShardWriter(
        out_folder, tokenizer_hash, tokenizer.vocab_size, byte_lengths, settings.tokens_per_file
    )
    end_of_text = np.array([tokenizer.special_tokens[END_OF_TEXT]], dtype=writer.dtype)
    made = read_counts(documents_folder)[-1]
    load = load_tokenizer if made.get("bytes_out", 0) >= PROCESSES_FROM_BYTES else None
    encoder = batch_encoder(tokenizer, plain_text_ids, settings.num_processes, load)
    num_bytes = num_tokens = 0
    with writer, SplitWriter(writer, settings.mixing) as splits:
        bar = progress_bar("encode documents", made["documents_out"], "documents")
        with encoder as encode_batches, bar as progress:
            parts = used_documents(documents_folder, settings)
            for part, ids in encode_items(parts, lambda part: part.document.text, encode_batches):
                ids = np.concatenate([ids, end_of_text]) if part.is_whole else ids
                splits.add(part.split, part.document.source, ids)
                num_bytes += utf8_length(part.document.text)
                num_tokens += len(ids)
                progress.advance(part.is_whole)
        splits.write_mix()
        check_both_splits(splits.documents, settings)
    return {
        "documents": splits.documents,
        "tokens": splits.tokens,
        "sources": splits.sources,
        "bytes_per_token": round(num_bytes / num_tokens, 3),
    }


def utf8_length(text: str) -> int:
    """Return the number of bytes of a text."""
    return len(text) if text.isascii() else len(text.encode())


def check_both_splits(documents: Mapping[str, int], settings: ShardSettings) -> None:
    """Raise ValueError if a split has no document; `documents` counts them by split."""
    for split, count in documents.items():
        if count == 0:
            raise UserError(
                f"no document falls into the {split} split: {sum(documents.values())} documents at "
                f"validation_share={settings.validation_share}; add documents, change the share, "
                'or validate on the end of the text with shards.held_out = "end"'
            )
