"""Conversation -> ids, with a mask of the assistant's tokens.

The format is ChatML: every message is `<|im_start|>role\\ncontent<|im_end|>\\n`. Supervised
fine-tuning trains only on the assistant's text, so the mask is True for the tokens of the
assistant's content and for the `<|im_end|>` that ends it: the model must learn to stop. A special
token's name inside a message is ordinary text, so a user cannot end a message and speak for the
assistant by writing <|im_end|>.

What this leaves out: tools and images.

Source: OpenAI 2023, "Chat Markup Language"; the mask as in Ouyang et al. 2022, section 3.
"""

from collections.abc import Mapping, Sequence

from lm_core.special_tokens import MESSAGE_END, MESSAGE_START
from lm_core.user_error import UserError
from tokenizer_bpe.templates.added_tokens import encode_as_text
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer

ROLES = ("system", "user", "assistant")

# The same format for Hugging Face's `apply_chat_template`, as a Jinja template.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def encode_chat(
    tokenizer: AnyTokenizer,
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[bool]]:
    """Encode a conversation.

    Args:
        tokenizer: must have the special tokens MESSAGE_START and MESSAGE_END.
        messages: each has a "role" from ROLES and a "content", whose leading and trailing
            whitespace is removed.
        add_generation_prompt: end with the start of an assistant's message.

    Returns:
        (ids, assistant_mask), of equal length.

    Raises:
        ValueError: no messages, an unknown role, a content that is not text, or a tokenizer
            without the special tokens.
    """
    for token in (MESSAGE_START, MESSAGE_END):
        if token not in tokenizer.special_tokens:
            raise UserError(f"the tokenizer has no special token {token}; train it with one")
    if not messages:
        raise UserError("the conversation has no messages; give at least one")
    ids: list[int] = []
    mask: list[bool] = []

    def add(new_ids: list[int], by_assistant: bool) -> None:
        ids.extend(new_ids)
        mask.extend([by_assistant] * len(new_ids))

    for number, message in enumerate(messages):
        role, content = _checked(message, number)
        # A special token, or a newline before content without leading whitespace, is a word
        # boundary: the parts have the same tokens alone as in the whole.
        add(tokenizer.encode(f"{MESSAGE_START}{role}\n"), False)
        said = encode_as_text(tokenizer, content)
        add([*said, tokenizer.special_tokens[MESSAGE_END]], role == ROLES[2])
        add(tokenizer.encode("\n"), False)
    if add_generation_prompt:
        add(tokenizer.encode(f"{MESSAGE_START}assistant\n"), False)
    return ids, mask


def _checked(message: Mapping[str, str], number: int) -> tuple[str, str]:
    """Return the role and the stripped content of a message, or raise a ValueError that names
    it.
    """
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"message {number}: role {role!r}, expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise UserError(f"message {number}: content {content!r}, expected text")
    return role, content.strip()
