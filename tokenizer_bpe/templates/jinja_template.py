"""A model's own chat template, written in Jinja: conversation -> text -> ids.

A Hugging Face folder has it in chat_template.jinja or inside tokenizer_config.json, a GGUF file in
its metadata. It is untrusted code, so it runs in Jinja's sandbox, set up as in `transformers`
(`template_environment`). Our own checkpoints use `chat_template.encode_chat`, whose rule applies
here too: the content of a message is text, because otherwise a user could end the message and speak
for the assistant.

What this leaves out: documents, images, and the mask for training.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lm_core.user_error import UserError
from tokenizer_bpe.pretokenization import special_token_pattern
from tokenizer_bpe.templates.added_tokens import control_tokens, encode_as_text
from tokenizer_bpe.templates.template_environment import compiled_template
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
TOKEN_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # noncharacters, which Unicode excludes from texts


class JinjaTemplate(NamedTuple):
    """A template and the special tokens that it may refer to.

    Attributes:
        text: the template's source.
        tokens: the texts of special tokens by their role, such as {"eos_token": "</s>"}.
    """

    text: str
    tokens: dict[str, str]


def read_template(folder: Path) -> JinjaTemplate | None:
    """Return the chat template of a checkpoint folder, or None.

    Raises ValueError if tokenizer_config.json is not in the form that `transformers` writes.
    """
    config = tokenizer_config(folder)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        default = [entry.get("template") for entry in entries if entry.get("name") == "default"]
        template = default[-1] if default else None
    if (folder / TEMPLATE_FILE).is_file():
        try:
            template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{folder / TEMPLATE_FILE}: not UTF-8 (byte {error.start}); fetch it again"
            ) from None
    if template is None:
        return None
    if not isinstance(template, str):
        raise UserError(f"{folder / CONFIG_FILE}: chat_template must be text")
    return JinjaTemplate(template, token_texts(special_roles(folder, config)))


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json, {} if it does not exist; raise ValueError if it is not JSON."""
    return json_object(folder / CONFIG_FILE)


def special_roles(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with the roles of special_tokens_map.json.

    `transformers` reads that file if the config does not list the added tokens itself.
    """
    if "added_tokens_decoder" in config:
        return dict(config)
    return dict(config) | json_object(folder / MAP_FILE)


def json_object(path: Path) -> dict[str, Any]:
    """Return the contents of the file, {} if it does not exist."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(config, ensure_ascii=False).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected an object, found a {type(config).__name__}")
    return config


def token_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return role -> text; the config has a token as its text, or as an object with `content`."""
    found = {role: config.get(role) for role in TOKEN_ROLES}
    texts = {r: t.get("content") if isinstance(t, dict) else t for r, t in found.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def render(
    template: JinjaTemplate,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the conversation as text; raise ValueError if the template fails or rejects it.

    `tools` describes functions that the model may call, in the form of OpenAI's API.
    """
    try:
        return compiled_template(template.text).render(
            messages=[dict(message) for message in messages],
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **template.tokens,
        )
    # A template is foreign code that may raise any error.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the model's chat template fails: {reason}") from None


def encode_with_template(
    tokenizer: AnyTokenizer,
    template: JinjaTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Return the conversation as ids, up to the start of the assistant's next message.

    Only the template writes control tokens; the name of one in a message is text.

    Raises:
        ValueError: no messages, a content that is not text, a template that fails, or one that does
            more with the name of a control token in a message than write it.
    """
    if not messages:
        raise UserError("the conversation has no messages; give at least one")
    for number, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str):
            raise UserError(f"message {number}: content {content!r}, expected text")
    rendered = render(template, messages, True, tools)
    contents = "\n".join(_texts_in([messages, tools]))
    spelled = [token for token in control_tokens(tokenizer) if token in contents]
    if not spelled:
        return tokenizer.encode(rendered)
    mark = next(mark for mark in MARKS if mark not in contents + template.text)
    names = re.compile(f"(?={'|'.join(map(re.escape, spelled))})")
    marked_messages, marked_tools = _with_texts_changed(
        [messages, tools], lambda text: names.sub(mark, text)
    )
    marked = render(template, marked_messages, True, marked_tools)
    if marked.replace(mark, "") != rendered:
        raise UserError(
            f"a message holds {spelled[0]!r}, a control token of the model, and the model's chat "
            "template does more than write it down; remove it"
        )
    return _encode_marked(tokenizer, marked, mark)


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_texts_in, chain(value, value.values())))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_texts_in, value))


def _with_texts_changed(value: Any, change: Callable[[str], str]) -> Any:
    """Return the same JSON value with each of its texts changed, names of fields included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _with_texts_changed(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts_changed(part, change) for part in value]
    return value


def _encode_marked(tokenizer: AnyTokenizer, marked: str, mark: str) -> list[int]:
    """Return the ids of a text in which a mark precedes every control token that is only text."""
    found = special_token_pattern(list(tokenizer.special_tokens))
    assert found is not None, "without control tokens, no message contains one"
    controls = control_tokens(tokenizer)
    ids: list[int] = []
    start = place = 0
    while match := found.search(marked, place):
        place = match.end()
        if match.group() not in controls:
            continue
        if marked[match.start() - 1 : match.start()] == mark:
            place = match.start() + 1
            continue
        ids += encode_as_text(tokenizer, marked[start : match.start()].replace(mark, ""))
        ids.append(controls[match.group()])
        start = place
    return ids + encode_as_text(tokenizer, marked[start:].replace(mark, ""))


def end_of_message(tokenizer: AnyTokenizer, template: JinjaTemplate) -> int | None:
    """Return the id of the special token that follows the assistant's message, if there is one."""
    said = "what the assistant says"
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
    after = render(template, conversation).rpartition(said)[2]
    controls = control_tokens(tokenizer)
    pattern = special_token_pattern(list(controls))
    found = pattern.search(after) if pattern else None
    return controls[found.group()] if found else None
