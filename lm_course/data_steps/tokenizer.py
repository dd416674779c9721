"""The step `tokenizer`: byte-level BPE, trained on the documents of the training split, or one
token for each character of all documents.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from data_pipeline.shard_writing import (
    TRAIN,
    VALIDATION,
    ShardSettings,
    check_both_splits,
    split_documents,
)
from lm_core.formats.documents import read_documents, text_bytes
from lm_core.progress import progress_bar
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, StepContext
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer, characters_of
from tokenizer_bpe.compiled.lesson_or_compiled import takes_compiled
from tokenizer_bpe.inspection.token_display import visible_text
from tokenizer_bpe.merge_training import TokenizerSettings
from tokenizer_bpe.tokenizer import Tokenizer

MERGES_SHOWN = 48
TOKENS_SHOWN = 24
COMPRESSION_SAMPLE = 200_000  # characters of validation text
COMPRESSION_POINTS = (0, 16, 64, 256, 1024, 4096, 16384, 65536)  # merges


class TokenizerStepSettings(TokenizerSettings):
    """The `[tokenizer]` section: which kind of tokenizer, and the settings of byte-level BPE.

    Attributes:
        kind: "bpe", or "characters" for one token for each character of the documents.
    """

    kind: Literal["bpe", "characters"] = "bpe"

    @model_validator(mode="after")
    def _characters_need_no_settings(self) -> "TokenizerStepSettings":
        given = sorted(self.model_fields_set - {"kind"})
        if self.kind == "characters" and given:
            raise UserError(
                f'{given[0]} has no effect with kind = "characters", whose vocabulary is the '
                "characters of the documents; remove it"
            )
        return self


def tokenizer(context: StepContext) -> dict[str, Any]:
    """Make the tokenizer of the kind that the recipe names."""
    documents, shards = context.input("documents"), context.section("shards")
    splits = Counter(split for split, _, _ in split_documents(documents, shards))
    check_both_splits({TRAIN: splits[TRAIN], VALIDATION: splits[VALIDATION]}, shards)
    if context.settings.kind == "characters":
        return _characters(documents, context.output("tokenizer"))
    return _bpe(context.settings, documents, shards, splits[TRAIN], context.output("tokenizer"))


def _characters(documents: Path, path: Path) -> dict[str, Any]:
    """Write the tokenizer of all characters, also those of the validation split, as nanoGPT does:
    a character without a token could not be evaluated.
    """
    characters = characters_of(document.text for document in read_documents(documents))
    made = CharacterTokenizer.of(characters, SPECIAL_TOKENS)
    made.save(path)
    num_characters = sum(len(document.text) for document in read_documents(documents))
    return {
        "vocab_size": made.vocab_size,
        "characters": len(characters),
        "bytes_per_token": text_bytes(documents) / num_characters,
    }


def _described(summary: dict[str, Any]) -> str:
    if "characters" in summary:
        return f"{summary['characters']:,} characters and {len(SPECIAL_TOKENS)} special tokens"
    return f"{summary['vocab_size']:,} entries, {summary['bytes_per_token']:.2f} bytes per token"


def _bpe(
    settings: TokenizerSettings, documents: Path, shards: ShardSettings, num_train: int, path: Path
) -> dict[str, Any]:
    """Train byte-level BPE on the `num_train` documents of the training split."""
    pattern = settings.word_pattern
    texts = _texts_of(documents, TRAIN, shards)
    sample = _first_bytes(texts, settings.max_training_bytes, num_train)
    num_bytes = min(text_bytes(documents), settings.max_training_bytes)
    vocab, merges = _train(sample, settings, pattern, takes_compiled(num_bytes, pattern))
    trained = Tokenizer(vocab, merges, SPECIAL_TOKENS, pattern)
    trained.save(path)
    text = "\n".join(islice(_texts_of(documents, VALIDATION, shards), 200))[:COMPRESSION_SAMPLE]
    compression = compression_by_merges(trained, text)
    return {
        "vocab_size": trained.vocab_size,
        "merges": len(merges),
        "bytes_per_token": compression[-1][1],
        "compression": compression,
        "first_merges": [[visible_text(a), visible_text(b)] for a, b in merges[:MERGES_SHOWN]],
        "longest_tokens": [visible_text(token) for token in longest_tokens(vocab)],
    }


def longest_tokens(vocab: dict[int, bytes]) -> list[bytes]:
    """Return the longest learned tokens, longest first; special tokens are not learned."""
    special = {token.encode() for token in SPECIAL_TOKENS}
    learned = (token for token in vocab.values() if token not in special)
    return sorted(learned, key=len, reverse=True)[:TOKENS_SHOWN]


def _train(
    sample: Iterator[str], settings: TokenizerSettings, pattern: str, compiled: bool
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train with the lesson or with compiled code; both give the same merges."""
    if compiled:
        from tokenizer_bpe.compiled.merge_training import train_bpe_from_words as train
        from tokenizer_bpe.compiled.word_counting import count_words as count
    else:
        from tokenizer_bpe.merge_training import train_bpe_from_counts as train
        from tokenizer_bpe.pretokenization import count_words as count
    counts = count(sample, SPECIAL_TOKENS, pattern, settings.num_processes)
    wanted = settings.vocab_size - 256 - len(SPECIAL_TOKENS)
    with progress_bar("train tokenizer", wanted, "merges") as bar:
        made = 0

        def on_merge(done: int) -> None:
            nonlocal made
            bar.advance(done - made)
            made = done

        return train(counts, settings.vocab_size, SPECIAL_TOKENS, on_merge)


def compression_by_merges(trained: Tokenizer, text: str) -> list[tuple[int, float]]:
    """Return (merges used, bytes per token) of `text`, with only the tokenizer's first merges."""
    size = len(text.encode())
    numbers = [n for n in COMPRESSION_POINTS if n < len(trained.merges)] + [len(trained.merges)]
    points = []
    for number in numbers:
        vocab = {index: trained.vocab[index] for index in range(256 + number)}
        smaller = Tokenizer(vocab, trained.merges[:number], None, trained.pattern)
        points.append((number, size / len(smaller.encode(text))))
    return points


def _texts_of(documents: Path, split: str, shards: ShardSettings) -> Iterator[str]:
    for found, document, _ in split_documents(documents, shards):
        if found == split:
            yield document.text


def _first_bytes(texts: Iterator[str], limit: int, num_texts: int) -> Iterator[str]:
    """Yield the texts until `limit` bytes of UTF-8 are reached, with a progress bar. Of a first
    text that is longer, its beginning is used.
    """
    read = 0
    with progress_bar("count words", num_texts, "documents") as bar:
        for text in texts:
            content = text.encode()
            if read + len(content) > limit:
                if read == 0:
                    yield content[:limit].decode(errors="ignore")
                return
            read += len(content)
            yield text
            bar.advance(note=f"{read / 1e6:.1f} MB")


STEP = Step(
    name="tokenizer",
    command="lm tokenizer train",
    help="Train byte-level BPE on the documents, or list their characters.",
    run=tokenizer,
    describe=_described,
    settings={"tokenizer": TokenizerStepSettings},
    reads_sections=("shards",),  # says which documents are for training
    reads=("documents",),
    writes=("tokenizer",),
)
