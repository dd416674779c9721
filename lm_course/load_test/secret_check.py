"""Whether a server mixes up its answers or loses memory under load.

Every prompt holds a code word that no other prompt has. An answer with the code word of another
request shows that the cache, the batch or the streams of the server were mixed up. At the end, a
server of this project must have no request left, and all blocks of its cache must be free.

What this leaves out: parts of a code word, and the memory of other servers, which do not say how
many blocks are free.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.request_texts import code_words_in

BLOCKS, FREE = "lm_cache_blocks", "lm_cache_blocks_available"
RUNNING, WAITING = "lm_requests_running", "lm_requests_waiting"
LOOKS = 100  # at the server's numbers, until it is idle
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class ServerNumbers:
    """A server's numbers, of all its models together; None if it does not report them."""

    blocks: int | None = None
    blocks_free: int | None = None
    running: int | None = None
    waiting: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether this is a server of this project."""
        return None not in (self.blocks, self.blocks_free, self.running, self.waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, waits or holds a block."""
        return self.blocks == self.blocks_free and not self.running and not self.waiting


@dataclass(frozen=True)
class SecretCheck:
    """The result.

    Attributes:
        asked: answers that a code word was asked of, in whole or in part.
        repeated: whole answers that hold their own code word.
        whole: whole answers.
        mixed_up: each answer that holds another request's code word, as "level/number".
        server: its numbers at the end.
    """

    asked: int
    repeated: int
    whole: int
    mixed_up: tuple[str, ...]
    server: ServerNumbers

    @property
    def leaks(self) -> bool:
        """Whether the server failed the check."""
        return bool(self.mixed_up) or (self.server.is_known and not self.server.is_idle)

    def lines(self) -> list[str]:
        """Return the result in sentences; the last one is the verdict."""
        found = [
            f"code words: {self.repeated} of {self.whole} whole answers repeat their own; "
            f"{len(self.mixed_up)} of {self.asked} hold another request's"
        ]
        server = self.server
        if server.is_known:
            found.append(
                f"server at the end: {server.blocks_free:,} of {server.blocks:,} blocks free, "
                f"{server.running} running, {server.waiting} waiting"
            )
        else:
            found.append(f"server at the end: its /metrics has no {BLOCKS}; memory not checked")
        if not self.leaks and not self.repeated:
            verdict = "leak: none seen; but as no whole answer holds its own code word, a mix-up\n"
            return [*found, f"{verdict}could hardly be seen: use a model that repeats the word"]
        if not self.leaks:
            return [*found, "leak: none"]
        if self.mixed_up:
            shown = ", ".join(self.mixed_up[:10])
            found.append(f"leak: another request's code word in the answers (level/number) {shown}")
        if server.is_known and not server.is_idle:
            found.append("leak: requests or blocks are left on the server (or others use it, too)")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return everything for report.json."""
        return {**asdict(self), "leaks": self.leaks}


def mixed_up(records: Sequence[RequestRecord]) -> tuple[str, ...]:
    """Return the requests whose answers hold a code word of another request."""
    known = {record.code_word for record in records if record.code_word is not None}
    return tuple(
        f"{record.level}/{record.number}"
        for record in records
        if (code_words_in(record.text) & known) - {record.code_word}
    )


def read_numbers(metrics: str) -> ServerNumbers:
    """Return the numbers of a page in Prometheus' format; None for each that it lacks."""
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    except ValueError:
        return ServerNumbers()
    found = [int(sums[name]) if name in sums else None for name in (BLOCKS, FREE, RUNNING, WAITING)]
    return ServerNumbers(*found)


async def numbers_at_the_end(http: httpx.AsyncClient) -> ServerNumbers:
    """Return the server's numbers once it is idle, or after ten seconds: a client that went away is
    noticed a moment later.
    """
    url = http.base_url.copy_with(raw_path=b"/metrics")
    found = ServerNumbers()
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        try:
            response = await http.get(url)
        except httpx.HTTPError:
            return ServerNumbers()
        found = read_numbers(response.text) if response.status_code == 200 else ServerNumbers()
        if not found.is_known or found.is_idle:
            break
    return found


async def check_secrets(http: httpx.AsyncClient, records: Sequence[RequestRecord]) -> SecretCheck:
    """Return the result for the records of all levels."""
    whole = [record for record in records if record.outcome == "done"]
    return SecretCheck(
        asked=sum(record.code_word is not None for record in records),
        repeated=sum(record.code_word in code_words_in(record.text) for record in whole),
        whole=len(whole),
        mixed_up=mixed_up(records),
        server=await numbers_at_the_end(http),
    )
