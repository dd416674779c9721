"""Every wrong request gets a status, one sentence that names the field, and OpenAI's JSON."""

import json
import re

import pytest

TEXT, CHAT, EMBED = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
USER = [{"role": "user", "content": "say Hi"}]


def error_of(response, status):
    """The error of a response in OpenAI's form."""
    assert response.status_code == status, response.text
    assert "Traceback" not in response.text and "\\n" not in response.text
    body = response.json()
    assert list(body) == ["error"] and list(body["error"]) == ["message", "type", "param", "code"]
    assert len(body["error"]["message"]) < 400
    return body["error"]


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


TOOL = {"type": "function", "function": {"name": "f"}}
WRONG = [
    (TEXT, {"echo": True}, "echo"),
    (TEXT, {"suffix": "x"}, "the field suffix is not supported"),
    (TEXT, {"best_of": 2}, "the field best_of is not supported"),
    (TEXT, {"temprature": 1}, "the field temprature is not supported"),
    (TEXT, {"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage"),
    (TEXT, {"stream_options": {"include_usage": True}}, "stream_options needs stream"),
    (TEXT, {"temperature": -1}, "temperature: should be greater than or equal to 0, got -1"),
    (TEXT, {"temperature": "1"}, "temperature: should be a valid number, got '1'"),
    (TEXT, {"temperature": float("nan")}, "temperature: .* got nan"),
    (TEXT, {"temperature": float("inf")}, "temperature: .* got inf"),
    (TEXT, {"temperature": True}, "temperature"),
    (TEXT, {"top_p": 0}, "top_p"),
    (TEXT, {"top_k": -1}, "top_k"),
    (TEXT, {"repetition_penalty": 0}, "repetition_penalty"),
    (TEXT, {"presence_penalty": 2.5}, "presence_penalty"),
    (TEXT, {"max_tokens": 0}, "max_tokens"),
    (TEXT, {"max_tokens": "5"}, "max_tokens: should be a valid integer, got '5'"),
    (TEXT, {"max_tokens": 1.5}, "max_tokens"),
    (TEXT, {"n": 0}, "n: "),
    (TEXT, {"n": 65}, "n: should be less than or equal to 64"),
    (TEXT, {"n": 64, "prompt": ["a"] * 3}, "n: 3 prompts with n = 64 ask for 192 answers"),
    (TEXT, {"seed": -1}, "seed"),
    (TEXT, {"seed": 2**63}, "seed"),
    (TEXT, {"logprobs": True}, "logprobs"),
    (TEXT, {"logprobs": 21}, "logprobs"),
    (TEXT, {"stop": ["a"] * 10_000}, "stop: list should have at most 16 items, not 10000, got"),
    (TEXT, {"stop": ""}, "stop: string should have at least 1 character"),
    (TEXT, {"stop": [1]}, "stop.0: should be a valid string, got 1"),
    (TEXT, {"stop": "x" * 1001}, "stop: string should have at most 1000"),
    (TEXT, {"logit_bias": {"x": 1}}, "logit_bias: 'x' is not a token id"),
    (TEXT, {"logit_bias": {"-1": 1}}, "logit_bias: '-1' is not a token id"),
    (TEXT, {"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    (TEXT, {"logit_bias": {"٣": 1}}, "logit_bias"),
    (TEXT, {"logit_bias": {"259": 1}}, "logit_bias: the token id 259 is not in the vocabulary"),
    (TEXT, {"logit_bias": {"1": 101}}, "logit_bias.1: should be less than or equal to 100"),
    (TEXT, {"prompt": []}, "prompt: list should have at least 1 item"),
    (TEXT, {"prompt": [[]]}, "prompt.0: list should have at least 1 item"),
    (TEXT, {"prompt": None}, "the field prompt is missing"),
    (TEXT, {"prompt": 7}, "prompt: .* got 7"),
    (TEXT, {"prompt": [1, "a"]}, "prompt.1"),
    (TEXT, {"prompt": [-1]}, "prompt.0: should be greater than or equal to 0, got -1"),
    (TEXT, {"prompt": [5, 259]}, "prompt: the token id 259 is not in the vocabulary of 259"),
    (TEXT, {"prompt": [[5], [2**70]]}, "prompt"),
    (TEXT, {"prompt": "x" * 1025}, "the prompt has 1025 tokens, the model's context holds 1024"),
    (TEXT, {"prompt": "\ud800"}, "half of a surrogate pair"),
    (TEXT, {"\ud800": 1}, "not supported|JSON object"),
    (CHAT, {"messages": []}, "messages: list should have at least 1 item"),
    (CHAT, {"messages": None}, "the field messages is missing"),
    (CHAT, {"messages": "Hi"}, "messages: should be a valid list"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content: missing"),
    (CHAT, {"messages": [{"content": "x"}]}, "the field messages.0.role is missing"),
    (CHAT, {"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role: should be 'system'"),
    (CHAT, {"messages": [*USER, {"role": "user", "content": 5}]}, "messages.1.content"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "audio": 1}]}, "messages.0.audio"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
        "messages.0.content.0.type: should be 'text', got 'image_url'",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": "x" * 1025}]},
        "the prompt has 10[0-9]+ tokens",
    ),
    (CHAT, {"logprobs": 2}, "logprobs: should be a valid boolean"),
    (CHAT, {"top_logprobs": 2}, "top_logprobs needs logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens and max_completion_tokens"),
    (CHAT, {"functions": []}, "the field functions is not supported"),
    (CHAT, {"response_format": {"type": "xml"}}, "response_format.type: should be 'text'"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format: the type json_schema"),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema is missing",
    ),
    (CHAT, {"tool_choice": "required"}, "tool_choice: required needs tools"),
    (CHAT, {"tools": [TOOL, TOOL]}, "tools: two of them have the same name"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    (CHAT, {"tools": [{"type": "retrieval"}]}, "tools.0.type"),
    (
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice: no tool is named 'g'",
    ),
    (CHAT, {"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls: false needs"),
    (CHAT, {"tools": [TOOL]}, "the model's chat template has no place for tools"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
    (EMBED, {"input": []}, "input"),
    (EMBED, {"input": "x" * 1025}, "the prompt has 1025 tokens"),
    (EMBED, {"encoding_format": "hex"}, "encoding_format"),
    (EMBED, {"dimensions": 3}, "the field dimensions is not supported"),
    ("/tokenize", {"prompt": None}, "give either prompt or messages"),
]


@pytest.mark.parametrize(("path", "fields", "words"), WRONG, ids=range(len(WRONG)))
def test_wrong_fields_are_named(scripted, path, fields, words):
    good = {TEXT: {"prompt": "x"}, CHAT: {"messages": USER}, EMBED: {"input": "x"}}
    # With json.dumps, not the client's encoder, which refuses NaN and halves of characters.
    body = json.dumps({**good.get(path, {}), **fields}).encode()
    headers = {"Content-Type": "application/json"}
    error = error_of(scripted.client.post(path, content=body, headers=headers), 400)
    assert error["type"] == "invalid_request_error"
    assert re.search(words, error["message"]), error["message"]
    if error["message"].startswith("the prompt has"):
        assert error["code"] == "context_length_exceeded"


def test_the_parameter_is_named_for_programs(scripted):
    for fields, name in (({"n": 0}, "n"), ({"suffix": "x"}, "suffix"), ({"prompt": 1}, "prompt")):
        assert error_of(scripted.post(TEXT, **{"prompt": "x", **fields}), 400)["param"] == name


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "missing|JSON object"),
        (b"{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b'"text"', "JSON object"),
        (b"null", "missing|JSON object"),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
        (b'{"prompt": ' + b"9" * 5000 + b"}", ""),
        (b'{"prompt": ' + b'{"a":' * 900 + b"1" + b"}" * 901, "prompt"),
    ],
)
@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_bodies_that_are_no_request(scripted, path, body, words):
    headers = {"Content-Type": "application/json"}
    error = error_of(scripted.client.post(path, content=body, headers=headers), 400)
    if path == TEXT:
        assert re.search(words, error["message"]), error["message"]


def test_a_body_without_its_type_is_explained(scripted):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = scripted.client.post(TEXT, content=b'{"prompt": "x"}', headers=headers)
    assert "Content-Type: application/json" in error_of(response, 400)["message"]


@pytest.mark.parametrize("depth", [30, 200, 900])
def test_deep_descriptions_do_not_break_the_server(with_tools, depth):
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(depth)}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": nested(depth)}}
    for fields in ({"tools": [tool]}, {"tools": [tool], "tool_choice": "required"},
                   {"response_format": wanted}):  # fmt: skip
        response = with_tools.post(CHAT, messages=USER, max_tokens=2, **fields)
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            error_of(response, 400)
    assert with_tools.complete("say Hi=>")["choices"][0]["text"] == "Hi"


def test_half_a_character_in_a_description_is_refused(with_tools):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": "\ud800"}}}
    body = json.dumps({"messages": USER, "tools": [tool]}).encode()
    headers = {"Content-Type": "application/json"}
    error_of(with_tools.client.post(CHAT, content=body, headers=headers), 400)


def test_other_models_paths_and_methods(scripted):
    for path, fields in (
        (TEXT, {"prompt": "x"}),
        (CHAT, {"messages": USER}),
        (EMBED, {"input": "x"}),
    ):
        error = error_of(scripted.post(path, model="gpt-4", **fields), 404)
        assert "'gpt-4' is not served here; this server has 'tiny'" in error["message"]
        assert error["code"] == "model_not_found"
        assert scripted.post(path, model="tiny", **fields).status_code == 200
    error_of(scripted.client.get("/v1/models/gpt-4"), 404)
    assert scripted.client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert [each["id"] for each in scripted.client.get("/v1/models").json()["data"]] == ["tiny"]
    assert "/v2/x" in error_of(scripted.post("/v2/x"), 404)["message"]
    response = scripted.client.get(TEXT)
    assert "GET" in error_of(response, 405)["message"]
    assert response.headers["allow"] == "POST"


def test_an_error_of_our_own_is_not_shown(scripted, monkeypatch):
    model = scripted.answerer.model

    def fail(*given):
        raise KeyError("a secret")

    monkeypatch.setattr(model, "sampling", fail)
    error = error_of(scripted.post(TEXT, prompt="x"), 500)
    assert "secret" not in error["message"] and "KeyError" in error["message"]
    assert error["type"] == "server_error"
