"""The engine in a thread of its own, for the event loop of the server.

A step of the engine takes milliseconds to seconds, and connections must be served meanwhile. So one
thread runs the steps, and everything else reaches it through a queue that it empties between two of
them: the engine itself is used by this thread only. New tokens go back to the event loop, all of a
step at once.

What this leaves out: text (answer_text.py) and HTTP (inference/server).
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from inference.engine.batch_engine import BatchEngine
from inference.engine.batch_requests import NewToken


class ServerBusy(Exception):
    """As many requests as allowed are already waiting."""


class EngineStopped(Exception):
    """The server is shutting down, or its engine has failed. The text says which."""


SHUTTING_DOWN = "the server is shutting down"
FAILED = "the engine has failed; see the server's log"
log = logging.getLogger("lm.serve")


@dataclass(frozen=True)
class Call:
    """A function that the thread calls between two steps.

    Attributes:
        function: the function.
        refuse: is called instead if the thread ends before.
    """

    function: Callable[[], Any]
    refuse: Callable[[Exception], Any] = lambda error: None


@dataclass(eq=False)
class Ticket:
    """An accepted request.

    Attributes:
        ids: of its samples.
        events: their new tokens, in the order of the steps; an exception if the engine failed.
        left: the samples that have not ended, for its reader to keep.
    """

    ids: list[str]
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[list[NewToken] | Exception]" = field(default_factory=asyncio.Queue)
    left: set[str] = field(default_factory=set)

    def put(self, events: "list[NewToken] | Exception") -> None:
        """Hand over events from another thread."""
        with suppress(RuntimeError):  # the loop has been closed since
            self.loop.call_soon_threadsafe(self.events.put_nowait, events)


class EngineThread:
    """Runs the steps of an engine, and passes requests in and tokens out.

    Args:
        engine: used by nobody else from now on.
        max_requests: requests that may be in the engine at a time, waiting ones included; a request
            for n samples counts as n.
    """

    def __init__(self, engine: BatchEngine, max_requests: int = 256) -> None:
        self._engine = engine
        self.max_requests = max_requests
        self.num_requests = 0  # changed by the event loop only
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._tickets: dict[str, Ticket] = {}
        self._draining = False
        self._stopping = threading.Event()
        self._ended = False
        self._ending = threading.Lock()  # no call may be queued after the last look at the queue
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def engine(self) -> BatchEngine:
        """The engine, to read its numbers; only the thread may change it."""
        return self._engine

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        return self._thread.is_alive() and self._failure is None and not self._draining

    def start(self) -> None:
        """Begin to run steps."""
        self._thread.start()

    async def stop(self, seconds: float = 30.0) -> None:
        """Refuse new requests; let those end that have been accepted, for at most so many seconds;
        abort the others.
        """
        self._draining = True
        deadline = time.monotonic() + seconds
        while self.num_requests and not self._ended and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._stopping.set()
        self._calls.put(None)  # wakes a thread that waits for something to do
        await asyncio.to_thread(self._thread.join)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Return what `function` returns when the thread calls it between two steps."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def answer(result: Any, error: Exception | None = None) -> None:
            with suppress(RuntimeError):  # the loop has been closed since
                loop.call_soon_threadsafe(_settle, done, result, error)

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                answer(None, error)
            else:
                answer(result)

        if self._draining:
            raise EngineStopped(SHUTTING_DOWN)
        self._queue(Call(run, lambda error: answer(None, error)))
        return await done

    def _queue(self, call: Call) -> None:
        """Let the thread make a call; if it has ended, refuse the call."""
        with self._ending:
            if not self._ended:
                self._calls.put(call)
                return
        call.refuse(self._stopped())

    def _stopped(self) -> EngineStopped:
        return EngineStopped(SHUTTING_DOWN if self._failure is None else FAILED)

    async def submit(self, request_id: str, num_samples: int, **request: Any) -> Ticket:
        """Queue a request; see `BatchEngine.submit`.

        Raises ServerBusy if too many are queued, and ValueError as the engine does.
        """
        if self.num_requests + num_samples > self.max_requests:
            raise ServerBusy
        loop = asyncio.get_running_loop()
        ticket = Ticket([], loop)

        def add() -> None:
            ticket.ids = self._engine.submit(request_id, num_samples=num_samples, **request)
            self._tickets.update(dict.fromkeys(ticket.ids, ticket))

        self.num_requests += num_samples
        try:
            await self.call(add)
            ticket.left = set(ticket.ids)
        except BaseException:
            self.num_requests -= num_samples
            self._queue(Call(lambda: self._drop(ticket)))  # if it was added before a cancellation
            raise
        return ticket

    async def next_events(self, ticket: Ticket) -> list[NewToken]:
        """Return the next new tokens of the samples that have not ended; wait for them.

        Raises EngineStopped if there will be none.
        """
        events = await ticket.events.get()
        if isinstance(events, Exception):
            raise events
        return [event for event in events if event.request_id in ticket.left]

    def close(self, ticket: Ticket) -> None:
        """End what is left of a request, whose blocks are then free before the next step. Whoever
        has a ticket calls this once.
        """
        self.num_requests -= len(ticket.ids)
        if ticket.left:
            self._queue(Call(lambda: self._drop(ticket)))

    def end_sample(self, ticket: Ticket, request_id: str) -> None:
        """End one sample whose text is complete because of a stop string."""

        def end() -> None:
            if self._engine.abort(request_id):
                self._forget(request_id)

        self._queue(Call(end))

    def _drop(self, ticket: Ticket) -> None:
        for each in ticket.ids:
            self._engine.abort(each)
            self._forget(each)

    def _forget(self, request_id: str) -> None:
        self._tickets.pop(request_id, None)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._answer_calls()
                if self._engine.has_work:
                    self._deliver(self._engine.step())
        except Exception as error:  # nobody may wait for a thread that has died
            self._failure = error
            log.critical("the engine has failed", exc_info=error)
        finally:
            self._end()

    def _end(self) -> None:
        """Tell everybody who waits for the thread that it has ended."""
        with self._ending:
            self._ended = True
        error = self._stopped()
        for ticket in {id(each): each for each in self._tickets.values()}.values():
            ticket.put(error)
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is not None:
                call.refuse(error)

    def _answer_calls(self) -> None:
        """Make the calls that others have queued; wait for one if there is nothing else to do."""
        while not self._stopping.is_set():
            idle = not self._engine.has_work
            try:
                call = self._calls.get(block=idle)
            except queue.Empty:
                return
            if call is not None:
                call.function()

    def _deliver(self, events: list[NewToken]) -> None:
        by_ticket: dict[int, tuple[Ticket, list[NewToken]]] = {}
        for event in events:
            ticket = self._tickets.get(event.request_id)
            if ticket is None:
                continue
            by_ticket.setdefault(id(ticket), (ticket, []))[1].append(event)
            if event.finish_reason is not None:
                self._forget(event.request_id)
        for ticket, own in by_ticket.values():
            ticket.put(own)


def _settle(done: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
