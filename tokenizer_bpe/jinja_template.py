"""A model's own chat template, in the language of Jinja: conversation -> text -> ids.

A folder of Hugging Face's brings it as chat_template.jinja or inside tokenizer_config.json, a GGUF
file in its metadata. It is somebody else's program, so it runs in Jinja's sandbox, set up as in
`transformers`. Our own checkpoints keep to `chat_template.encode_chat`, and its rule holds here
too: no message may hold a special token, or a user could end the message and speak for the
assistant. What this leaves out: tools, documents, images, and the mask for training.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lm_core.user_error import UserError
from tokenizer_bpe.pretokenization import special_token_pattern

if TYPE_CHECKING:
    from tokenizer_bpe.tokenizer import Tokenizer

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
TOKEN_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


class JinjaTemplate(NamedTuple):
    """A template and what it may refer to.

    Attributes:
        text: the program.
        tokens: the texts of special tokens by their role, such as {"eos_token": "</s>"}.
    """

    text: str
    tokens: dict[str, str]


def read_template(folder: Path) -> JinjaTemplate | None:
    """The chat template that a checkpoint folder brings, or None.

    Raises ValueError where tokenizer_config.json is not what `transformers` writes.
    """
    config = tokenizer_config(folder)
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    if (folder / TEMPLATE_FILE).is_file():
        template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    if template is None:
        return None
    if not isinstance(template, str):
        raise UserError(f"{folder / CONFIG_FILE}: chat_template must be text")
    return JinjaTemplate(template, token_texts(config))


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, or nothing where there is none; ValueError where it is not JSON."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected an object, found a {type(config).__name__}")
    return config


def token_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Role -> text; a token is written as its text, or as an object with it as `content`."""
    found = {role: config.get(role) for role in TOKEN_ROLES}
    texts = {r: t.get("content") if isinstance(t, dict) else t for r, t in found.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def render(
    template: JinjaTemplate,
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool = False,
) -> str:
    """The conversation as text; ValueError where the template fails or refuses it."""
    # Imported here: the stages that never chat do not pay for it.
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template.text).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            **template.tokens,
        )
    # A template is a program: it may fail in any way that one can.
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the model's chat template fails: {reason}") from None


def _to_json(value: object, indent: int | None = None) -> str:
    """Jinja's own would write `<` as a code for web pages."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def encode_with_template(
    tokenizer: "Tokenizer", template: JinjaTemplate, messages: Sequence[Mapping[str, str]]
) -> list[int]:
    """The conversation as ids, up to where the assistant's next message begins.

    Raises:
        ValueError: no messages, a content that is not text or holds a special token, or a template
            that fails.
    """
    if not messages:
        raise UserError("the conversation has no messages; give at least one")
    for number, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str):
            raise UserError(f"message {number}: content {content!r}, expected text")
        for token in tokenizer.special_tokens:
            if token in content:
                raise UserError(f"message {number}: the content holds {token}; remove it")
    return tokenizer.encode(render(template, messages, add_generation_prompt=True))


def end_of_message(tokenizer: "Tokenizer", template: JinjaTemplate) -> int | None:
    """The id of the special token that follows what the assistant says, if there is one."""
    said = "what the assistant says"
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
    after = render(template, conversation).rpartition(said)[2]
    pattern = special_token_pattern(list(tokenizer.special_tokens))
    found = pattern.search(after) if pattern else None
    return tokenizer.special_tokens[found.group()] if found else None
