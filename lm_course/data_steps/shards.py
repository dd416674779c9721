"""The step `shards`: documents to token ids, in a training and a validation split."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from data_pipeline.shard_writing import TRAIN, VALIDATION, ShardSettings, write_token_shards
from lm_core.formats.documents import text_bytes
from lm_course.pipeline.step import Step, StepContext
from tokenizer_bpe.characters.either_kind import read_tokenizer, tokenizer_hash
from tokenizer_bpe.compiled.lesson_or_compiled import tokenizer_for

SOURCES_SHOWN = 20


def shards(context: StepContext) -> dict[str, Any]:
    """Turn documents into token ids."""
    documents, tokenizer = context.input("documents"), context.input("tokenizer")
    summary = write_token_shards(
        documents,
        tokenizer_for(read_tokenizer(tokenizer), text_bytes(documents)),
        tokenizer_hash(tokenizer),
        context.output("shards"),
        context.settings,
        partial(read_tokenizer, tokenizer),
    )
    for line in lines_of_sources(summary["sources"]):
        print(line)
    return {
        "train_tokens": summary["tokens"][TRAIN],
        "validation_tokens": summary["tokens"][VALIDATION],
        **summary,
    }


def lines_of_sources(sources: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line for each source of the training split, most tokens first, if there are several
    or one is not read exactly once.
    """
    if len(sources) < 2 and all(counts["epochs"] == 1 for counts in sources.values()):
        return []
    total = sum(counts["tokens"] for counts in sources.values())
    most_first = sorted(sources.items(), key=lambda source: -source[1]["tokens"])
    width = max(len(source) for source, _ in most_first[:SOURCES_SHOWN])
    lines = [
        f"  {source:<{width}}  {counts['documents']:>11,} documents  {counts['tokens']:>15,} tokens"
        f" ({counts['tokens'] / total:6.1%})  {counts['epochs']:g} epochs"
        for source, counts in most_first[:SOURCES_SHOWN]
    ]
    rest = len(sources) - SOURCES_SHOWN
    return [*lines, f"  and {rest} more sources"] if rest > 0 else lines


STEP = Step(
    name="shards",
    command="lm data shard",
    help="Turn documents into shards of token ids.",
    run=shards,
    describe=lambda s: (
        f"{s['train_tokens']:,} training and {s['validation_tokens']:,} validation tokens"
    ),
    settings={"shards": ShardSettings},
    reads=("documents", "tokenizer"),
    writes=("shards",),
)
