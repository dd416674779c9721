"""The text side of a model: its tokenizer, its chat template, and the ids that end an answer. They
come with a checkpoint folder, ours or a foreign one, or with a GGUF file.

Our own checkpoints have ChatML and three special tokens, each of which ends a text. Foreign ones
name the end of a text in config.json or generation_config.json, and their template shows which
token closes a message.

What this leaves out: tools, and tokenizers other than BPE and characters.
"""

from pathlib import Path
from typing import Any, NamedTuple

from lm_core.artifact_paths import read_json
from lm_core.formats.checkpoint_files import FETCH_AGAIN, foreign_step
from lm_core.formats.gguf_container import GGUFFile
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.characters.either_kind import EitherKind, read_tokenizer
from tokenizer_bpe.chat_template import CHAT_TEMPLATE
from tokenizer_bpe.formats.gguf_vocabulary import (
    adds_first_token,
    check_whole_words,
    end_ids,
    named_tokens,
    read_gguf_vocabulary,
)
from tokenizer_bpe.templates.jinja_template import (
    JinjaTemplate,
    end_of_message,
    read_template,
    special_roles,
    token_texts,
    tokenizer_config,
)
from tokenizer_bpe.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
FILES_WITH_END_IDS = ("config.json", "generation_config.json")


class TextSide(NamedTuple):
    """The parts of a model that handle text.

    Attributes:
        tokenizer: text to ids and back.
        template: None for our own format, which `encode_chat` writes.
        stop_ids: each ends a text; None for our own special tokens.
        first_id: precedes every text that is not a chat; None for nothing.
    """

    tokenizer: EitherKind
    template: JinjaTemplate | None = None
    stop_ids: frozenset[int] | None = None
    first_id: int | None = None


def text_side_of_folder(folder: Path) -> TextSide:
    """Read tokenizer.json, the template and the ids of a checkpoint folder.

    Raises ValueError if one of the files is invalid.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        step = foreign_step(folder) or "delete this checkpoint folder"
        raise UserError(f"{folder / TOKENIZER_FILE}: no such file; {step}")
    tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
    template = read_template(folder)
    is_ours = template is None or template.text == CHAT_TEMPLATE
    if is_ours and all(token in tokenizer.special_tokens for token in SPECIAL_TOKENS):
        return TextSide(tokenizer)
    ends: list[int] = []
    for name in FILES_WITH_END_IDS:
        if (folder / name).is_file():
            ends += _end_ids(
                read_json(folder / name, "the model's config", "lm import", FETCH_AGAIN)
            )
    described = tokenizer_config(folder)
    roles = token_texts(special_roles(folder, described))
    first = roles.get("bos_token") if described.get("add_bos_token") else None
    return _text_side(tokenizer, template, ends, first)


def text_side_of_gguf(file: GGUFFile) -> TextSide:
    """Read the same from a GGUF file's metadata; raise ValueError if its tokenizer is not
    supported.
    """
    tokenizer = Tokenizer(*read_gguf_vocabulary(file))
    check_whole_words(tokenizer, file)
    tokens = named_tokens(file)
    text = file.metadata.get("tokenizer.chat_template")
    template = None if text is None else JinjaTemplate(text, tokens)
    first = tokens.get("bos_token") if adds_first_token(file) else None
    return _text_side(tokenizer, template, end_ids(file), first)


def _end_ids(config: Any) -> list[int]:
    """Return the end ids of a config, whose `eos_token_id` is missing, null, a number or a list."""
    found = config.get("eos_token_id") if isinstance(config, dict) else None
    listed = found if isinstance(found, list) else [found]
    return [token_id for token_id in listed if isinstance(token_id, int)]


def _text_side(
    tokenizer: EitherKind, template: JinjaTemplate | None, ends: list[int], first: str | None
) -> TextSide:
    closing = None if template is None else _closing_id(tokenizer, template)
    known = [tokenizer.special_tokens.get(token) for token in SPECIAL_TOKENS]
    stop_ids = frozenset(i for i in [*ends, closing, *known] if i is not None)
    first_id = None if first is None else tokenizer.special_tokens.get(first)
    return TextSide(tokenizer, template, stop_ids, first_id)


def _closing_id(tokenizer: EitherKind, template: JinjaTemplate) -> int | None:
    """Return the id that closes a message.

    A template that fails raises its error in a chat; continuing text does not need it.
    """
    try:
        return end_of_message(tokenizer, template)
    except UserError:
        return None
