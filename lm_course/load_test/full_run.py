"""A whole load test: the server is looked at, every level is run, the code words are checked."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np

from lm_core.progress import progress_bar
from lm_core.user_error import UserError
from lm_course.load_test.load_client import LoadClient, RequestRecord
from lm_course.load_test.load_plan import Level, LoadPlan
from lm_course.load_test.load_report import LoadReport, level_report
from lm_course.load_test.load_run import LevelRun, LevelRunner
from lm_course.load_test.request_texts import draw_code_word
from lm_course.load_test.secret_check import SecretCheck, check_secrets
from lm_course.load_test.server_check import ServedName, find_model, http_client, word_cost


@dataclass(frozen=True)
class LoadResult:
    """Everything that a test found."""

    report: LoadReport
    runs: list[LevelRun]
    secrets: SecretCheck | None

    @property
    def records(self) -> list[RequestRecord]:
        """The records of all levels."""
        return [record for run in self.runs for record in run.records]


@dataclass(frozen=True)
class LoadTest:
    """The settings of a test.

    Attributes:
        url: of the API.
        model: its name; None for the server's first.
        key: None for none.
        plan: the requests, without what only the server knows.
        levels: the loads, tested in turn.
        count: requests of each level; None if the time is limited.
        seconds: in which requests of a level are sent; None if their number is limited.
        shared_tokens: of the beginning that all prompts share.
        time_limit: of a request, in seconds.
        settings: for the report.
    """

    url: str
    model: str | None
    key: str | None
    plan: LoadPlan
    levels: list[Level]
    count: int | None
    seconds: float | None
    shared_tokens: int
    time_limit: float
    settings: dict[str, Any]

    async def run(
        self,
        stop: asyncio.Event,
        signals: AbstractContextManager[None],
        now: Callable[[], float],
    ) -> LoadResult:
        """Run the test until its end, or until `stop` is set.

        Args:
            stop: ends the test early.
            signals: is entered while requests run; sets `stop` at Ctrl-C.
            now: the clock.

        Raises ValueError for a server that is not there or cannot be tested like this.
        """
        async with http_client(self.url, self.key, self.time_limit) as http:
            served = await find_model(http, self.model)
            plan = await self._plan_for(http, served)
            client = LoadClient(http, served.name, self.time_limit, now)
            runs = []
            with signals:
                for number, level in enumerate(self.levels):
                    runs.append(await self._run_level(plan, client, stop, number, level))
                    if stop.is_set():
                        break
            records = [record for run in runs for record in run.records]
            secrets = await check_secrets(http, records) if plan.has_code_words else None
        report = LoadReport(
            url=self.url,
            model=served.name,
            settings=self.settings,
            was_stopped=stop.is_set(),
            levels=[level_report(run) for run in runs],
            secrets=None if secrets is None else secrets.as_json(),
        )
        return LoadResult(report, runs, secrets)

    async def _run_level(
        self, plan: LoadPlan, client: LoadClient, stop: asyncio.Event, number: int, level: Level
    ) -> LevelRun:
        name = f"{'rate' if level.clients is None else 'clients'} {level.name}"
        with progress_bar(name, self.count, "requests") as bar:
            runner = LevelRunner(plan, client, stop, self.count, self.seconds, bar.advance)
            return await runner.run(number, level)

    async def _plan_for(self, http: httpx.AsyncClient, served: ServedName) -> LoadPlan:
        """Return the plan with the cost of words and the length of the model's context."""
        plan = self.plan
        self._check_room(served)
        cost = plan.cost
        if not plan.lines or self.shared_tokens:
            example = draw_code_word(np.random.default_rng(plan.seed))
            code_word = example if plan.has_code_words else None
            cost = await word_cost(http, served.name, plan.is_chat, code_word)
        length = served.context_length
        return replace(
            plan,
            cost=cost,
            shared_words=round(self.shared_tokens / cost.per_word),
            most_tokens=None if length is None else length - self.shared_tokens,
        )

    def _check_room(self, served: ServedName) -> None:
        """Refuse lengths that the model's context has no room for."""
        plan, length = self.plan, served.context_length
        if length is None:
            return
        prompt = 0 if plan.lines else plan.prompt_tokens.longest or 1
        longest = self.shared_tokens + prompt + (plan.answer_tokens.longest or 1)
        if longest > length:
            raise UserError(
                f"prompts and answers of up to {longest:,} tokens, but the context of "
                f"{served.name} holds {length:,}: make --prompt-tokens, --answer-tokens or "
                "--shared-prefix-tokens smaller"
            )
