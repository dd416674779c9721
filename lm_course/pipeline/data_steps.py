"""The steps up to the shards: each calls its stage with the paths of the run and returns figures
for the report.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipeline.executors.document_building import build_documents
from data_pipeline.instructions.instruction_mining import mine_instructions
from data_pipeline.shard_writing import (
    TRAIN,
    VALIDATION,
    check_both_splits,
    split_of,
    write_token_shards,
)
from data_pipeline.sources.page_collection import write_python_documentation
from lm_core.artifact_paths import RunPaths
from lm_core.formats.documents import read_counts, read_documents
from lm_core.progress import progress_bar
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.recipe_runner import StepContext, read_record
from tokenizer_bpe.compiled.lesson_or_compiled import takes_compiled, tokenizer_for
from tokenizer_bpe.merge_training import TokenizerSettings
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import tokenizer_hash

MERGES_SHOWN = 48
TOKENS_SHOWN = 24
COMPRESSION_SAMPLE = 200_000  # characters of validation text
COMPRESSION_POINTS = (0, 16, 64, 256, 1024, 4096, 16384, 65536)  # merges


def warc_files(paths: RunPaths, recipe: Recipe) -> list[Path]:
    """The recipe's own WARC files, or the one that `collect` writes."""
    given = recipe.pages.warc_files
    return [Path(name) for name in given] if given else [paths.pages]


def collect(context: StepContext) -> dict[str, Any]:
    """Render this machine's Python documentation, or see that the recipe's own WARC files are
    there.
    """
    files = warc_files(context.paths, context.recipe)
    if context.recipe.pages.warc_files:
        for path in files:
            if not path.is_file():
                raise UserError(
                    f"{path}: no such WARC file; correct pages.warc_files in the recipe"
                )
        return {"what": "WARC files given", "bytes": sum(path.stat().st_size for path in files)}
    summary = write_python_documentation(context.paths.pages, context.recipe.collect)
    pages = f"{summary['pages']:,} pages and {summary['readmes']} READMEs"
    return {"what": pages, "bytes": summary["payload_bytes"], **summary}


def instructions(context: StepContext) -> dict[str, Any]:
    """Mine questions, answers and preference pairs."""
    return mine_instructions(context.paths.instructions, context.recipe.instructions)


def documents(context: StepContext) -> dict[str, Any]:
    """Pages to documents."""
    files = warc_files(context.paths, context.recipe)
    collected = read_record(context.paths, "collect")
    figures = collected["summary"] if collected else {}
    num_pages = figures["pages"] + figures["readmes"] if "pages" in figures else None
    counts = build_documents(files, context.paths.documents, context.recipe.documents, num_pages)
    return {
        "pages": counts[0]["documents_in"],
        "documents": counts[-1]["documents_out"],
        "bytes": counts[-1]["bytes_out"],
    }


def tokenizer(context: StepContext) -> dict[str, Any]:
    """Train the tokenizer on the documents of the training split."""
    paths, settings = context.paths, context.recipe.tokenizer
    pattern = settings.word_pattern
    share = context.recipe.shards.validation_share
    splits = Counter(split_of(document.id, share) for document in read_documents(paths.documents))
    check_both_splits({TRAIN: splits[TRAIN], VALIDATION: splits[VALIDATION]}, context.recipe.shards)
    texts = _texts_of(context, TRAIN)
    sample = _first_bytes(texts, settings.max_training_bytes, splits[TRAIN])
    num_bytes = min(_text_bytes(paths), settings.max_training_bytes)
    vocab, merges = _train(sample, settings, pattern, takes_compiled(num_bytes, pattern))
    trained = Tokenizer(vocab, merges, SPECIAL_TOKENS, pattern)
    trained.save(paths.tokenizer)
    text = "\n".join(islice(_texts_of(context, VALIDATION), 200))[:COMPRESSION_SAMPLE]
    compression = compression_by_merges(trained, text)
    return {
        "vocab_size": trained.vocab_size,
        "merges": len(merges),
        "bytes_per_token": compression[-1][1],
        "compression": compression,
        "first_merges": [[_visible(a), _visible(b)] for a, b in merges[:MERGES_SHOWN]],
        "longest_tokens": [_visible(token) for token in longest_tokens(vocab)],
    }


def longest_tokens(vocab: dict[int, bytes]) -> list[bytes]:
    """The longest tokens that were learned, the longest first; special tokens were given."""
    special = {token.encode() for token in SPECIAL_TOKENS}
    learned = (token for token in vocab.values() if token not in special)
    return sorted(learned, key=len, reverse=True)[:TOKENS_SHOWN]


def _train(
    sample: Iterator[str], settings: TokenizerSettings, pattern: str, compiled: bool
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """By the lesson or by compiled code: the same merges."""
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


def _text_bytes(paths: RunPaths) -> int:
    """UTF-8 bytes of all documents, as the pipeline counted them."""
    return read_counts(paths.documents)[-1]["bytes_out"]


def compression_by_merges(trained: Tokenizer, text: str) -> list[tuple[int, float]]:
    """(merges used, bytes per token) of `text`: the same tokenizer with only its first merges."""
    size = len(text.encode())
    numbers = [n for n in COMPRESSION_POINTS if n < len(trained.merges)] + [len(trained.merges)]
    points = []
    for number in numbers:
        vocab = {index: trained.vocab[index] for index in range(256 + number)}
        smaller = Tokenizer(vocab, trained.merges[:number], None, trained.pattern)
        points.append((number, size / len(smaller.encode(text))))
    return points


def shards(context: StepContext) -> dict[str, Any]:
    """Documents to token ids."""
    paths = context.paths
    summary = write_token_shards(
        paths.documents,
        tokenizer_for(Tokenizer.from_hugging_face(paths.tokenizer), _text_bytes(paths)),
        tokenizer_hash(paths.tokenizer),
        paths.shards,
        context.recipe.shards,
    )
    return {
        "train_tokens": summary["tokens"][TRAIN],
        "validation_tokens": summary["tokens"][VALIDATION],
        **summary,
    }


def _texts_of(context: StepContext, split: str) -> Iterator[str]:
    share = context.recipe.shards.validation_share
    for document in read_documents(context.paths.documents):
        if split_of(document.id, share) == split:
            yield document.text


def _first_bytes(texts: Iterator[str], limit: int, num_texts: int) -> Iterator[str]:
    """The texts until `limit` bytes of UTF-8 are reached, with a progress bar."""
    read = 0
    with progress_bar("count words", num_texts, "documents") as bar:
        for text in texts:
            read += len(text.encode())
            if read > limit:
                return
            yield text
            bar.advance(note=f"{read / 1e6:.1f} MB")


def _visible(token: bytes) -> str:
    text = token.decode("utf-8", errors="replace")
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
