"""The tokenizer.json of a tokenizer of characters, as `tokenizers` and `AutoTokenizer` read it.

The model is "WordLevel", and the text is cut into words of one character. A character without a
token is an error there too, because the file names no token for unknown words.

What this leaves out: every other "WordLevel" tokenizer; a UserError refuses it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_core.user_error import UserError
from tokenizer_bpe.templates.added_tokens import TextToken, added_token_rows

ONE_CHARACTER = r"[\s\S]"  # the pattern of words of one character
NO_UNKNOWN = ""  # `tokenizers` requires a name; no token has this one
PRE_TOKENIZER = {
    "type": "Split",
    "pattern": {"Regex": ONE_CHARACTER},
    "behavior": "Isolated",
    "invert": False,
}


def character_json(vocab: Mapping[int, bytes], special_tokens: Mapping[str, int]) -> bytes:
    """Return the bytes of a tokenizer.json.

    Args:
        vocab: id -> UTF-8 bytes, special tokens included.
        special_tokens: text -> id.
    """
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_token_rows(special_tokens),
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZER,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {token.decode("utf-8"): i for i, token in sorted(vocab.items())},
            "unk_token": NO_UNKNOWN,
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def is_character_json(content: Any) -> bool:
    """Return whether the contents of a tokenizer.json are those of a tokenizer of characters."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("model"), dict)
        and content["model"].get("type") == "WordLevel"
        and content.get("pre_tokenizer") == PRE_TOKENIZER
    )


def read_character_json(path: Path, content: dict[str, Any]) -> tuple[dict[int, bytes], list[str]]:
    """Return id -> bytes, and the special tokens in the order of their ids.

    Raises UserError if the contents are not as `character_json` writes them.
    """
    try:
        vocab = {int(i): text.encode() for text, i in content["model"]["vocab"].items()}
        added = {
            row["content"] if row["special"] else TextToken(row["content"]): int(row["id"])
            for row in content["added_tokens"]
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: a damaged tokenizer of characters ({error!r}); make it again with "
            "`lm tokenizer train RECIPE`"
        ) from None
    if len(vocab) != len(content["model"]["vocab"]) or min(vocab, default=0) < 0:
        raise UserError(f"{path}: two characters have the same id, or an id is negative")
    if any(vocab.get(token_id) != text.encode() for text, token_id in added.items()):
        raise UserError(f"{path}: the added tokens are not those of the vocabulary")
    return vocab, sorted(added, key=added.__getitem__)
