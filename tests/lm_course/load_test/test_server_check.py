"""The questions of a load test to a server, and the sentence for each thing that is wrong."""

import json

import httpx
import pytest

from lm_core.user_error import UserError
from lm_course.load_test.request_texts import WORD_LIST
from lm_course.load_test.server_check import ServedName, find_model, http_client, word_cost

MODELS = {"data": [{"id": "a", "max_model_len": 64}, {"id": "b", "meta": {"n_ctx_train": 32}}]}


@pytest.fixture
def ask(fake):
    def ask(function, respond, *given):
        async def work():
            transport = httpx.MockTransport(respond)
            http = httpx.AsyncClient(transport=transport, base_url="http://server/v1")
            return await function(http, *given)

        return fake.run_virtually(work())

    return ask


def test_the_first_model_or_the_one_that_was_asked_for(ask) -> None:
    def respond(request):
        assert request.url == "http://server/v1/models"
        return httpx.Response(200, json=MODELS)

    assert ask(find_model, respond, None) == ServedName("a", 64)
    assert ask(find_model, respond, "b") == ServedName("b", 32)
    with pytest.raises(UserError, match=r"--model c: http://server/v1 does not serve it.* a, b"):
        ask(find_model, respond, "c")


def test_no_server(ask) -> None:
    def respond(request):
        raise httpx.ConnectError("connection refused")

    with pytest.raises(UserError, match=r"http://server/v1: no server answers .*lm serve"):
        ask(find_model, respond, None)


def test_a_wrong_key(ask) -> None:
    error = {"error": {"message": "the API key is missing"}}
    with pytest.raises(UserError, match=r"HTTP 401: the API key is missing: .*--api-key"):
        ask(find_model, lambda request: httpx.Response(401, json=error), None)


@pytest.mark.parametrize(
    "response",
    [
        {"text": "<html>hello"},
        {"json": {"data": []}},
        {"json": {"data": [{"name": "a"}]}},
        {"json": [1]},
        {"json": None},
    ],
)
def test_no_list_of_models(ask, response) -> None:
    with pytest.raises(UserError, match=r"expected a list of models, got HTTP 200.*/v1"):
        ask(find_model, lambda request: httpx.Response(200, **response), None)


def test_a_server_that_has_no_list(ask) -> None:
    assert ask(find_model, lambda request: httpx.Response(404), "x") == ServedName("x", None)
    with pytest.raises(UserError, match="got HTTP 404"):
        ask(find_model, lambda request: httpx.Response(404), None)


@pytest.mark.parametrize("is_chat", [True, False])
def test_the_cost_of_a_word(ask, is_chat) -> None:
    """A server that counts two tokens for each word of the task, and 11 for everything else."""

    def respond(request):
        body = json.loads(request.content)
        assert body["max_tokens"] == 1
        text = body["messages"][0]["content"] if is_chat else body["prompt"]
        count = 11 + 2 * sum(word in WORD_LIST for word in text.partition(": ")[2].split())
        return httpx.Response(200, json={"usage": {"prompt_tokens": count}})

    found = ask(word_cost, respond, "a", is_chat, None)
    assert found.per_word == pytest.approx(2)
    assert found.around == pytest.approx(11)


def test_a_server_that_does_not_count(ask) -> None:
    found = ask(word_cost, lambda request: httpx.Response(200, json={}), "a", True, None)
    assert found.per_word == 1.3


def test_a_first_request_that_is_refused(ask) -> None:
    error = {"error": {"message": "no chat template"}}
    with pytest.raises(UserError, match=r"chat/completions: .* HTTP 400: no chat template"):
        ask(word_cost, lambda request: httpx.Response(400, json=error), "a", True, None)


@pytest.mark.parametrize("url", ["nonsense", "ftp://a/v1", "http://", "http://a:port/v1"])
def test_a_url_that_is_none(url) -> None:
    with pytest.raises(UserError, match=f"--url {url}"):
        http_client(url, None, 1.0)


def test_the_key_and_proxies() -> None:
    client = http_client("http://127.0.0.1:1/v1", "secret", 1.0)
    assert client.headers["Authorization"] == "Bearer secret"
    assert not client.trust_env, "a proxy cannot reach this machine's own addresses"
    assert http_client("http://example.org/v1", None, 1.0).trust_env
