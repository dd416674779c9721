"""Questions to the server before the first request of a load test: whether it is there, which model
it has, how long a context is, and how many tokens a word has.

What this leaves out: servers without `/models`; such a server needs --model, and its context length
stays unknown.
"""

from dataclasses import dataclass
from typing import Any

import httpx

from lm_core.user_error import UserError
from lm_course.load_test.load_client import message_of
from lm_course.load_test.request_texts import WORD_LIST, WordCost, body_of

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServedName:
    """A model of the server.

    Attributes:
        name: that requests send.
        context_length: in tokens; None if the server does not say.
    """

    name: str
    context_length: int | None


def http_client(url: str, key: str | None, time_limit: float) -> httpx.AsyncClient:
    """Return a client of any number of connections; raise ValueError if the URL is none."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UserError(f"--url {url}: not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"--url {url}: expected an address such as http://127.0.0.1:8000/v1")
    return httpx.AsyncClient(
        base_url=parsed,
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        timeout=httpx.Timeout(None, connect=time_limit),
        # The proxy of a machine cannot reach that machine's own addresses.
        trust_env=parsed.host not in LOCAL_HOSTS,
    )


async def reach(http: httpx.AsyncClient, method: str, path: str, **given: Any) -> httpx.Response:
    """Return the response; raise ValueError if there is none, or if the key is wrong."""
    url = str(http.base_url).rstrip("/")
    try:
        response = await http.request(method, path, **given)
    except httpx.TransportError as error:
        raise UserError(
            f"{url}: no server answers ({error or type(error).__name__}): start one with "
            "`lm serve`, or name another with --url"
        ) from None
    if response.status_code in (401, 403):
        raise UserError(
            f"{url}: HTTP {response.status_code}{message_of(response)}: give the server's key with "
            "--api-key or LM_API_KEY"
        )
    return response


async def find_model(http: httpx.AsyncClient, asked: str | None) -> ServedName:
    """Return the model to test: the one that was asked for, else the first of the server.

    Raises ValueError if the server is not there, refuses the key or does not have the model.
    """
    url = str(http.base_url).rstrip("/")
    response = await reach(http, "GET", "models")
    try:
        found = response.json() if response.status_code == 200 else None
        served = {entry["id"]: entry for entry in found["data"]} if found else {}
    except (ValueError, TypeError, KeyError):
        served = {}
    if not served:
        if asked is not None and response.status_code in (404, 405):
            return ServedName(asked, None)
        raise UserError(
            f"{url}/models: expected a list of models, got HTTP {response.status_code}: the URL of "
            "OpenAI's API usually ends in /v1"
        )
    name = next(iter(served)) if asked is None else asked
    if name not in served:
        listed = ", ".join(sorted(served)[:10])
        raise UserError(f"--model {asked}: {url} does not serve it; it has {listed}")
    length = served[name].get("max_model_len")
    if length is None:  # llama.cpp names it elsewhere
        length = (served[name].get("meta") or {}).get("n_ctx_train")
    return ServedName(name, length if isinstance(length, int) else None)


async def word_cost(
    http: httpx.AsyncClient, model: str, is_chat: bool, code_word: str | None
) -> WordCost:
    """Return what words cost in tokens, from two short requests; a guess if the server does not
    count. They also warm the server up.

    Raises ValueError if the server refuses such a request.
    """
    counts = []
    for num_words in (1, len(WORD_LIST) // 2):
        body = body_of(" ".join(WORD_LIST[:num_words]), "", is_chat, None, code_word)
        path = "chat/completions" if is_chat else "completions"
        response = await reach(http, "POST", path, json={"model": model, "max_tokens": 1, **body})
        if response.status_code != 200:
            raise UserError(
                f"{http.base_url}{path}: a short first request got HTTP {response.status_code}"
                f"{message_of(response)}"
            )
        try:
            counts.append(int(response.json()["usage"]["prompt_tokens"]))
        except (ValueError, TypeError, KeyError):
            return WordCost()
    per_word = (counts[1] - counts[0]) / (len(WORD_LIST) // 2 - 1)
    return WordCost(per_word, counts[0] - per_word) if per_word > 0 else WordCost()
