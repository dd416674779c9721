"""Templates render as transformers renders them, fail in one line, and keep users from speaking for
the assistant.
"""

import json
import re

import pytest
from tokenizers import Tokenizer as TheirTokenizer
from transformers import PreTrainedTokenizerFast

from lm_core.special_tokens import MESSAGE_END, SPECIAL_TOKENS
from tokenizer_bpe.chat_template import CHAT_TEMPLATE, encode_chat
from tokenizer_bpe.jinja_template import (
    JinjaTemplate,
    encode_with_template,
    end_of_message,
    read_template,
    render,
)
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, tokenizer_json

BYTES = {byte: bytes([byte]) for byte in range(256)}
HI = [{"role": "user", "content": "Hi"}]
CHAT = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    *HI,
    {"role": "assistant", "content": "Hello.\n"},
    {"role": "user", "content": " What now? "},
]
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BLOCKS = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'never' %}
        {%- break %}
    {%- endif %}
    {% if message.role == 'system' %}
<<{{ message.content | tojson }}>>
    {% else %}
[{{ message['role'] | upper }}] {{ message['content'] | trim }} {{ eos_token }}
    {% endif %}
{%- endfor %}
{%- if add_generation_prompt %}[ASSISTANT]{% endif %}
"""
TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(BYTES, [], SPECIAL_TOKENS)


@pytest.mark.parametrize(
    "text", [CHAT_TEMPLATE, SMOLLM2, BLOCKS], ids=["ours", "smollm2", "blocks"]
)
@pytest.mark.parametrize("prompt", [True, False])
def test_rendered_as_transformers_does(tokenizer, text, prompt):
    made = TheirTokenizer.from_str(tokenizer_json(tokenizer).decode())
    theirs = PreTrainedTokenizerFast(tokenizer_object=made, chat_template=text, **TOKENS)
    expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
    template = JinjaTemplate(text, TOKENS)
    assert render(template, CHAT, prompt) == expected
    if prompt:
        ids = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
        assert encode_with_template(tokenizer, template, CHAT) == ids


def test_our_own_template_gives_the_ids_of_encode_chat(tokenizer):
    ids, _ = encode_chat(tokenizer, CHAT, add_generation_prompt=True)
    assert encode_with_template(tokenizer, JinjaTemplate(CHAT_TEMPLATE, {}), CHAT) == ids


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_no_message_may_hold_a_special_token(tokenizer, token, role):
    """A user who writes <|im_end|> could speak for the assistant from there on."""
    messages = [*HI, {"role": role, "content": f"x{token}y"}]
    with pytest.raises(
        ValueError, match=rf"message 1: the content holds {re.escape(token)}; remove"
    ):
        encode_with_template(tokenizer, JinjaTemplate(SMOLLM2, {}), messages)


def test_conversations_that_are_none(tokenizer):
    for messages, words in (([], "no messages"), ([{"role": "user"}], "content None, expected")):
        with pytest.raises(ValueError, match=words):
            encode_with_template(tokenizer, JinjaTemplate(SMOLLM2, {}), messages)


FAILING = [
    ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ("{% for x in %}", "chat template fails"),
    ("{{ messages[7]['content'] + 'x' }}", "chat template fails"),
    ("{{ 1 // 0 }}", "chat template fails"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe|not safely callable"),
    ("{% for i in range(999999999) %}{% endfor %}", "range"),
]


@pytest.mark.parametrize(("text", "words"), FAILING)
def test_a_template_that_fails_is_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        render(JinjaTemplate(text, {}), HI)
    assert "\n" not in str(error.value)


def test_the_end_of_what_the_assistant_says(tokenizer):
    for text in (SMOLLM2, CHAT_TEMPLATE, BLOCKS):
        found = end_of_message(tokenizer, JinjaTemplate(text, TOKENS))
        assert found == tokenizer.special_tokens[MESSAGE_END]
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_message(tokenizer, JinjaTemplate(plain, {})) is None


def test_read_from_a_folder(tokenizer, tmp_path):
    assert read_template(tmp_path) is None
    for name, content in hugging_face_files(tokenizer).items():
        (tmp_path / name).write_bytes(content)
    found = read_template(tmp_path)
    assert found.text == CHAT_TEMPLATE
    assert found.tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "chat_template.jinja").write_text("by itself")
    assert read_template(tmp_path).text == "by itself"


def config(folder, content):
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder


def test_the_forms_of_tokenizer_config(tmp_path):
    named = [{"name": "default", "template": "a"}, {"name": "tools", "template": "b"}]
    token = {"content": "<s>", "lstrip": False}
    found = read_template(config(tmp_path, {"chat_template": named, "bos_token": token}))
    assert found == JinjaTemplate("a", {"bos_token": "<s>"})
    assert read_template(config(tmp_path, {"chat_template": None})) is None
    with pytest.raises(ValueError, match="chat_template must be text"):
        read_template(config(tmp_path, {"chat_template": 3}))
    with pytest.raises(ValueError, match="expected an object, found a list"):
        read_template(config(tmp_path, []))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        read_template(tmp_path)
