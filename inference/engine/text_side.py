"""What turns text into ids and ends a model's answers: the tokenizer, the chat template, the ids to
stop at. A checkpoint folder brings them, ours or another's, and so does a GGUF file.

Our own checkpoints have ChatML and three special tokens, each of which ends a text. Others say in
config.json or generation_config.json where a text ends, and their template shows which token closes
a message. What this leaves out: tools, and anything that a tokenizer does besides BPE.
"""

from pathlib import Path
from typing import Any, NamedTuple

from lm_core.artifact_paths import read_json
from lm_core.formats.checkpoint_files import FETCH_AGAIN, foreign_step
from lm_core.formats.gguf_container import GGUFFile
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
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
    """The parts.

    Attributes:
        tokenizer: text to ids and back.
        template: None where `encode_chat` is to be used: our own format.
        stop_ids: each ends a text; None for our own special tokens.
        first_id: stands before every text that is no chat; None for nothing.
    """

    tokenizer: Tokenizer
    template: JinjaTemplate | None = None
    stop_ids: frozenset[int] | None = None
    first_id: int | None = None


def text_side_of_folder(folder: Path) -> TextSide:
    """Read tokenizer.json, the template and the ids of a checkpoint folder.

    Raises ValueError where one of the files is not what it should be.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        step = foreign_step(folder) or "delete this checkpoint folder"
        raise UserError(f"{folder / TOKENIZER_FILE}: no such file; {step}")
    tokenizer = Tokenizer.from_hugging_face(folder / TOKENIZER_FILE)
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
    """The same from a GGUF file's metadata. Raises ValueError for a tokenizer that is not read."""
    tokenizer = Tokenizer(*read_gguf_vocabulary(file))
    check_whole_words(tokenizer, file)
    tokens = named_tokens(file)
    text = file.metadata.get("tokenizer.chat_template")
    template = None if text is None else JinjaTemplate(text, tokens)
    first = tokens.get("bos_token") if adds_first_token(file) else None
    return _text_side(tokenizer, template, end_ids(file), first)


def _end_ids(config: Any) -> list[int]:
    """`eos_token_id` is missing, null, a number or several."""
    found = config.get("eos_token_id") if isinstance(config, dict) else None
    listed = found if isinstance(found, list) else [found]
    return [token_id for token_id in listed if isinstance(token_id, int)]


def _text_side(
    tokenizer: Tokenizer, template: JinjaTemplate | None, ends: list[int], first: str | None
) -> TextSide:
    closing = None if template is None else _closing_id(tokenizer, template)
    known = [tokenizer.special_tokens.get(token) for token in SPECIAL_TOKENS]
    stop_ids = frozenset(i for i in [*ends, closing, *known] if i is not None)
    first_id = None if first is None else tokenizer.special_tokens.get(first)
    return TextSide(tokenizer, template, stop_ids, first_id)


def _closing_id(tokenizer: Tokenizer, template: JinjaTemplate) -> int | None:
    """The id that closes a message. A template that fails says so when someone chats: text can be
    continued without it.
    """
    try:
        return end_of_message(tokenizer, template)
    except UserError:
        return None
