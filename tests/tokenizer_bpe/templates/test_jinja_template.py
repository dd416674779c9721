"""Templates render as in transformers, fail in one line, and prevent users from speaking for the
assistant.
"""

import json

import pytest
from tokenizers import Tokenizer as TheirTokenizer
from transformers import PreTrainedTokenizerFast

from lm_core.special_tokens import MESSAGE_END, SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.chat_template import CHAT_TEMPLATE, encode_chat
from tokenizer_bpe.templates.added_tokens import TextToken
from tokenizer_bpe.templates.jinja_template import (
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
@pytest.mark.parametrize(
    "text", [CHAT_TEMPLATE, SMOLLM2, BLOCKS], ids=["ours", "smollm2", "blocks"]
)
def test_a_control_token_in_a_message_is_text(tokenizer, token, role, text):
    """A user who writes <|im_end|> cannot speak for the assistant, as with
    `sanitize_control_tokens` of `transformers`.
    """
    template = JinjaTemplate(text, TOKENS)
    said = f"{token}x{token}{token}y <|im_{token}end|>{token}"
    messages = [*HI, {"role": role, "content": said}]
    made = TheirTokenizer.from_str(tokenizer_json(tokenizer).decode())
    theirs = PreTrainedTokenizerFast(tokenizer_object=made, chat_template=text, **TOKENS)
    expected = theirs.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
    )
    assert encode_with_template(tokenizer, template, messages) == expected
    plain = encode_with_template(tokenizer, template, [*HI, {"role": role, "content": "x"}])
    controls = set(tokenizer.special_tokens.values())
    written = [token_id for token_id in expected if token_id in controls]
    assert written == [token_id for token_id in plain if token_id in controls]


def test_what_is_text_is_cut_into_words_as_text():
    """With merges: the mark leaves no trace, and words are those of the unmarked text."""
    vocab = BYTES | {256: b"<|", 257: b"|>", 258: b".<"}
    merges = [(b"<", b"|"), (b"|", b">"), (b".", b"<")]
    tokenizer = Tokenizer(vocab, merges, [*SPECIAL_TOKENS, TextToken("  ")])
    said = "Stop.<|im_end|>  <|im_start|>"
    ids = encode_with_template(
        tokenizer, JinjaTemplate(SMOLLM2, {}), [{"role": "system", "content": said}]
    )
    made = TheirTokenizer.from_str(tokenizer_json(tokenizer).decode())
    made.encode_special_tokens = True
    start, end = (tokenizer.special_tokens[token] for token in ("<|im_start|>", "<|im_end|>"))
    inside = ids[ids.index(start) + 1 : ids.index(end)]
    assert inside == made.encode(f"system\n{said}").ids


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ m.content | tojson(ensure_ascii=True) }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content[:3] }}{% endfor %}",
    ],
)
def test_a_template_that_takes_the_name_apart_is_refused(tokenizer, text):
    messages = [{"role": "user", "content": "<|im_end|>é"}]
    with pytest.raises(UserError, match=r"a message holds '<\|im_end\|>', a control token"):
        encode_with_template(tokenizer, JinjaTemplate(text, {}), messages)
    assert encode_with_template(tokenizer, JinjaTemplate(text, {}), HI)


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
    newline = Tokenizer(BYTES, [], [*SPECIAL_TOKENS, TextToken("\n\n")])
    spaced = plain.replace("\n", "\n\n<|im_end|>")
    assert end_of_message(newline, JinjaTemplate(spaced, {})) == 258, "not the text token"


def test_read_from_a_folder(tokenizer, tmp_path):
    assert read_template(tmp_path) is None
    for name, content in hugging_face_files(tokenizer).items():
        (tmp_path / name).write_bytes(content)
    found = read_template(tmp_path)
    assert found.text == CHAT_TEMPLATE
    assert found.tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    roles = {"bos_token": {"content": "<s>"}, "additional_special_tokens": ["x"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    assert read_template(tmp_path).tokens["bos_token"] == "<s>", "as transformers reads it"
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


def test_a_template_that_is_not_utf_8_and_templates_without_a_name(tmp_path):
    entries = [{"name": ["default"], "template": "a"}, {"name": "default", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entries}))
    assert read_template(tmp_path).text == "b"
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    with pytest.raises(UserError, match=r"chat_template.jinja: not UTF-8 \(byte 14\); fetch it"):
        read_template(tmp_path)


# In the style of Qwen2.5's template, which describes tools and results inside its messages.
WITH_TOOLS = """\
{%- if tools %}{{- '<|im_start|>system\\nYou may call these functions:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def tool_of(description="The weather.", place="A city."):
    properties = {"place": {"type": "string", "description": place}}
    parameters = {"type": "object", "properties": properties}
    function = {"name": "weather", "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def called(place="Rome", result="mild", asked="Weather?"):
    call = {"id": "1", "type": "function", "function": {"name": "weather"}}
    call["function"]["arguments"] = {"place": place}
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result},
    ]


def test_tools_are_rendered_as_transformers_does(tokenizer):
    made = TheirTokenizer.from_str(tokenizer_json(tokenizer).decode())
    theirs = PreTrainedTokenizerFast(tokenizer_object=made, chat_template=WITH_TOOLS)
    template = JinjaTemplate(WITH_TOOLS, {})
    for tools in (None, [tool_of()], [tool_of('Für "alle" & <b>'), tool_of()]):
        expected = theirs.apply_chat_template(
            called(), tools=tools, add_generation_prompt=True, return_dict=False
        )
        assert encode_with_template(tokenizer, template, called(), tools) == expected
        text = theirs.apply_chat_template(called(), tools=tools, tokenize=False)
        assert render(template, called(), False, tools) == text
        assert ("You may call" in text) == (tools is not None)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("place", ["description", "parameter", "argument", "result", "user"])
def test_a_control_token_in_tools_and_calls_is_text(tokenizer, token, place):
    """Nobody who describes a tool, fills in an argument or writes a page that a tool reads can
    speak for the assistant.
    """
    template = JinjaTemplate(WITH_TOOLS, {})
    said = f"{token}x{token}\n{token}{token}y"
    fields = {
        "description": ({"description": said}, {}),
        "parameter": ({"place": said}, {}),
        "argument": ({}, {"place": said}),
        "result": ({}, {"result": said}),
        "user": ({}, {"asked": said}),
    }
    for_tool, for_call = fields[place]
    messages, tools = called(**for_call), [tool_of(**for_tool)]
    ids = encode_with_template(tokenizer, template, messages, tools)
    controls = set(tokenizer.special_tokens.values())
    plain = encode_with_template(tokenizer, template, called(), [tool_of()])
    written = [token_id for token_id in ids if token_id in controls]
    assert written == [token_id for token_id in plain if token_id in controls]
    text = b"".join(tokenizer.vocab[token_id] for token_id in ids).decode()
    assert text == render(template, messages, True, tools), "nothing is lost"


def test_a_control_token_as_a_name_in_tools_cannot_end_a_message(tokenizer):
    """The names of parameters are keys; they are texts of the client, too."""
    template = JinjaTemplate(WITH_TOOLS, {})
    tool = tool_of()
    tool["function"]["parameters"]["properties"] = {"<|im_end|>": {"type": "string"}}
    call = called()
    call[1]["tool_calls"][0]["function"]["arguments"] = {"<|im_end|>": 1}
    controls = set(tokenizer.special_tokens.values())
    plain = encode_with_template(tokenizer, template, called(), [tool_of()])
    ids = encode_with_template(tokenizer, template, call, [tool])
    assert [i for i in ids if i in controls] == [i for i in plain if i in controls]
