"""What goes with a checkpoint: the tokenizer that it was trained with."""

from pathlib import Path
from typing import Any

from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, tokenizer_hash

TOKENIZER_NAME = "tokenizer.json"


def companions(tokenizer: Tokenizer, text_end: str) -> dict[str, Any]:
    """What goes beside the weights: the tokenizer's files, and the ids that end and fill a text."""
    ids = tokenizer.special_tokens
    return {
        "companion_files": hugging_face_files(tokenizer),
        "special_token_ids": {"eos_token_id": ids[text_end], "pad_token_id": ids[END_OF_TEXT]},
    }


def check_tokenizer(checkpoint: Path, tokenizer: Path) -> Path:
    """The checkpoint, if it was trained with this tokenizer; ValueError that names both if not."""
    theirs, ours = (tokenizer_hash(path) for path in (checkpoint / TOKENIZER_NAME, tokenizer))
    if theirs != ours:
        raise UserError(
            f"{checkpoint}: trained with tokenizer {theirs[:12]}, but {tokenizer} is {ours[:12]}; "
            "run the steps from `lm data shard RECIPE` on again"
        )
    return checkpoint
