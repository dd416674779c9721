"""The step `shards`: documents to token ids, in a training and a validation split."""

from typing import Any

from data_pipeline.shard_writing import TRAIN, VALIDATION, ShardSettings, write_token_shards
from lm_core.formats.documents import text_bytes
from lm_course.pipeline.step import Step, StepContext
from tokenizer_bpe.characters.either_kind import read_tokenizer, tokenizer_hash
from tokenizer_bpe.compiled.lesson_or_compiled import tokenizer_for


def shards(context: StepContext) -> dict[str, Any]:
    """Turn documents into token ids."""
    documents, tokenizer = context.input("documents"), context.input("tokenizer")
    summary = write_token_shards(
        documents,
        tokenizer_for(read_tokenizer(tokenizer), text_bytes(documents)),
        tokenizer_hash(tokenizer),
        context.output("shards"),
        context.settings,
    )
    return {
        "train_tokens": summary["tokens"][TRAIN],
        "validation_tokens": summary["tokens"][VALIDATION],
        **summary,
    }


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
