"""A server inside the test, and a clock that jumps to the next event instead of waiting."""

import asyncio
import importlib.util
import json
import selectors
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from lm_course.load_test.load_client import LoadClient

SERVER_FIXTURES = Path(__file__).parents[2] / "inference" / "server" / "conftest.py"


class JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: the time of its loop advances instead."""

    now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits and nobody will wake them"
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def run_virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine whose sleeps take no time, in a loop whose clock says that they did."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


def virtual_now() -> float:
    return asyncio.get_running_loop().time()


def chunk(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}


def usage(prompt: int, answer: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": answer}}


class Events(httpx.AsyncByteStream):
    """A stream of events, each after a delay; notes whether the client closes it early."""

    def __init__(self, events: list[tuple[float, Any]], server: "FakeServer") -> None:
        self.events, self.server, self.is_complete = events, server, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for delay, event in self.events:
            await asyncio.sleep(delay)
            if isinstance(event, Exception):
                raise event
            data = event if isinstance(event, str) else json.dumps(event)
            yield f"data: {data}\n\n".encode()
        self.is_complete = True

    async def aclose(self) -> None:
        if not self.is_complete:
            self.server.closed_early += 1


class FakeServer:
    """Answers by `respond`, which gets the body of a request and its number."""

    def __init__(self, respond: Callable[[dict[str, Any], int], Any]) -> None:
        self.respond, self.bodies, self.closed_early = respond, [], 0
        self.paths: list[str] = []
        self.most_at_once = self.at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        number = len(self.bodies)
        self.paths.append(request.url.path)
        self.bodies.append(json.loads(request.content or b"null"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            found = self.respond(self.bodies[-1], number)
            if isinstance(found, Exception):
                raise found
            if isinstance(found, httpx.Response):
                return found
            first, *rest = found  # the delay before the headers is that of the first event
            await asyncio.sleep(first[0])
            return httpx.Response(200, stream=Events([(0.0, first[1]), *rest], self))
        finally:
            self.at_once -= 1

    def client(self, time_limit: float = 100.0) -> LoadClient:
        transport = httpx.MockTransport(self)
        http = httpx.AsyncClient(transport=transport, base_url="http://server/v1")
        return LoadClient(http, "small", time_limit, virtual_now)


def answer_of(*pieces: str, gap: float = 1.0, prompt: int = 7) -> list[tuple[float, Any]]:
    """A stream: a first event without text, then a piece after each gap."""
    events = [(gap, chunk("")), *((gap, chunk(piece)) for piece in pieces)]
    return [*events, (0.0, chunk("", "stop")), (0.0, usage(prompt, len(pieces))), (0.0, "[DONE]")]


@pytest.fixture(scope="session")
def server_fixtures():
    """The module of fixtures of the tests of the server."""
    spec = importlib.util.spec_from_file_location("server_fixtures_of_load_test", SERVER_FIXTURES)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny_url(server_fixtures):
    """The API of a running server of a model with two layers and random weights."""
    served = server_fixtures.make(model="tiny")
    with server_fixtures.running(served.app) as url:
        yield f"{url}/v1"


@pytest.fixture
def fake():
    """The fake server and what its tests share: importlib mode has no imports between tests."""
    return sys.modules[__name__]
