"""One request of a load test: it is sent, its answer is read piece by piece, all times are noted.

Times are seconds since the level began, by the client's monotonic clock. A piece is an event with
text in it. It may hold several tokens, or a token may show no text, so the number of tokens is the
one that the server states at the end (`usage`), if it does.

What this leaves out: when requests are sent (load_run.py), and what the times mean
(load_report.py).
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from lm_course.load_test.load_plan import PlannedRequest

Outcome = Literal["done", "hung up", "refused", "error", "time limit", "stopped"]
END = "[DONE]"  # the last event
LONGEST_REASON = 100  # characters of an error that are kept
DEFAULT_WAIT = 1.0  # seconds, if a refusal does not say how long to wait


@dataclass
class RequestRecord:
    """The result of one request.

    Attributes:
        level, number: which request this is.
        planned: when it should be sent.
        sent: when it was.
        pieces: when each piece of text came.
        ended: when its last byte was read, or when it failed.
        outcome: "hung up" is the client's own wish, "stopped" is Ctrl-C.
        error: the kind of an error, without anything that differs from request to request.
        retry_after: seconds that a refusal asked for.
        prompt_tokens, answer_tokens: as the server counts them; None if it does not say.
        text: of the answer.
        code_word: that its prompt held.
    """

    level: int
    number: int
    planned: float
    sent: float = 0.0
    pieces: list[float] = field(default_factory=list)
    ended: float = 0.0
    outcome: Outcome = "stopped"
    error: str | None = None
    retry_after: float | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    text: str = ""
    code_word: str | None = None

    @property
    def counted_tokens(self) -> int:
        """The tokens of the answer; its pieces, if the server does not count."""
        return len(self.pieces) if self.answer_tokens is None else self.answer_tokens

    def fail(self, outcome: Outcome, error: str) -> None:
        """Note why there is no whole answer."""
        self.outcome, self.error = outcome, " ".join(error.split())[:LONGEST_REASON]


class _Refused(Exception):
    """The server answered with an error."""


class EventDecoder:
    """Server-sent events from bytes: takes what comes, and returns the data of complete events.

    Only \\n, \\r\\n and \\r end a line: U+2028 inside JSON does not. Names and ids of events, which
    OpenAI's API does not use, are ignored.
    """

    def __init__(self) -> None:
        self._left = b""
        self._data: list[str] = []

    def push(self, received: bytes) -> list[str]:
        """Return the data of each event that ends in these bytes."""
        self._left += received
        complete = []
        # A \r at the end may be the first half of \r\n.
        waits = self._left.endswith(b"\r")
        text = (self._left[:-1] if waits else self._left).replace(b"\r\n", b"\n")
        *lines, last = text.replace(b"\r", b"\n").split(b"\n")
        self._left = last + (b"\r" if waits else b"")
        for line in lines:
            if line:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            elif self._data:
                complete.append("\n".join(self._data))
                self._data = []
        return complete


async def events(received: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each event."""
    decoder = EventDecoder()
    async for part in received:
        for data in decoder.push(part):
            yield data


class LoadClient:
    """Sends requests to one server.

    Args:
        http: has the server's URL and key.
        model: its name in every request.
        time_limit: seconds after which a request is given up.
        now: seconds by a clock that never goes back.
        sends_usage: whether the server is asked to count the tokens of a stream.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        model: str,
        time_limit: float,
        now: Callable[[], float],
        sends_usage: bool = True,
    ) -> None:
        self.http, self.model, self.time_limit, self.now = http, model, time_limit, now
        self.options = {"stream_options": {"include_usage": True}} if sends_usage else {}

    async def answer(self, request: PlannedRequest, record: RequestRecord, start: float) -> None:
        """Send a request and fill in its record; no failure of the request is raised.

        Args:
            request: what is sent.
            record: is complete at the end, also if the task is cancelled.
            start: the clock's time at the beginning of the level.
        """
        record.code_word = request.code_word
        record.sent = self.now() - start
        try:
            async with asyncio.timeout(self.time_limit):
                await self._read(request, record, start)
        except TimeoutError:
            record.fail("time limit", f"no complete answer within {self.time_limit:g} s")
        except _Refused as error:
            record.fail("refused" if record.retry_after is not None else "error", str(error))
        except httpx.ConnectError:
            record.fail("error", "no connection")
        except httpx.TransportError as error:  # before HTTPError, whose child it is
            record.fail("error", f"connection broken ({type(error).__name__})")
        except (httpx.HTTPError, httpx.StreamError) as error:
            record.fail("error", f"not HTTP ({type(error).__name__})")
        finally:
            record.ended = self.now() - start

    async def _read(self, request: PlannedRequest, record: RequestRecord, start: float) -> None:
        hang_up_after = request.hang_up_after or math.inf
        body = {"model": self.model, "stream": True, **self.options, **request.body}
        async with self.http.stream("POST", request.path, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                if response.status_code == 429:
                    record.retry_after = wait_of(response)
                raise _Refused(f"HTTP {response.status_code}{message_of(response)}")
            is_complete = False
            async for data in events(response.aiter_bytes()):
                moment = self.now() - start
                if data == END:  # the stream is read to its end, so that the connection is kept
                    is_complete = True
                    continue
                is_complete = self._take(data, record, moment) or is_complete
                if len(record.pieces) >= hang_up_after:
                    record.outcome = "hung up"
                    return  # leaving the block closes the connection
        if not is_complete:
            raise _Refused("the stream ended in the middle of the answer")
        record.outcome = "done"

    def _take(self, data: str, record: RequestRecord, moment: float) -> bool:
        """Note one event; return whether it says why the answer ended."""
        try:
            event = json.loads(data)
        except ValueError:
            raise _Refused("an event of the stream is not JSON") from None
        if not isinstance(event, dict):
            raise _Refused("an event of the stream is not an object")
        if event.get("error"):
            raise _Refused(f"error in the stream: {_text_of_error(event['error'])}")
        try:
            return self._take_object(event, record, moment)
        except (AttributeError, TypeError):
            raise _Refused("an event of the stream does not have OpenAI's form") from None

    def _take_object(self, event: dict[str, Any], record: RequestRecord, moment: float) -> bool:
        usage = event.get("usage") or {}
        record.prompt_tokens = usage.get("prompt_tokens", record.prompt_tokens)
        record.answer_tokens = usage.get("completion_tokens", record.answer_tokens)
        ends = False
        for choice in event.get("choices") or []:
            text = _text_of(choice)
            if text:
                record.pieces.append(moment)
                record.text += text
            ends = ends or choice.get("finish_reason") is not None
        return ends


def wait_of(response: httpx.Response) -> float:
    """Return how many seconds a refusal asks the client to wait."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", DEFAULT_WAIT)))
    except ValueError:  # a date
        return DEFAULT_WAIT


def _text_of(choice: dict[str, Any]) -> str:
    """Return what an event adds to an answer: text, thoughts or a call of a tool."""
    delta = choice.get("delta") or {}
    parts = [choice.get("text"), delta.get("reasoning_content"), delta.get("content")]
    parts += [
        (call.get("function") or {}).get("arguments") for call in delta.get("tool_calls") or []
    ]
    return "".join(part for part in parts if part)


def _text_of_error(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)


def message_of(response: httpx.Response) -> str:
    """Return ": " and the sentence of an error as OpenAI's API has it; "" if there is none."""
    try:
        found = response.json()
    except ValueError:
        return ""
    error = found.get("error", found.get("detail")) if isinstance(found, dict) else None
    return f": {_text_of_error(error)}" if error else ""
