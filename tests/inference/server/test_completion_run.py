"""Requests side by side: limits, clients that go away, and nobody reads another's answer."""

import asyncio
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from inference.engine.batch_requests import BatchSettings
from inference.server.app import ServerSettings

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
WAIT = 30


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as made:
        yield made


def request_of(**fields):
    body = json.dumps(fields).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(served):
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


@pytest.fixture(scope="module")
def small(serve_module):
    """Room for one running request and three waiting ones."""
    return serve_module(
        batch=BatchSettings(max_running=1, cache_tokens=512), limits=ServerSettings(max_requests=4)
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_refuses(small, pool, stream):
    with small.gate("say slow=>") as gate:
        running = [pool.submit(small.complete, "say slow=>") for _ in range(2)]
        assert gate.reached.wait(WAIT)
        running.append(pool.submit(small.complete, "say slow=>", n=2))
        small.wait_until(lambda: small.thread.num_requests == 4)
        response = small.post(TEXT, prompt="say x=>", stream=stream)
        assert response.status_code == 429
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert int(response.headers["retry-after"]) >= 1
        assert small.client.get("/health").status_code == 200
        gate.opened.set()
        for each in running:
            assert each.result(WAIT)["choices"][0]["text"] == "slow"
    small.wait_until(lambda: small.is_idle)
    assert small.complete("say x=>")["choices"][0]["text"] == "x"
    response = small.post(TEXT, prompt="say x=>", n=5)
    assert response.status_code == 400, "five can never be answered, so trying again does not help"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["queue", "prompt", "answer"])
def test_a_client_that_goes_away_frees_its_blocks(small, pool, stream, place):
    """While it waits for its turn, for its first token, or for the rest."""
    mine = f"say {place} mine=>"
    held = {"queue": "say first=>", "prompt": mine, "answer": f"{mine}{place}"}[place]
    with small.gate(held) as gate:
        if place == "queue":
            first = pool.submit(small.complete, "say first=>")
            assert gate.reached.wait(WAIT)
        with connect(small) as client:
            client.sendall(request_of(prompt=mine, stream=stream))
            if place != "queue":
                assert gate.reached.wait(WAIT)
            small.wait_until(lambda: small.thread.num_requests == 1 + (place == "queue"))
            other = pool.submit(small.complete, "say other=>")
            small.wait_until(lambda: small.thread.num_requests == 2 + (place == "queue"))
        small.wait_until(lambda: small.thread.num_requests == 1 + (place == "queue"))
        steps = small.forward.num_steps
        gate.opened.set()
        assert other.result(WAIT)["choices"][0]["text"] == "other"
        if place == "queue":
            assert first.result(WAIT)["choices"][0]["text"] == "first"
    longest = len("first" if place == "queue" else "") + len("other") + 2
    assert small.forward.num_steps - steps <= longest + 2, "none for the client that is gone"
    small.wait_until(lambda: small.is_idle)


def test_a_client_that_does_not_read_stops_nobody(small, pool):
    fields = {"prompt": f"say {'slow ' * 12}=>", "max_tokens": 300, "stream": True}
    with connect(small) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.sendall(request_of(**fields))
        assert client.recv(1) == b"H"
        assert small.complete("say quick=>")["choices"][0]["text"] == "quick"
        read = b""
        while b"[DONE]" not in read:
            read += client.recv(1 << 16)
    small.wait_until(lambda: small.is_idle)


@pytest.mark.parametrize("n", [1, 3])
def test_the_time_limit(serve, n):
    served = serve(limits=ServerSettings(time_limit_seconds=0.1))
    with served.gate("say abc=>") as gate:
        response = served.post(TEXT, prompt="say abc=>", n=n)
        assert response.status_code == 504
        assert "time limit" in response.json()["error"]["message"]
        response = served.post(TEXT, prompt="say abc=>", n=n, stream=True)
        assert response.status_code == 504, "nothing has been sent"
        gate.opened.set()
    served.answerer.time_limit = 2.0  # enough for the first tokens
    with served.gate("say abc=>ab") as gate:
        response = served.post(TEXT, prompt="say abc=>", n=n, stream=True, seed=1)
        assert response.status_code == 200
        *_, last, end = response.text.split("\n\n")
        error = json.loads(last.removeprefix("data: "))["error"]
        assert "time limit" in error["message"] and end == ""
        assert "[DONE]" not in response.text
        gate.opened.set()
    served.wait_until(lambda: served.is_idle)


def test_an_engine_that_fails_leaves_nobody_waiting(serve, pool):
    served = serve(batch=BatchSettings(max_running=2))
    with served.gate("say abc=>a") as gate:
        whole = pool.submit(served.post, TEXT, prompt="say abc=>")
        streamed = pool.submit(served.post, TEXT, prompt="say abc=>", stream=True)
        assert gate.reached.wait(WAIT)  # the engine stands still: none of these can be answered
        waiting = [pool.submit(served.post, TEXT, prompt="say d=>") for _ in range(3)]
        embedded = pool.submit(served.post, "/v1/embeddings", input="x")
        served.wait_until(lambda: served.thread.num_requests >= 1)
        assert served.client.get("/health").status_code == 200
        served.forward.error = RuntimeError("out of memory: secret")
        gate.opened.set()
        responses = [each.result(WAIT) for each in (whole, streamed, *waiting, embedded)]
    for response in responses:
        assert "secret" not in response.text
        if response.status_code == 200:  # it had begun, or the embedding was before the failure
            assert response is responses[-1] or "error" in response.text.split("\n\n")[-2]
        else:
            assert response.status_code == 503
            assert "the engine has failed" in response.json()["error"]["message"]
    assert responses[0].status_code == 503
    assert served.client.get("/health").status_code == 503
    assert served.post(TEXT, prompt="say x=>").status_code == 503
    assert served.post("/v1/embeddings", input="x").status_code == 503
    assert served.thread.num_requests == 0


def test_nobody_reads_the_answer_of_another(serve):
    """64 clients, half of them streaming, some of them hanging up; the cache holds a few of them at
    a time, so requests are preempted and blocks change hands.
    """
    served = serve(
        batch=BatchSettings(max_running=12, cache_tokens=480, block_size=8, max_tokens_per_step=64)
    )
    draw = random.Random(1)
    secrets = [f"{number}-{draw.randbytes(4).hex()}" for number in range(64)]

    async def ask(client, number):
        fields = {"prompt": f"{'x' * (number % 7)}say {secrets[number]}=>", "n": 1 + number % 2}
        if number % 2 == 0:
            response = await client.post(TEXT, json=fields)
            return [choice["text"] for choice in response.json()["choices"]]
        texts = {}
        async with client.stream("POST", TEXT, json={**fields, "stream": True}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    [choice] = json.loads(line[6:])["choices"]
                    texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
                    if number % 8 == 1 and len(texts[choice["index"]]) > 3:
                        break  # hangs up
        return list(texts.values())

    async def ask_all():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(
            base_url=served.url, timeout=60, limits=limits, trust_env=False
        ) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(64)))

    for number, texts in enumerate(asyncio.run(ask_all())):
        if number % 8 == 1:
            assert all(secrets[number].startswith(text) for text in texts)
        else:
            assert texts == [secrets[number]] * (1 + number % 2)
    served.wait_until(lambda: served.is_idle)
