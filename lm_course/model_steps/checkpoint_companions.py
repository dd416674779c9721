"""The companion of a checkpoint: the tokenizer that it was trained with."""

from pathlib import Path
from typing import Any

from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError
from tokenizer_bpe.characters.either_kind import hugging_face_files, tokenizer_hash
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer

TOKENIZER_NAME = "tokenizer.json"


def companions(tokenizer: AnyTokenizer, text_end: str) -> dict[str, Any]:
    """Return what is saved beside the weights: the tokenizer's files, and the ids for end of text
    and padding.
    """
    ids = tokenizer.special_tokens
    return {
        "companion_files": hugging_face_files(tokenizer),
        "special_token_ids": {"eos_token_id": ids[text_end], "pad_token_id": ids[END_OF_TEXT]},
    }


def check_tokenizer(checkpoint: Path, tokenizer: Path) -> Path:
    """Return the checkpoint if it was trained with this tokenizer, else raise ValueError."""
    theirs, ours = (tokenizer_hash(path) for path in (checkpoint / TOKENIZER_NAME, tokenizer))
    if theirs != ours:
        raise UserError(
            f"{checkpoint}: trained with tokenizer {theirs[:12]}, but {tokenizer} is {ours[:12]}; "
            "run `lm data shard RECIPE` and the steps after it again"
        )
    return checkpoint
