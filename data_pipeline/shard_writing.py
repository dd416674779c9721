"""Documents -> token shards: encode, end each document with the end-of-text token, split into train
and validation.

The hash of a document alone decides whether it goes to the validation split, so that it stays there
when documents are added or their order changes. For one long text, `held_out = "end"` validates on
the last characters instead, as nanoGPT does. A special token that a document's text spells out
(`<|endoftext|>` in the README of a tokenizer) is encoded as plain characters: only the pipeline may
end a document.

What this leaves out: shuffling (training/batching.py chooses the order), and several sources with
weights.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field

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
        tokens_per_file: a shard file has at most this many tokens.
    """

    validation_share: float = Field(default=0.05, gt=0, lt=1)
    held_out: Literal["documents", "end"] = "documents"
    training_share: float = Field(default=1.0, gt=0, le=1)
    tokens_per_file: int = Field(default=2**24, ge=1)


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
            yield SplitDocument(split_of(document.id, settings.validation_share), document)
        return
    characters = sum(len(document.text) for document in read_documents(documents_folder))
    left = int(characters * (1 - settings.validation_share))  # characters for training
    for document in read_documents(documents_folder):
        first, rest = document.text[:left], document.text[left:]
        left -= len(first)
        if first:
            yield SplitDocument(TRAIN, replace(document, text=first), is_whole=not rest)
        if rest:
            yield SplitDocument(VALIDATION, replace(document, text=rest))


def used_documents(documents_folder: Path, settings: ShardSettings) -> Iterator[SplitDocument]:
    """Yield what `split_documents` yields, without the part of the training split after the first
    int(n training_share) of its n characters, or after the first one.
    """
    if settings.training_share == 1:
        yield from split_documents(documents_folder, settings)
        return
    splits = split_documents(documents_folder, settings)
    characters = sum(len(part.document.text) for part in splits if part.split == TRAIN)
    left = max(1, int(characters * settings.training_share))
    for part in split_documents(documents_folder, settings):
        if part.split == VALIDATION:
            yield part
        elif left > 0:
            text = part.document.text[:left]
            left -= len(text)
            is_whole = part.is_whole and text == part.document.text
            yield SplitDocument(TRAIN, replace(part.document, text=text), is_whole)


def encode_as_plain_text(tokenizer: TextEncoder, text: str) -> list[int]:
    """Return token ids of the text, none of them a special token; they decode to the same text.

    If the text spells out a special token, it is cut after the token's first character, and the
    parts are encoded separately.
    """
    names = list(tokenizer.special_tokens)
    if not names or not any(name in text for name in names):
        return tokenizer.encode(text)
    ids: list[int] = []
    start = 0
    for found in re.finditer(f"(?={'|'.join(map(re.escape, names))})", text):
        ids += tokenizer.encode(text[start : found.start() + 1])
        start = found.start() + 1
    return ids + tokenizer.encode(text[start:])


def write_token_shards(
    documents_folder: Path,
    tokenizer: TextEncoder,
    tokenizer_hash: str,
    out_folder: Path,
    settings: ShardSettings,
) -> dict[str, object]:
    """Write both splits into `out_folder`, either both or neither.

    Returns the number of documents and tokens of each split, and of UTF-8 bytes per token. A
    document that is cut counts in both splits, and its first part has no end-of-text token. Raises
    ValueError if the tokenizer has no end-of-text token, or if a split would be empty.
    """
    if END_OF_TEXT not in tokenizer.special_tokens:
        raise UserError(
            f"the tokenizer has no {END_OF_TEXT} token; train it with that special token"
        )
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    documents: dict[str, int] = {TRAIN: 0, VALIDATION: 0}
    tokens: dict[str, int] = {TRAIN: 0, VALIDATION: 0}
    text_bytes = 0
    byte_lengths = np.asarray(tokenizer.byte_lengths())
    writer = ShardWriter(
        out_folder, tokenizer_hash, tokenizer.vocab_size, byte_lengths, settings.tokens_per_file
    )
    total = read_counts(documents_folder)[-1]["documents_out"]
    with writer, progress_bar("encode documents", total, "documents") as bar:
        for split, document, is_whole in used_documents(documents_folder, settings):
            ids = encode_as_plain_text(tokenizer, document.text)
            ids += [end_of_text] if is_whole else []
            writer.add(split, np.array(ids, dtype=np.int64))
            documents[split] += 1
            tokens[split] += len(ids)
            text_bytes += len(document.text.encode("utf-8"))
            bar.advance(is_whole)
        check_both_splits(documents, settings)
    return {
        "documents": documents,
        "tokens": tokens,
        "bytes_per_token": round(text_bytes / sum(tokens.values()), 3),
    }


def check_both_splits(documents: Mapping[str, int], settings: ShardSettings) -> None:
    """Raise ValueError if a split has no document; `documents` counts them by split."""
    for split, count in documents.items():
        if count == 0:
            raise UserError(
                f"no document falls into the {split} split: {sum(documents.values())} documents at "
                f"validation_share={settings.validation_share}; add documents, change the share, "
                'or validate on the end of the text with shards.held_out = "end"'
            )
