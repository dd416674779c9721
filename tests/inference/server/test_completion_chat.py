"""/v1/chat/completions: messages, log-probabilities, and calls of tools."""

import json

import pytest

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Kraków"}}\n</tool_call>'
SECOND = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'


def deltas(events):
    return [event["choices"][0]["delta"] for event in events if event["choices"]]


def content(events):
    return "".join(delta.get("content") or "" for delta in deltas(events))


def calls_of(message):
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or []
    ]


def test_whole_and_streamed_answers_are_the_same(scripted):
    whole = scripted.chat("say Guten Tag, Zoë!")
    [choice] = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Guten Tag, Zoë!"}
    assert choice["finish_reason"] == "stop" and whole["object"] == "chat.completion"
    events = scripted.chat_events("say Guten Tag, Zoë!", stream_options={"include_usage": True})
    assert deltas(events)[0] == {"role": "assistant", "content": ""}
    assert deltas(events)[-1] == {}
    assert content(events) == choice["message"]["content"]
    reasons = [event["choices"][0]["finish_reason"] for event in events[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert all(event["object"] == "chat.completion.chunk" for event in events)
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == len("Guten Tag, Zoë!".encode())
    messages = [{"role": "user", "content": "say Guten Tag, Zoë!"}]
    counted = scripted.post("/tokenize", messages=messages).json()
    assert whole["usage"]["prompt_tokens"] == counted["count"]


def test_the_last_message_is_answered(scripted):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "say one"},
        {"role": "assistant", "content": "one"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "say "}, {"type": "text", "text": "two"}],
        },
    ]
    answer = scripted.post("/v1/chat/completions", messages=messages).json()
    assert answer["choices"][0]["message"]["content"] == "two"


def test_log_probabilities(random_model):
    fields = {"max_tokens": 20, "seed": 3, "logprobs": True, "top_logprobs": 4}
    [choice] = random_model.chat("Hi", **fields)["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 20
    written = bytes(byte for entry in entries for byte in entry["bytes"])
    assert written.decode(errors="replace") == choice["message"]["content"]
    for entry in entries:
        best = entry["top_logprobs"]
        assert len(best) == 4
        assert sorted(best, key=lambda each: -each["logprob"]) == best
        own = [each for each in best if each["bytes"] == entry["bytes"]]
        assert not own or own[0]["logprob"] == entry["logprob"]
        assert best[0]["logprob"] >= entry["logprob"]
    events = random_model.chat_events("Hi", **fields)
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert [entry for part in parts if part for entry in part["content"]] == entries
    fields = {"max_tokens": 4, "seed": 3, "logprobs": True}
    [choice] = random_model.chat("Hi", **fields)["choices"]
    assert [entry["top_logprobs"] for entry in choice["logprobs"]["content"]] == [[]] * 4


def test_a_stop_string_ends_a_chat(scripted):
    fields = {"stop": ["#", ", E"], "logprobs": True}
    [choice] = scripted.chat("say one, END", **fields)["choices"]
    assert choice["message"]["content"] == "one" and choice["finish_reason"] == "stop"
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["o", "n", "e"]
    events = scripted.chat_events("say one, END", **fields)
    assert content(events) == "one"
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert [each["token"] for part in parts if part for each in part["content"]] == ["o", "n", "e"]


def test_samples_are_numbered(scripted):
    choices = scripted.chat("say \1\1\1\1", n=4, seed=2)["choices"]
    found = {choice["index"]: choice["message"]["content"] for choice in choices}
    assert list(found) == [0, 1, 2, 3] and len(set(found.values())) == 4
    events = scripted.chat_events("say \1\1\1\1", n=4, seed=2)
    for index, text in found.items():
        own = [event for event in events if event["choices"][0]["index"] == index]
        assert content(own) == text
        assert deltas(own)[0]["role"] == "assistant"


@pytest.mark.parametrize(
    ("said", "text", "calls"),
    [
        (CALL, None, [("weather", {"place": "Kraków"})]),
        (f"I look. {CALL}", "I look. ", [("weather", {"place": "Kraków"})]),
        (CALL + SECOND, None, [("weather", {"place": "Kraków"}), ("clock", {})]),
        ("a <tool_cal> b", "a <tool_cal> b", []),
        ("<tool_call>{broken}</tool_call>", "<tool_call>{broken}</tool_call>", []),
        ('<tool_call>{"name": "weather"', '<tool_call>{"name": "weather"', []),
        ("only text", "only text", []),
    ],
)
def test_calls_are_taken_out_of_the_text(with_tools, said, text, calls):
    [choice] = with_tools.chat(f"say {said}", tools=TOOLS)["choices"]
    message = choice["message"]
    assert message["content"] == text
    assert calls_of(message) == calls
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    assert len({call["id"] for call in message.get("tool_calls") or []}) == len(calls)
    events = with_tools.chat_events(f"say {said}", tools=TOOLS)
    assert content(events) == (text or "")
    streamed = [call for delta in deltas(events) for call in delta.get("tool_calls", [])]
    assert [call["index"] for call in streamed] == list(range(len(calls)))
    assert calls_of({"tool_calls": streamed}) == calls
    assert all(call["id"] and call["type"] == "function" for call in streamed)
    assert events[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_without_tools_a_call_is_text(with_tools):
    for fields in ({}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}):
        [choice] = with_tools.chat(f"say {CALL}", **fields)["choices"]
        assert choice["message"] == {"role": "assistant", "content": CALL}
        assert choice["finish_reason"] == "stop"


def test_a_call_that_the_limit_cuts_is_text_and_ends_by_length(with_tools):
    [choice] = with_tools.chat(f"say {CALL}", tools=TOOLS, max_tokens=20)["choices"]
    assert choice["message"]["content"] == CALL[:20] and choice["finish_reason"] == "length"


def prompt_of(served, **fields):
    """The prompt as the model reads it."""
    seen = []
    submit = served.engine.submit
    served.engine.submit = lambda *args, **f: seen.append(f["prompt_ids"]) or submit(*args, **f)
    try:
        response = served.post("/v1/chat/completions", max_tokens=1, **fields)
    finally:
        del served.engine.submit
    assert response.status_code == 200, response.text
    return b"".join(served.tokenizer.vocab[i] for i in seen[0]).decode()


def test_the_template_describes_the_tools(with_tools):
    messages = [{"role": "user", "content": "Hi"}]
    described = prompt_of(with_tools, messages=messages, tools=TOOLS)
    assert f"functions:\n{json.dumps(WEATHER)}\n{json.dumps(CLOCK)}<|im_end|>" in described
    unused = prompt_of(with_tools, messages=messages, tools=TOOLS, tool_choice="none")
    assert "functions" not in unused
    one = {"type": "function", "function": {"name": "clock"}}
    assert "weather" in prompt_of(with_tools, messages=messages, tools=TOOLS, tool_choice=one)


def test_a_conversation_with_a_call_and_its_result(with_tools):
    """The client sends back what it got."""
    asked = [{"role": "user", "content": f"say {CALL}"}]
    [choice] = with_tools.chat(asked[0]["content"], tools=TOOLS)["choices"]
    [call] = choice["message"]["tool_calls"]
    messages = [
        *asked,
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "say 21 degrees"},
    ]
    prompt = prompt_of(with_tools, messages=messages, tools=TOOLS)
    assert prompt.count(f"{CALL}<|im_end|>") == 2, "the order to say it, and the call"
    assert "<|im_start|>tool\nsay 21 degrees<|im_end|>" in prompt
    fields = {"messages": messages, "tools": TOOLS}
    answer = with_tools.post("/v1/chat/completions", **fields).json()
    assert answer["choices"][0]["message"]["content"] == "21 degrees"


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ('{"place":"Kraków"}', '{"place": "Kraków"}'),
        ("{}", "{}"),
        ("{broken", '"{broken"'),
        ("[1]", '"[1]"'),
    ],
)
def test_templates_get_the_arguments_of_earlier_calls_as_an_object(with_tools, sent, written):
    """In the API they are text. What is not an object stays text."""
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": sent}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "mild"},
    ]
    prompt = prompt_of(with_tools, messages=messages)
    assert f'{{"name": "weather", "arguments": {written}}}\n</tool_call><|im_end|>' in prompt


@pytest.fixture(scope="module")
def random_with_tools(serve_module):
    return serve_module(model="markov", template=True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "clock"}}]
)
def test_a_call_can_be_enforced(random_with_tools, choice, streamed):
    """A random model writes a call, and nothing else."""
    served = random_with_tools
    place = {"type": "string", "enum": ["Rome", "Oslo"]}
    exact = {"type": "object", "properties": {"place": place}, "required": ["place"],
             "additionalProperties": False}  # fmt: skip
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": exact}},
        {"type": "function", "function": {"name": "clock", "parameters": empty}},
    ]
    found = set()
    for seed in range(3):
        fields = {"tools": tools, "tool_choice": choice, "seed": seed, "temperature": 1.5}
        fields["parallel_tool_calls"] = False
        if streamed:
            events = served.chat_events("Hi", **fields)
            assert content(events) == ""
            [call] = [call for delta in deltas(events) for call in delta.get("tool_calls", [])]
            reason = events[-1]["choices"][0]["finish_reason"]
        else:
            [answer] = served.chat("Hi", **fields)["choices"]
            assert answer["message"]["content"] is None
            [call], reason = answer["message"]["tool_calls"], answer["finish_reason"]
        assert reason == "tool_calls"
        arguments = json.loads(call["function"]["arguments"])
        name = call["function"]["name"]
        assert (arguments == {}) if name == "clock" else (arguments["place"] in ("Rome", "Oslo"))
        found.add(name)
    assert found == ({"weather", "clock"} if choice == "required" else {"clock"})


def test_a_call_can_be_enforced_where_the_template_lists_no_tools(random_model):
    tool = {"type": "function", "function": {"name": "clock"}}
    [answer] = random_model.chat("Hi", tools=[tool], tool_choice="required", seed=1)["choices"]
    [call] = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "clock"
