"""Levels: when requests are sent, by a clock that jumps; what a slow server and Ctrl-C do."""

import asyncio
import dataclasses
import math

import httpx
import pytest

from lm_course.load_test.load_plan import Level, LoadPlan
from lm_course.load_test.load_run import LevelRunner
from lm_course.load_test.token_lengths import parse_lengths

PLAN = LoadPlan(0, parse_lengths("5", "--x"), parse_lengths("5", "--x"))


@pytest.fixture
def run(fake):
    def run(server, level, count=None, seconds=None, plan=PLAN, stop_after=None):
        async def work():
            stop = asyncio.Event()
            if stop_after is not None:
                asyncio.get_running_loop().call_later(stop_after, stop.set)
            ended = []
            runner = LevelRunner(
                plan, server.client(), stop, count, seconds, lambda: ended.append(1)
            )
            found = await runner.run(0, level)
            assert stop_after is not None or len(ended) == len(found.records)
            return found

        return fake.run_virtually(work())

    return run


def test_clients_of_a_closed_loop_take_turns(fake, run) -> None:
    server = fake.FakeServer(lambda body, number: fake.answer_of("a", "b"))  # 3 seconds each
    found = run(server, Level(clients=2), count=5)
    assert [record.planned for record in found.records] == pytest.approx([0, 0, 3, 3, 6])
    assert [record.number for record in found.records] == [0, 1, 2, 3, 4]
    assert found.seconds == pytest.approx(9)
    assert not found.was_stopped
    expected = [PLAN.request(0, number).body["messages"] for number in range(5)]
    assert [body["messages"] for body in server.bodies] == expected


def test_a_limit_of_time_lets_running_requests_end(fake, run) -> None:
    server = fake.FakeServer(lambda body, number: fake.answer_of("a", "b"))
    found = run(server, Level(clients=1), seconds=7.0)
    assert [record.planned for record in found.records] == pytest.approx([0, 3, 6])
    assert {record.outcome for record in found.records} == {"done"}
    assert found.seconds == pytest.approx(9)


def test_arrivals_of_an_open_loop_do_not_wait_for_answers(fake, run) -> None:
    server = fake.FakeServer(lambda body, number: fake.answer_of("a", gap=1000.0))
    found = run(server, Level(rate=2.0), count=10)
    expected = PLAN.arrivals(0, 2.0, 10, None)
    assert [record.planned for record in found.records] == pytest.approx(expected)
    assert [record.sent for record in found.records] == pytest.approx(expected)
    assert server.most_at_once == 10


def test_a_client_that_is_late_counts_from_the_plan(fake, run) -> None:
    """A plan that takes a while to make a request makes the client late: it is seen, and the time
    of the plan stays.
    """

    class SlowPlan(LoadPlan):
        def request(self, level, number):
            asyncio.get_running_loop().jumping.now += 2.0  # as if it had computed for two seconds
            return super().request(level, number)

    plan = SlowPlan(**{f.name: getattr(PLAN, f.name) for f in dataclasses.fields(PLAN)})
    server = fake.FakeServer(lambda body, number: fake.answer_of("a"))
    found = run(server, Level(rate=math.inf), count=3, plan=plan)
    assert [record.planned for record in found.records] == [0, 0, 0]
    assert all(record.sent >= 2.0 * (place + 1) for place, record in enumerate(found.records))


def test_a_refused_client_waits_as_long_as_it_is_told(fake, run) -> None:
    def respond(body, number):
        refusal = httpx.Response(429, headers={"Retry-After": "5"})
        return refusal if number == 0 else fake.answer_of("a")

    found = run(fake.FakeServer(respond), Level(clients=1), count=2)
    assert [record.outcome for record in found.records] == ["refused", "done"]
    assert found.records[1].planned == pytest.approx(5)


def test_a_server_that_is_gone_is_not_asked_all_the_time(fake, run) -> None:
    server = fake.FakeServer(lambda body, number: httpx.ConnectError("gone"))
    found = run(server, Level(clients=1), seconds=3.5)
    assert len(found.records) == 4
    assert {record.error for record in found.records} == {"no connection"}


def test_hang_ups_are_no_errors(fake, run) -> None:
    plan = dataclasses.replace(PLAN, hang_up_share=1.0)
    server = fake.FakeServer(lambda body, number: fake.answer_of("a", "b", "c", "d", "e", "f"))
    found = run(server, Level(clients=3), count=9, plan=plan)
    assert {record.outcome for record in found.records} == {"hung up"}
    assert server.closed_early == 9
    expected = [plan.request(0, number).hang_up_after for number in range(9)]
    assert [len(record.pieces) for record in found.records] == expected


@pytest.mark.parametrize("level", [Level(clients=2), Level(rate=math.inf)])
def test_ctrl_c_keeps_what_there_is(fake, run, level) -> None:
    def respond(body, number):
        return fake.answer_of("a", gap=1.0 if number < 2 else 100.0)

    found = run(fake.FakeServer(respond), level, count=4, stop_after=50.0)
    assert found.was_stopped
    assert [record.outcome for record in found.records] == ["done", "done", "stopped", "stopped"]
    assert found.seconds == pytest.approx(50)
