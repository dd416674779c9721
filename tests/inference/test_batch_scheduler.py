"""The scheduler on drawn loads: simulated blocks show a wrong, stale or lost token at once, and an
independent scheduler says what each step should be.
"""

import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import batch_scheduler
from inference.batch_scheduler import (
    FinishReason,
    Request,
    RequestState,
    Scheduler,
    SchedulerSettings,
    Step,
)
from inference.block_pool import BlockPool, block_keys, fork, release_all
from lm_course.locations import ASSIGNMENTS, PROJECT

sys.path.append(str(PROJECT / ASSIGNMENTS / "a6"))  # the checks of learners use the same runs
from scheduler_oracle import traced_by_oracle
from scheduler_runs import SimulatedModel, answer_alone, chunks_of, traced

BEGINNINGS = [(), (3, 1, 4, 1), (3, 1, 4, 1, 5, 9, 2, 6), (3, 1, 4, 1, 5, 9, 2, 6, 5)]


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, ...]:
    beginning = draw(st.sampled_from(BEGINNINGS))
    own = draw(st.lists(st.integers(0, 6), min_size=0 if beginning else 1, max_size=7))
    return (*beginning, *own)


@st.composite
def loads(draw: st.DrawFn) -> dict[str, Any]:
    """A pool, limits, requests that arrive over some steps, and aborts in any state."""
    size, most_running = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    context = draw(st.integers(16, 30))
    requests = draw(
        st.lists(
            st.tuples(
                st.integers(0, 12),
                prompts(),
                st.integers(1, 12),
                st.sampled_from([(), (0,), (1, 2)]),
            ),
            min_size=1,
            max_size=7,
        )
    )
    largest = max(min(len(prompt) + most - 1, context) for _, prompt, most, _ in requests)
    numbers = st.integers(0, len(requests) - 1)
    return {
        "pool": (-(-largest // size) + draw(st.integers(0, 5)), size),
        "limits": (most_running + draw(st.integers(0, 12)), most_running),
        "caching": draw(st.booleans()),
        "context": context,
        "requests": requests,
        "aborts": draw(st.lists(st.tuples(st.integers(0, 25), st.booleans(), numbers), max_size=3)),
    }


def check_step(scheduler: Scheduler, step: Step, arrival: dict[Request, int], load: Any) -> None:
    """Check what holds for every step, whatever the load."""
    budget, most_running = load["limits"]
    used = sum(chunk.count for chunk in step.chunks)
    assert used <= budget
    assert len(scheduler.running) <= most_running
    in_order = [arrival[request] for request in scheduler.running + scheduler.waiting]
    assert in_order == sorted(in_order), "a request has overtaken another"
    served = [chunk.request for chunk in step.chunks]
    assert len(set(served)) == len(served)
    assert set(served) <= set(scheduler.running)
    if scheduler.running:
        assert scheduler.running[0] in served, "the oldest request gets no token"
    for chunk in step.chunks:
        assert chunk.count > 0
        assert chunk.first == chunk.request.num_computed
        assert chunk.samples == (chunk.first + chunk.count == len(chunk.request.token_ids))
    if used < budget:
        partial = [chunk for chunk in step.chunks if not chunk.samples]
        assert not partial
        assert set(served) == set(scheduler.running), "tokens of the budget are left over"


def check_pool(scheduler: Scheduler) -> None:
    """Every block of a table counts as one reference, and nobody else holds any."""
    pool = scheduler.pool
    held = Counter(block for request in scheduler.running for block in request.table.blocks)
    assert [pool.references(block) for block in range(pool.num_blocks)] == [
        held[block] for block in range(pool.num_blocks)
    ]
    assert pool.num_available == pool.num_blocks - len(held)
    assert not any(request.table.blocks for request in scheduler.waiting)


@given(loads())
def test_every_request_ends_with_the_answer_that_it_has_alone(load: dict[str, Any]) -> None:
    tokens, running = load["limits"]
    settings = SchedulerSettings(
        max_tokens_per_step=tokens, max_running=running, prefix_caching=load["caching"]
    )
    scheduler = Scheduler(BlockPool(*load["pool"]), settings, load["context"])
    model = SimulatedModel(load["pool"][1])
    made = [
        Request(f"r{number}", list(prompt), most, frozenset(stops))
        for number, (_, prompt, most, stops) in enumerate(load["requests"])
    ]
    arrival: dict[Request, int] = {}
    ended: list[Request] = []
    # The oldest request gets a token in every step, so this is the most that they can take.
    most_steps = 13 + sum(len(request.prompt_ids) + request.max_new_tokens for request in made)
    for number in range(most_steps):
        for request, (step_of_arrival, *_) in zip(made, load["requests"], strict=True):
            if step_of_arrival == number:
                scheduler.add(request)
                arrival[request] = len(arrival)
        for within in (False, True):
            for step_of_abort, within_a_step, which in load["aborts"]:
                if (step_of_abort, within_a_step) == (number, within):
                    alive = made[which] in scheduler.waiting + scheduler.running
                    assert scheduler.abort(f"r{which}") == alive
            if not within:
                step = scheduler.schedule()
                check_step(scheduler, step, arrival, load)
                sampled = model.run(step)
        ended += scheduler.finish_step(step, sampled)
        check_pool(scheduler)
    assert not scheduler.has_work
    assert scheduler.pool.num_available == scheduler.pool.num_blocks
    for request in made:
        assert request.state is RequestState.FINISHED
        stops = request.stop_ids
        answer, reason = answer_alone(
            request.prompt_ids, request.max_new_tokens, stops, load["context"]
        )
        if request.finish_reason is FinishReason.ABORT:
            assert request.answer_ids == answer[: len(request.answer_ids)]
        else:
            assert (request.answer_ids, request.finish_reason) == (answer, reason)
    assert len(ended) == len(set(ended))
    aborted = {request for request in made if request.finish_reason is FinishReason.ABORT}
    assert set(ended) == set(made) - aborted


@given(loads())
def test_every_step_is_the_one_of_an_independent_scheduler(load: dict[str, Any]) -> None:
    expected = traced_by_oracle(**load)
    got = traced(batch_scheduler, **load, steps=len(expected) - 1)
    for number, (ours, right) in enumerate(zip(got, expected, strict=True)):
        assert ours == right, f"step {number}"


def scheduler_of(num_blocks: int = 40, **settings: Any) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, 4), SchedulerSettings(**settings), 100)


def test_shared_beginnings_are_computed_once() -> None:
    computed = {}
    for caching in (False, True):
        scheduler, model, total = scheduler_of(prefix_caching=caching), SimulatedModel(4), 0
        for number in range(5):
            scheduler.add(Request(f"r{number}", [*range(20), number], 3))
            while scheduler.has_work:
                step = scheduler.schedule()
                total += sum(chunk.count for chunk in step.chunks)
                scheduler.finish_step(step, model.run(step))
        computed[caching] = total
    assert computed == {False: 5 * 23, True: 5 * 23 - 4 * 20}


def test_a_forked_table_is_copied_before_it_grows() -> None:
    scheduler, model = scheduler_of(), SimulatedModel(4)
    request = Request("a", [1, 2, 3, 4, 5, 6], 4)
    scheduler.add(request)
    step = scheduler.schedule()
    scheduler.finish_step(step, model.run(step))
    copy = fork(scheduler.pool, request.table)
    step = scheduler.schedule()
    assert step.copies == [(copy.blocks[1], request.table.blocks[1])]
    scheduler.finish_step(step, model.run(step))
    while scheduler.has_work:
        step = scheduler.schedule()
        scheduler.finish_step(step, model.run(step))
    assert request.answer_ids == answer_alone([1, 2, 3, 4, 5, 6], 4, frozenset(), 100)[0]
    release_all(scheduler.pool, copy)
    assert scheduler.pool.num_available == 40


def test_blocks_that_others_hold_for_ever_end_in_waiting_not_in_an_error() -> None:
    scheduler = scheduler_of(num_blocks=2)
    scheduler.add(Request("a", [1, 2, 3, 4], 3))
    held = scheduler.pool.allocate()
    step = scheduler.schedule()
    scheduler.finish_step(step, {"a": 5})
    for preempted in (["a"], [], []):
        step = scheduler.schedule()
        assert [request.id for request in step.preempted] == preempted
        assert step.chunks == []
        assert scheduler.finish_step(step, {}) == []
    scheduler.pool.release(held)
    assert chunks_of(scheduler.schedule()) == [("a", 4, 1, True)]  # its first block was cached


def test_a_block_is_found_by_others_only_after_the_step_that_fills_it() -> None:
    scheduler, ids = scheduler_of(), list(range(9))
    scheduler.add(Request("a", ids, 3))
    step = scheduler.schedule()
    keys = block_keys(ids, 4)
    assert scheduler.pool.find(keys[0]) is None
    scheduler.finish_step(step, {"a": 1})
    assert scheduler.pool.find(keys[0]) is not None


@pytest.mark.parametrize("limits", [(0, 0), (4, 0), (4, 5)])
def test_settings_in_which_a_running_request_could_get_no_token(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"max_running must be 1 to max_tokens_per_step"):
        SchedulerSettings(max_tokens_per_step=limits[0], max_running=limits[1])


def test_finish_reasons_are_the_words_of_the_api() -> None:
    assert [f"{reason}" for reason in FinishReason] == ["stop", "length", "abort"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("a", [], 3), "the prompt has no tokens"),
        (Request("a", [1] * 101, 3), r"has 101 tokens, the model's context holds 100"),
        (Request("a", [1], 0), "max_new_tokens must be at least 1, got 0"),
        (Request("a", [1] * 10, 8), r"need 17 places in the blocks, which have 16"),
    ],
)
def test_requests_that_cannot_be_answered(request_: Request, message: str) -> None:
    scheduler = scheduler_of(num_blocks=4)
    with pytest.raises(ValueError, match=message):
        scheduler.add(request_)
    assert not scheduler.has_work


def test_an_id_is_free_again_after_its_request_has_ended() -> None:
    scheduler = scheduler_of()
    scheduler.add(Request("a", [1], 1))
    with pytest.raises(ValueError, match="the id 'a' has not ended"):
        scheduler.add(Request("a", [2], 1))
    step = scheduler.schedule()
    scheduler.finish_step(step, {"a": 3})
    scheduler.add(Request("a", [2], 1))
