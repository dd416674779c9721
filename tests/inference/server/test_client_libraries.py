"""The clients that people use: openai's, and LangChain's on top of it."""

import asyncio
import json
import warnings

import openai
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_openai import ChatOpenAI

SAY = [{"role": "user", "content": "say Hello, wörld"}]
CALL = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["age", "ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def random_with_tools(serve_module):
    return serve_module(model="markov", template=True)


def client_of(served, kind=openai.OpenAI):
    return kind(base_url=f"{served.url}/v1", api_key="x", max_retries=0)


@pytest.fixture
def client(with_tools):
    with client_of(with_tools) as made:
        yield made


def test_openai(client, random_with_tools):
    assert [model.id for model in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(model="tiny", messages=SAY, logprobs=True, n=2)
    assert [choice.message.content for choice in answer.choices] == ["Hello, wörld"] * 2
    assert answer.choices[0].logprobs.content[0].token == "H"
    stream = client.chat.completions.create(
        model="tiny", messages=SAY, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, wörld"
    assert last.usage == answer.usage.model_copy(
        update={
            "completion_tokens": len("Hello, wörld".encode()),
            "total_tokens": answer.usage.prompt_tokens + len("Hello, wörld".encode()),
        }
    )
    text = client.completions.create(model="tiny", prompt=["say a=>", "say b=>"], logprobs=1)
    assert [choice.text for choice in text.choices] == ["a", "b"]
    stream = client.completions.create(model="tiny", prompt="say abc=>", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "abc"
    vectors = client.embeddings.create(model="tiny", input=["a", "b"])  # asks for base64
    assert len(vectors.data[1].embedding) == 32
    assert isinstance(vectors.data[0].embedding[0], float)


def test_openai_asynchronously(with_tools):
    async def ask():
        async with client_of(with_tools, openai.AsyncOpenAI) as client:
            asked = [
                client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": f"say {number}"}]
                )
                for number in range(5)
            ]
            answers = await asyncio.gather(*asked)
            stream = await client.chat.completions.create(model="tiny", messages=SAY, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return [answer.choices[0].message.content for answer in answers], "".join(pieces)

    assert asyncio.run(ask()) == (["0", "1", "2", "3", "4"], "Hello, wörld")


def test_openai_understands_the_errors(client):
    for fields, kind, words in (
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"model": "gpt-4"}, openai.NotFoundError, "not served here"),
        ({"extra_body": {"foo": 1}}, openai.BadRequestError, "foo is not supported"),
    ):
        with pytest.raises(kind, match=words) as error:
            client.chat.completions.create(**{"model": "tiny", "messages": SAY, **fields})
        assert error.value.body["message"] in str(error.value)


def test_openai_sees_an_error_in_the_middle_of_a_stream(serve):
    served = serve()
    with served.gate("assistant\nab") as gate, client_of(served) as client:
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "say abc"}], stream=True
        )
        assert gate.reached.wait(30)
        served.forward.error = RuntimeError()
        gate.opened.set()
        with pytest.raises(openai.APIError, match="the engine has failed"):
            list(stream)


def test_openai_calls_a_function_and_sends_the_result(client):
    messages = [{"role": "user", "content": f"say {CALL}"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=[ADD])
    message = answer.choices[0].message
    [call] = message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    result = str(sum(json.loads(call.function.arguments).values()))
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": f"say {result}"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=[ADD])
    assert answer.choices[0].message.content == "5"


@pytest.mark.parametrize("kind", ["schema", "object"])
def test_json_by_a_schema(random_with_tools, kind):
    """A random model writes JSON, or the limit cuts it."""
    form = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": PERSON, "strict": True},
    }
    form = form if kind == "schema" else {"type": "json_object"}
    ended = 0
    for seed in range(4):
        answer = random_with_tools.chat(
            "Hi", response_format=form, seed=seed, max_tokens=150, temperature=1.5
        )
        [choice] = answer["choices"]
        assert choice["message"]["content"].lstrip()[:1] in ("{", "")
        if choice["finish_reason"] == "stop":
            ended += 1
            found = json.loads(choice["message"]["content"])
            assert isinstance(found, dict)
            assert kind == "object" or (set(found) == {"age", "ok"} and 0 <= found["age"] <= 99)
    assert ended >= (3 if kind == "schema" else 0)


def test_a_schema_that_cannot_be_followed(random_with_tools):
    for schema in ({"type": "integer", "minimum": 5, "maximum": 4}, {"type": "x"}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        messages = [{"role": "user", "content": "Hi"}]
        response = random_with_tools.post(
            "/v1/chat/completions", messages=messages, response_format=form
        )
        assert response.status_code == 400
        assert "schema is not supported" in response.json()["error"]["message"]


def test_langchain(with_tools):
    model = ChatOpenAI(base_url=f"{with_tools.url}/v1", api_key="x", model="tiny", max_retries=0)
    answer = model.invoke("say Hello, wörld")
    assert answer.content == "Hello, wörld"
    assert answer.usage_metadata["output_tokens"] == len("Hello, wörld".encode())
    assert "".join(chunk.content for chunk in model.stream("say Hello, wörld")) == "Hello, wörld"
    answer = model.bind_tools([ADD]).invoke(f"say {CALL}")
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 2, "b": 3})
    streamed = None
    for chunk in model.bind_tools([ADD]).stream(f"say {CALL}"):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(c["name"], c["args"]) for c in streamed.tool_calls] == [("add", {"a": 2, "b": 3})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_with_structured_output(random_with_tools, method):
    model = ChatOpenAI(
        base_url=f"{random_with_tools.url}/v1", api_key="x", model="tiny", temperature=1.0, seed=1,
        max_retries=0, max_completion_tokens=400,
    )  # fmt: skip
    schema = {"title": "person", "description": "A person.", **PERSON}
    found = model.with_structured_output(schema, method=method).invoke("Hi")
    assert set(found) == {"age", "ok"} and 0 <= found["age"] <= 99
