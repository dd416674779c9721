"""Whole load tests of the project's own server, with a real model of two layers."""

import asyncio
from contextlib import nullcontext

import pytest

from lm_core.user_error import UserError
from lm_course.load_test.full_run import LoadTest
from lm_course.load_test.load_plan import Level, LoadPlan
from lm_course.load_test.token_lengths import parse_lengths


def run_test(url, levels, count=6, shared=0, **changes):
    settings = {
        "seed": 0,
        "prompt_tokens": parse_lengths("120-200", "--x"),
        "answer_tokens": parse_lengths("5-12", "--x"),
        **changes,
    }
    plan = LoadPlan(**settings)
    test = LoadTest(url, None, None, plan, levels, count, None, shared, 60.0, {"seed": 0})

    async def work():
        loop = asyncio.get_running_loop()
        return await test.run(asyncio.Event(), nullcontext(), loop.time)

    return asyncio.run(work())


def test_a_sweep_with_code_words_and_clients_that_leave(tiny_url) -> None:
    levels = [Level(clients=1), Level(clients=4)]
    result = run_test(tiny_url, levels, has_code_words=True, hang_up_share=0.4, shared=60)
    assert result.report.model == "tiny"
    assert [level.load for level in result.report.levels] == ["1", "4"]
    outcomes = {record.outcome for record in result.records}
    assert outcomes <= {"done", "hung up"}, result.report.levels[0].errors_by_kind
    assert len(result.records) == 12
    assert not result.secrets.leaks, result.secrets.lines()
    assert result.secrets.server.blocks > 0
    for record in result.records:
        assert record.sent <= record.ended
        if record.outcome == "done":
            # The words of a byte-level model are estimated from two requests.
            assert 120 + 60 - 25 <= record.prompt_tokens <= 200 + 60 + 25
            assert len(record.pieces) <= record.answer_tokens <= 12


def test_an_open_loop_by_texts(tiny_url) -> None:
    result = run_test(tiny_url, [Level(rate=float("inf"))], is_chat=False, fields={"seed": 1})
    level = result.report.levels[0]
    assert (level.done, level.errors) == (6, 0), level.errors_by_kind
    assert result.secrets is None
    assert level.answers_without_usage == 0


def test_lengths_that_the_context_does_not_hold(tiny_url) -> None:
    with pytest.raises(UserError, match=r"up to 1,032 tokens.* of tiny holds 1,024"):
        run_test(tiny_url, [Level(clients=1)], prompt_tokens=parse_lengths("1000-1020", "--x"))


def test_fields_that_the_server_refuses_are_errors_with_its_sentence(tiny_url) -> None:
    result = run_test(tiny_url, [Level(clients=6)], fields={"no_such_field": 1})
    (kind,) = result.report.levels[0].errors_by_kind
    assert kind.kind == "HTTP 400"
    assert "no_such_field" in kind.example
    assert kind.count == 6
