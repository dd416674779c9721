"""The plan: arrivals are a Poisson process, requests depend on their number only."""

import dataclasses
import math

import numpy as np
import pytest

from lm_core.user_error import UserError
from lm_course.load_test.load_plan import Level, LoadPlan
from lm_course.load_test.request_texts import PromptLine, WordCost
from lm_course.load_test.token_lengths import parse_lengths

PLAN = LoadPlan(3, parse_lengths("10-30", "--x"), parse_lengths("5-9", "--x"))


def words_of(request) -> list[str]:
    return request.body["messages"][-1]["content"].partition(": ")[2].split()


def test_gaps_between_arrivals_are_exponential() -> None:
    times = np.array(PLAN.arrivals(0, 4.0, 20_000, None))
    gaps = np.diff(times, prepend=0.0)
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.var() == pytest.approx(0.25**2, rel=0.06), "the variance is the mean squared"
    # Of an exponential distribution, 1 - 1/e lies below the mean.
    assert (gaps < 0.25).mean() == pytest.approx(1 - 1 / math.e, abs=0.02)
    assert (gaps > 0).all()


def test_a_count_of_arrivals_has_the_mean_and_the_variance_of_poisson() -> None:
    counts = [len(PLAN.arrivals(level, 5.0, None, 4.0)) for level in range(2000)]
    assert np.mean(counts) == pytest.approx(20, rel=0.03)
    assert np.var(counts) == pytest.approx(20, rel=0.1)


def test_arrivals_end_in_time_and_depend_on_seed_and_level() -> None:
    times = PLAN.arrivals(0, 50.0, None, 2.0)
    assert times[0] > 0
    assert times[-1] < 2.0
    assert times == sorted(times) == PLAN.arrivals(0, 50.0, None, 2.0)
    assert times != PLAN.arrivals(1, 50.0, None, 2.0)
    assert times != dataclasses.replace(PLAN, seed=4).arrivals(0, 50.0, None, 2.0)
    assert PLAN.arrivals(0, math.inf, 3, None) == [0.0, 0.0, 0.0]


def test_too_many_arrivals() -> None:
    with pytest.raises(UserError, match="at most 1,000,000"):
        PLAN.arrivals(0, 1e6, None, 60.0)


def test_a_request_depends_on_its_number_only() -> None:
    later = PLAN.request(0, 9)
    assert later == PLAN.request(0, 9)
    assert len({str(PLAN.request(level, n).body) for level in (0, 1) for n in range(50)}) == 100
    assert later.path == "chat/completions"


def test_lengths_are_those_of_the_plan() -> None:
    plan = dataclasses.replace(PLAN, cost=WordCost(1.0, 0.0))
    found = [plan.request(0, number) for number in range(300)]
    assert {len(words_of(request)) for request in found} == set(range(10, 31))
    assert {request.body["max_tokens"] for request in found} == set(range(5, 10))


def test_a_length_without_end_stays_inside_the_context() -> None:
    long = parse_lengths("lognormal:100,1", "--x")
    plan = LoadPlan(0, long, long, cost=WordCost(1.0, 0.0), most_tokens=120)
    for number in range(300):
        request = plan.request(0, number)
        assert len(words_of(request)) + request.body["max_tokens"] <= 120
        assert request.body["max_tokens"] >= 1


def test_hang_ups_are_a_share_and_within_the_answer() -> None:
    plan = dataclasses.replace(PLAN, hang_up_share=0.3)
    found = [plan.request(0, number) for number in range(3000)]
    after = [request.hang_up_after for request in found if request.hang_up_after is not None]
    assert len(after) == pytest.approx(900, rel=0.1)
    assert set(after) == set(range(1, 10))
    assert all(r.hang_up_after is None or r.hang_up_after <= r.body["max_tokens"] for r in found)
    assert [r.body for r in found[:50]] == [PLAN.request(0, n).body for n in range(50)]


def test_the_shared_beginning_is_the_same_for_all() -> None:
    plan = dataclasses.replace(PLAN, shared_words=12)
    first, other = plan.request(0, 0).body["messages"], plan.request(1, 5).body["messages"]
    assert first[0] == other[0]
    assert len(first[0]["content"].split()) == 12
    assert first[1] != other[1]


def test_lines_of_a_file_are_used_in_turn() -> None:
    lines = (PromptLine("a", None, 77), PromptLine("b", None, None))
    plan = dataclasses.replace(PLAN, lines=lines, fields={"temperature": 0})
    first, second, third = (plan.request(0, number) for number in range(3))
    assert first.body == {"prompt": "a", "max_tokens": 77, "temperature": 0} == third.body
    assert first.path == "completions"
    assert 5 <= second.body["max_tokens"] <= 9


def test_each_request_has_its_own_code_word() -> None:
    plan = dataclasses.replace(PLAN, has_code_words=True)
    found = [plan.request(level, number) for level in (0, 1) for number in range(100)]
    assert len({request.code_word for request in found}) == 200
    assert all(request.code_word in str(request.body) for request in found)


def test_names_of_levels() -> None:
    assert [Level(clients=4).name, Level(rate=0.5).name, Level(rate=math.inf).name] == [
        "4",
        "0.5/s",
        "inf/s",
    ]
