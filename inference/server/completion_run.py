"""One request of either kind, from its questions to a response: whole, or as server-sent events.

A client that goes away ends its request, whether it waits for the first token, for the whole answer
or for the next event. What this leaves out: what an answer looks like (completion_text.py,
completion_chat.py).
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from inference.server.answers import Answerer, Piece, Question
from inference.server.api_errors import ApiError, api_error_of
from inference.server.api_fields import SamplingFields
from inference.server.completion_chat import ChatWriter
from inference.server.completion_text import TextWriter

MOST_ANSWERS = 128  # of one request
CLIENT_GONE = 499  # nginx's status for it; nobody reads it


async def respond(
    writer: TextWriter | ChatWriter,
    questions: list[Question],
    fields: SamplingFields,
    answerer: Answerer,
    request: Request,
) -> Response:
    """Answer all questions, streamed if the request asks for it."""
    total = sum(question.num_samples for question in questions)
    most = min(MOST_ANSWERS, answerer.thread.max_requests)
    if total > most:
        message = f"{len(questions)} prompts with n = {fields.n} ask for {total} answers"
        raise ApiError(400, f"n: {message}; a request may ask for {most}", "n")
    run = _Run(writer, questions, fields, answerer)
    if not fields.stream:
        whole = await _unless_gone(request, run.whole())
        return Response(status_code=CLIENT_GONE) if whole is None else JSONResponse(whole)
    chunks = run.chunks()
    # An error before the first event is a response of its own.
    first = await _unless_gone(request, _first_of(chunks))
    return Response(status_code=CLIENT_GONE) if first is None else _EventStream(first, chunks)


async def _first_of(chunks: AsyncGenerator[str, None]) -> str:
    return await anext(chunks)


async def _unless_gone(request: Request, result: Coroutine[Any, Any, Any]) -> Any:
    """Return the result; cancel it and return None if the client goes away first."""

    async def goes_away() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, watching = asyncio.create_task(result), asyncio.create_task(goes_away())
    try:
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        for task in (answering, watching):
            task.cancel()
        await asyncio.gather(answering, watching, return_exceptions=True)


class _EventStream(StreamingResponse):
    """Sends events until the last one, or until the client is gone."""

    def __init__(self, first: str, chunks: AsyncGenerator[str, None]) -> None:
        self._chunks = chunks
        super().__init__(self._all(first), media_type="text/event-stream")

    async def _all(self, first: str) -> AsyncIterator[str]:
        yield first
        async for chunk in self._chunks:
            yield chunk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. Whatever ends this also ends the request."""
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)


class _Run:
    """The answering of one request."""

    def __init__(
        self,
        writer: TextWriter | ChatWriter,
        questions: list[Question],
        fields: SamplingFields,
        answerer: Answerer,
    ) -> None:
        self.writer, self.questions, self.answerer = writer, questions, answerer
        self.created = int(time.time())
        self.num_tokens = 0
        options = fields.stream_options
        self.sends_usage = options is not None and options.include_usage

    async def whole(self) -> dict[str, Any]:
        """Return the whole answer."""
        async with aclosing(self._pieces()) as pieces:
            async for index, piece in pieces:
                self.writer.choices(index, piece)
        total = sum(question.num_samples for question in self.questions)
        choices = [self.writer.whole(index) for index in range(total)]
        return {**self._head(self.writer.object), "choices": choices, "usage": self._usage()}

    async def chunks(self) -> AsyncGenerator[str, None]:
        """Yield the answer as server-sent events. An error in the middle is an event, too."""
        head = self._head(self.writer.chunk_object)
        if self.sends_usage:
            head["usage"] = None
        begun: set[int] = set()
        has_sent = False
        try:
            async with aclosing(self._pieces()) as pieces:
                async for index, piece in pieces:
                    new = [] if index in begun else self.writer.begins(index)
                    begun.add(index)
                    for choice in [*new, *self.writer.choices(index, piece)]:
                        has_sent = True
                        yield _event({**head, "choices": [choice]})
        except Exception as error:
            if not has_sent:
                raise
            yield _event(api_error_of(error).body())
            return
        if self.sends_usage:
            yield _event({**head, "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield the pieces of all questions, with the number of their choice."""
        merged = [self._numbered(number) for number in range(len(self.questions))]
        async with aclosing(_merged(merged)) as pieces:
            async for index, piece in pieces:
                self.num_tokens += piece.num_new
                yield index, piece

    async def _numbered(self, number: int) -> AsyncIterator[tuple[int, Piece]]:
        first = sum(question.num_samples for question in self.questions[:number])
        async with aclosing(self.answerer.pieces(self.questions[number])) as pieces:
            async for piece in pieces:
                yield first + piece.index, piece

    def _head(self, kind: str) -> dict[str, Any]:
        name = self.answerer.model.name
        return {"id": self.writer.id, "object": kind, "created": self.created, "model": name}

    def _usage(self) -> dict[str, int]:
        num_prompt = sum(len(question.prompt_ids) for question in self.questions)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": self.num_tokens,
            "total_tokens": num_prompt + self.num_tokens,
        }


def _event(content: dict[str, Any]) -> str:
    # All but ASCII is escaped: some clients take U+2028 or U+0085 for the end of a line.
    return f"data: {json.dumps(content)}\n\n"


async def _merged(
    iterators: list[AsyncIterator[tuple[int, Piece]]],
) -> AsyncIterator[tuple[int, Piece]]:
    """Yield what any of the iterators yields, as it comes; close all when closed or when one
    fails.
    """
    if len(iterators) == 1:
        async with aclosing(iterators[0]) as only:
            async for each in only:
                yield each
        return
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def drain(iterator: AsyncIterator[tuple[int, Piece]]) -> None:
        try:
            async with aclosing(iterator) as own:
                async for each in own:
                    queue.put_nowait(each)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(drain(each)) for each in iterators]
    try:
        left = len(tasks)
        while left:
            found = await queue.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
