"""One level of a load test: all its requests, sent when they are due.

The arrivals of an open loop are fixed beforehand, and a request's latency counts from the time at
which it should have been sent. If it counted from the time of sending, a server that blocks its
clients would look better than it is (coordinated omission). How late the client itself was is
recorded for every request.

What this leaves out: retries. A refused request is counted, and the client of a closed loop waits
as long as the server asks before its next request.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from lm_course.load_test.load_client import DEFAULT_WAIT, LoadClient, RequestRecord
from lm_course.load_test.load_plan import Level, LoadPlan, PlannedRequest

WAIT_AFTER_ERROR = DEFAULT_WAIT  # seconds; a server that is gone should not be asked all the time


@dataclass
class LevelRun:
    """The result of a level.

    Attributes:
        level: its load.
        records: of the requests that were sent, in the order of their numbers.
        seconds: from its beginning to the end of its last request.
        was_stopped: whether Ctrl-C ended it.
    """

    level: Level
    records: list[RequestRecord] = field(default_factory=list)
    seconds: float = 0.0
    was_stopped: bool = False


class LevelRunner:
    """Runs the levels of a plan, one after the other.

    Args:
        plan: the requests.
        client: sends them.
        stop: is set by Ctrl-C.
        count: requests of a level; None if its time is limited.
        seconds: in which requests are sent; those that run then are awaited.
        ended: is called after every request.
    """

    def __init__(
        self,
        plan: LoadPlan,
        client: LoadClient,
        stop: asyncio.Event,
        count: int | None,
        seconds: float | None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan, self.client, self.stop = plan, client, stop
        self.count, self.seconds, self.ended = count, seconds, ended

    async def run(self, number: int, level: Level) -> LevelRun:
        """Return a level's records; after Ctrl-C, of what there was until then."""
        run = LevelRun(level)
        loop = self._open if level.rate is not None else self._closed
        work = asyncio.create_task(loop(number, run, self.client.now()))
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            run.was_stopped = not work.done()
        finally:
            for task in (work, stopped):
                task.cancel()
            results = await asyncio.gather(work, stopped, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
        run.records.sort(key=lambda record: record.number)
        run.seconds = max((record.ended for record in run.records), default=0.0)
        return run

    async def _open(self, number: int, run: LevelRun, start: float) -> None:
        assert run.level.rate is not None, "an open loop has a rate"
        due = self.plan.arrivals(number, run.level.rate, self.count, self.seconds)
        async with asyncio.TaskGroup() as group:
            for place, planned in enumerate(due):
                request = self.plan.request(number, place)  # before it is due
                await asyncio.sleep(max(0.0, planned - (self.client.now() - start)))
                record = RequestRecord(number, place, planned)
                run.records.append(record)
                group.create_task(self._send(request, record, start))

    async def _closed(self, number: int, run: LevelRun, start: float) -> None:
        assert run.level.clients is not None, "a closed loop has clients"
        async with asyncio.TaskGroup() as group:
            for _ in range(run.level.clients):
                group.create_task(self._one_client(number, run, start))

    async def _one_client(self, number: int, run: LevelRun, start: float) -> None:
        """Send one request after the other until there are no more or the time is over."""
        while True:
            place = len(run.records)
            now = self.client.now() - start
            if self.count is not None and place >= self.count:
                return
            if self.seconds is not None and now >= self.seconds:
                return
            record = RequestRecord(number, place, now)
            run.records.append(record)
            await self._send(self.plan.request(number, place), record, start)
            if record.outcome == "refused":
                await asyncio.sleep(record.retry_after or 0.0)
            elif record.outcome == "error":
                await asyncio.sleep(WAIT_AFTER_ERROR)

    async def _send(self, request: PlannedRequest, record: RequestRecord, start: float) -> None:
        await self.client.answer(request, record, start)
        self.ended()
