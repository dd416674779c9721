"""a6.14: requests that lose their blocks, and requests that end."""

from importlib import import_module

import pytest
from scheduler_runs import (
    SimulatedModel,
    answer_alone,
    chunks_of,
    ids_of,
    scheduler_of,
)

pytestmark = pytest.mark.task("a6.14")
MODULE = "inference.batch_scheduler"
MOST_STEPS = 400  # far more than the runs below need


class Run:
    """A scheduler with requests "a", "b", ... and a model."""

    def __init__(self, implementation, pool=(60, 4), limits=(16, 4), caching=False, context=200):
        self.module = implementation(MODULE)
        self.scheduler = scheduler_of(self.module, pool, limits, caching, context)
        self.pool = self.scheduler.pool
        self.model = SimulatedModel(pool[1])

    def add(self, name, prompt, max_new_tokens=9, stop_ids=()):
        """Add a request; a number stands for a prompt of so many tokens, all its own."""
        if isinstance(prompt, int):
            prompt = [ord(name), *range(prompt - 1)]
        request = self.module.Request(name, list(prompt), max_new_tokens, frozenset(stop_ids))
        self.scheduler.add(request)
        return request

    def step(self, tokens=None):
        """Make a step, and return its chunks; `tokens` replaces what the model draws."""
        step = self.scheduler.schedule()
        sampled = self.model.run(step)
        self.ended = self.scheduler.finish_step(step, {**sampled, **(tokens or {})})
        self.preempted = ids_of(step.preempted)
        return chunks_of(step)

    def run_all(self, a6):
        """Make steps until there is no work left."""
        for number in range(MOST_STEPS):
            if not self.scheduler.has_work:
                return number
            self.step()
        waiting = ids_of(self.scheduler.waiting)
        running = ids_of(self.scheduler.running)
        raise a6.GradedFailure(
            f"after {MOST_STEPS} steps, the requests {running} run and {waiting} wait: the oldest "
            "must get a token in every step"
        )


def seen(request):
    return {
        "state": request.state.name,
        "num_computed": request.num_computed,
        "answer_ids": len(request.answer_ids),
        "blocks": len(request.table.blocks),
        "table.num_tokens": request.table.num_tokens,
        "num_preemptions": request.num_preemptions,
    }


# Preemption


def three_running(implementation, caching=False):
    """6 blocks of 4. After the second step, a, b and c hold 2 each, with 8, 6 and 8 tokens; so a
    and c need a block each for the next token, and d waits.
    """
    run = Run(implementation, pool=(6, 4), limits=(30, 3), caching=caching)
    requests = [run.add("a", 7), run.add("b", 5), run.add("c", 7)]
    for _ in range(2):
        run.step()
    requests.append(run.add("d", 2))
    return run, requests


def test_the_latest_gives_up_its_blocks(implementation, a6):
    run, (first, second, third, fourth) = three_running(implementation)
    answer = list(third.answer_ids)
    step = run.scheduler.schedule()
    causes = {
        "the latest is preempted, not the oldest": ["a"],
        "one is enough here: c's two blocks are available afterwards": lambda got: len(got) > 1,
    }
    what = "preempted when a and c need a block and none is available"
    a6.expect(ids_of(step.preempted), ["c"], what, causes)
    a6.expect(chunks_of(step), [("a", 8, 1, True), ("b", 6, 1, True)], "the chunks of this step")
    expected = {
        "state": "WAITING",
        "num_computed": 0,
        "answer_ids": 2,
        "blocks": 0,
        "table.num_tokens": 0,
        "num_preemptions": 1,
    }
    a6.expect(seen(third), expected, "the preempted request")
    a6.expect(third.answer_ids, answer, "its answer, which is kept")
    causes = {"it arrived before d, so it waits in front of it": ["d", "c"]}
    a6.expect(ids_of(run.scheduler.waiting), ["c", "d"], "waiting", causes)
    a6.expect(ids_of(run.scheduler.running), ["a", "b"], "running")
    a6.expect(run.pool.num_available, 1, "available blocks after the step was scheduled")
    counts = [request.num_preemptions for request in (first, second, fourth)]
    a6.expect(counts, [0, 0, 0], "num_preemptions of a, b and d")


def test_make_room_itself(implementation, a6):
    run, (*_, third, _) = three_running(implementation)
    got = run.scheduler.make_room()
    a6.expect(ids_of(got), ["c"], "make_room() returns the preempted requests, the latest first")
    a6.true(got[0] is third, "make_room() returns the requests themselves")
    a6.expect(run.scheduler.make_room(), [], "make_room() when there is room now")
    tokens = [request.table.num_tokens for request in run.scheduler.running]
    a6.expect(tokens, [8, 6], "table.num_tokens of a and b: make_room reserves nothing")


@pytest.mark.parametrize(
    ("budget", "preempted", "chunks"),
    [
        (9, ["c"], [("b", 2, 1, True), ("a", 4, 8, False)]),
        (10, ["c", "b"], [("a", 4, 10, True)]),
    ],
)
def test_as_many_as_needed(implementation, a6, budget, preempted, chunks):
    """4 blocks: a, b and c hold one each. b and c take 1 token each, a the others: with 9 tokens
    it needs 2 blocks for its 7, and then for its 8; with 10, it needs 3 for 9 and for 10.
    """
    run = Run(implementation, pool=(4, 4), limits=(budget, 3))
    made = [run.add("a", 14, 1), run.add("b", 3), run.add("c", 3)]
    run.scheduler.waiting.clear()
    for request, computed in zip(made, (4, 2, 2), strict=True):
        run.scheduler.running.append(request)
        request.state = run.module.RequestState.RUNNING
        request.num_computed = request.table.num_tokens = computed
        request.table.blocks.append(run.pool.allocate())
    run.add("d", 2)
    step = run.scheduler.schedule()
    causes = {
        "after c is preempted, a gets its token, too, and needs a third block": lambda got: (
            budget == 10 and got == ["c"]
        ),
        "preempt only until what all the others need in this step is available": lambda got: (
            budget == 9 and len(got) > 1
        ),
        "b and c take 1 token each, and a the rest of the budget": lambda got: got == [],
    }
    a6.expect(ids_of(step.preempted), preempted, f"preempted with {budget} tokens", causes)
    causes = {"the tokens of a preempted request are for the others": lambda got: (
        sum(chunk[2] for chunk in got) < budget
    )}  # fmt: skip
    a6.expect(chunks_of(step), chunks, f"the step with {budget} tokens", causes)
    waiting = [*reversed(preempted), "d"]
    a6.expect(ids_of(run.scheduler.waiting), waiting, "waiting, in the order of arrival")


def test_a_block_that_only_preempted_requests_share(implementation, a6):
    """6 blocks: a, b and c hold a full one each and need one more; d and e share their first block
    and have a partly filled one each. Once both are preempted, three blocks are available.
    """
    run = Run(implementation, pool=(6, 4), limits=(16, 8))
    blocks = [run.pool.allocate() for _ in range(6)]
    run.pool.share(blocks[3])
    for name, held, computed in [
        ("a", [0], 4),
        ("b", [1], 4),
        ("c", [2], 4),
        ("d", [3, 4], 6),
        ("e", [3, 5], 6),
    ]:
        request = run.add(name, computed + 1)
        run.scheduler.waiting.remove(request)
        run.scheduler.running.append(request)
        request.state = run.module.RequestState.RUNNING
        request.num_computed = request.table.num_tokens = computed
        request.table.blocks += [blocks[number] for number in held]
    causes = {
        "a block that only preempted requests share is available once all of them are preempted": (
            lambda got: got[0][:2] == ["e", "d"]
        ),
        "a block that d still holds is not available when e is preempted": lambda got: (
            got[0] == ["e"]
        ),
        "a, b and c need a block each, and none is available": lambda got: got[0] == [],
    }
    got = ids_of(run.scheduler.make_room()), ids_of(run.scheduler.running)
    what = "(preempted, running) after make_room() when d and e share one of their two blocks"
    a6.expect(got, (["e", "d"], ["a", "b", "c"]), what, causes)
    a6.expect(run.pool.num_available, 3, "available blocks after d and e were preempted")


def test_those_who_need_no_block_stay(implementation, a6):
    run = Run(implementation, pool=(3, 4), limits=(30, 3))
    for name, size in (("a", 5), ("b", 1)):
        run.add(name, size, 4)
    run.step()
    got = [run.step() for _ in range(3)]
    a6.expect(run.pool.num_available, 3, "available blocks at the end")
    causes = {"a block with a free place is enough: nobody needs another one": lambda got: True}
    expected = [[("a", n, 1, True), ("b", n - 4, 1, True)] for n in (5, 6, 7)]
    a6.expect(got, expected, "3 blocks hold all tokens of a (8) and b (4)", causes)


def test_it_is_computed_again(implementation, a6):
    run, (first, second, third, _) = three_running(implementation)
    answer = list(third.answer_ids)
    run.step()
    for request in (first, second):
        run.scheduler.abort(request.id)
    causes = {
        "the prompt alone is not enough: the answer so far is computed again, too": (
            lambda got: got[0][:3] == ("c", 0, 7)
        ),
        "num_computed is 0 after a preemption": lambda got: got[0][0] == "c" and got[0][1] > 0,
        "abort takes a request out of running at once": lambda got: got[0][0] == "a",
    }
    got = run.step()
    a6.expect(got[:1], [("c", 0, 9, True)], "c, with 7 + 2 tokens, when it is admitted", causes)
    run.run_all(a6)
    expected = answer_alone([ord("c"), *range(6)], 9, frozenset(), 200)[0]
    causes = {"the answer continues where it was": lambda got: got[:2] != answer}
    a6.expect(third.answer_ids, expected, "the answer of c after a preemption", causes)


def test_it_finds_its_own_blocks_again(implementation, a6):
    run, (first, second, third, _) = three_running(implementation, caching=True)
    run.step()
    a6.expect(run.preempted, ["c"], "preempted")
    run.scheduler.abort("b")
    got = run.step()
    causes = {
        "the full blocks of the preempted request are cached: take_cached_prefix finds them": (
            lambda got: ("c", 0, 9, True) in got
        ),
    }
    expected = [("a", 9, 1, True), ("c", 4, 5, True)]
    what = "the step after b was aborted: c's first block is still cached, its second was taken"
    a6.expect(got, expected, what, causes)
    run.run_all(a6)
    for request, length in ((first, 7), (third, 7)):
        expected = answer_alone([ord(request.id), *range(length - 1)], 9, frozenset(), 200)[0]
        a6.expect(request.answer_ids, expected, f"the answer of {request.id}")
    a6.expect(second.answer_ids, answer_alone([98, *range(4)], 4, frozenset(), 200)[0][:3], "b")


def test_it_finds_blocks_of_its_answer_again(implementation, a6):
    """The other blocks are held for one step, so the only request has to give up its two."""
    run = Run(implementation, pool=(6, 4), caching=True)
    request = run.add("a", 6)
    for _ in range(3):
        run.step()
    held = [run.pool.allocate() for _ in range(4)]
    a6.expect((run.step(), run.preempted), ([], ["a"]), "a step without any block left")
    for block in held:
        run.pool.release(block)
    causes = {
        "the keys are those of all known tokens, not of the prompt alone": [("a", 4, 5, True)],
    }
    what = "the next step: 8 of a's 9 tokens, of which 3 are its answer, are cached"
    a6.expect(run.step(), [("a", 8, 1, True)], what, causes)
    a6.expect(len(request.answer_ids), 4, "the length of its answer")


def test_one_alone_uses_every_block(implementation, a6):
    run = Run(implementation, pool=(3, 4), limits=(3, 3))
    for name in "abc":
        run.add(name, 5, 8)  # 12 tokens with keys and values: all 3 blocks
    steps = run.run_all(a6)
    a6.true(steps <= 40, f"3 requests one after the other take up to 30 steps, not {steps}")


# Ends of requests


def test_a_stop_id_ends_the_answer(implementation, a6):
    run = Run(implementation)
    request, other = run.add("a", 3, 9, [5, 6]), run.add("b", 3, 9)
    run.step({"a": 2, "b": 5})
    run.step({"a": 6, "b": 6})
    got = request.answer_ids, request.state.name, request.finish_reason
    reason = run.module.FinishReason
    causes = {
        "the stop id does not belong to the answer": lambda got: got[0] == [2, 6],
        "the reason is FinishReason.STOP": lambda got: got[2] != reason.STOP,
    }
    what = "(answer, state, reason) after the tokens 2 and 6; 6 is a stop id"
    a6.expect(got, ([2], "FINISHED", reason.STOP), what, causes)
    a6.expect(ids_of(run.ended), ["a"], "what finish_step returned")
    a6.expect(other.answer_ids, [5, 6], "the answer of another request without stop ids")
    a6.expect(ids_of(run.scheduler.running), ["b"], "running")
    a6.expect((request.table.blocks, run.pool.num_available), ([], 59), "its blocks, available")


def test_a_stop_id_at_once_and_at_the_limit(implementation, a6):
    run = Run(implementation)
    request, last = run.add("a", 3, 9, [5]), run.add("b", 3, 2, [5])
    run.step({"a": 5, "b": 1})
    run.step({"b": 5})
    stop = run.module.FinishReason.STOP
    a6.expect((request.answer_ids, request.finish_reason), ([], stop), "a stop id as first token")
    causes = {"the stop id itself was drawn: the answer has 1 of 2 tokens, so it was not the limit":
              lambda got: got[1] != stop}  # fmt: skip
    got = last.answer_ids, last.finish_reason
    a6.expect(got, ([1], stop), "a stop id in place of the last token", causes)


def test_the_limit_of_the_answer(implementation, a6):
    run = Run(implementation)
    requests = [run.add("a", 3, 1), run.add("b", 3, 3)]
    ended = []
    for _ in range(3):
        run.step()
        ended.append(ids_of(run.ended))
    causes = {
        "max_new_tokens counts the answer, not the prompt": lambda got: "b" in got[0],
        "a request ends in the step that gives its last token": lambda got: got[0] == [],
    }
    a6.expect(ended, [["a"], [], ["b"]], "who ends in which step, with limits 1 and 3", causes)
    a6.expect([len(r.answer_ids) for r in requests], [1, 3], "the lengths of the answers")
    reasons = [request.finish_reason for request in requests]
    a6.expect(reasons, [run.module.FinishReason.LENGTH] * 2, "finish_reason")


@pytest.mark.parametrize("prompt", [6, 7, 8])
def test_the_context_is_full(implementation, a6, prompt):
    run = Run(implementation, context=8)
    request = run.add("a", prompt, 50)
    for _ in range(6):
        run.step()
    causes = {
        "the last token is never computed, so it may be one place past the context": (8 - prompt),
        "the context is full": lambda got: got > 9 - prompt,
    }
    what = f"the length of the answer to a prompt of {prompt} in a context of 8"
    a6.expect(len(request.answer_ids), 9 - prompt, what, causes)
    a6.expect(request.finish_reason, run.module.FinishReason.LENGTH, "finish_reason")


def test_a_chunk_in_the_middle_gives_no_token(implementation, a6):
    run = Run(implementation, limits=(4, 2))
    request = run.add("a", 10, 3)
    for computed in (4, 8):
        step = run.scheduler.schedule()
        run.scheduler.finish_step(step, run.model.run(step))
        a6.expect((request.num_computed, request.answer_ids), (computed, []), "(computed, answer)")
    run.step()
    a6.expect((request.num_computed, len(request.answer_ids)), (10, 1), "(computed, answer)")


def test_full_blocks_are_recorded(implementation, a6):
    run = Run(implementation, pool=(20, 4), limits=(6, 2), caching=True)
    request = run.add("a", 11, 3)
    keys = import_module("inference.block_pool").block_keys(request.prompt_ids, 4)
    found = []
    for _ in range(2):
        step = run.scheduler.schedule()
        before = [run.pool.find(key) is not None for key in keys]
        run.scheduler.finish_step(step, run.model.run(step))
        found += [before, [run.pool.find(key) is not None for key in keys]]
    causes = {
        "record_full_blocks records what finish_step has just marked as computed": (
            lambda got: not any(map(any, got))
        ),
        "a block is recorded once it is computed": lambda got: got[0] != [False] * 2,
    }
    expected = [[False, False], [True, False], [True, False], [True, True]]
    what = "whether the keys are found, before and after finish_step, with chunks of 6"
    a6.expect(found, expected, what, causes)
    run.run_all(a6)
    a6.expect([run.pool.find(key) is not None for key in keys], [True] * 2, "found after the end")


def test_blocks_of_the_answer_are_recorded(implementation, a6):
    run = Run(implementation, pool=(20, 4), limits=(6, 2), caching=True)
    request = run.add("a", 6, 4)
    run.run_all(a6)
    keys = import_module("inference.block_pool").block_keys(request.token_ids, 4)
    got = [run.pool.find(key) is not None for key in keys]
    causes = {"blocks that are filled while the answer is written are recorded": [True, False]}
    a6.expect(got, [True, True], "found after 6 + 4 tokens, of which 9 are computed", causes)
    run = Run(implementation, pool=(20, 4), limits=(6, 2), caching=True)
    request = run.add("a", 6, 3)
    run.run_all(a6)
    keys = import_module("inference.block_pool").block_keys([*request.token_ids, 1, 2, 3], 4)
    found = [run.pool.find(key) is not None for key in keys]
    a6.expect(found, [True, True, False], "found after 6 + 3 tokens, of which 8 are computed")


def test_nothing_is_recorded_without_caching(implementation, a6):
    run = Run(implementation, caching=False)
    request = run.add("a", 11, 3)
    keys = import_module("inference.block_pool").block_keys(request.prompt_ids, 4)
    run.step()
    found = [run.pool.find(key) for key in keys]
    a6.expect(found, [None, None], "what is found when prefix_caching is off")


def test_keys_only_when_a_block_is_filled(implementation, a6):
    """The keys of a long text take long; a token within a block needs none."""
    steps = []
    for length in (9, 801):
        run = Run(implementation, pool=(300, 4), limits=(900, 2), caching=True, context=2000)
        run.add("a", [1] * length, 9)
        run.step()
        step = run.scheduler.schedule()
        with a6.StepCounter() as counter:
            run.scheduler.finish_step(step, {"a": 3})
        steps.append(counter.steps)
    a6.true(
        steps[1] < 2 * steps[0] + 100,
        f"finish_step took {steps[0]:,} steps for one token after 9, and {steps[1]:,} after 801, "
        "though no block was filled: compute keys only when a chunk fills a block",
    )


# Aborts


def test_abort_in_every_state(implementation, a6):
    run = Run(implementation, limits=(16, 1))
    running, waiting = run.add("a", 5), run.add("b", 5)
    run.step()
    reason = run.module.FinishReason.ABORT
    for request in (waiting, running):
        a6.expect(run.scheduler.abort(request.id), True, f"abort of {request.id}")
        got = request.state.name, request.finish_reason, len(request.table.blocks)
        a6.expect(got, ("FINISHED", reason, 0), f"(state, reason, blocks) of {request.id}")
        causes = {"it has ended already": True}
        a6.expect(run.scheduler.abort(request.id), False, f"{request.id} again", causes)
    a6.expect(run.scheduler.has_work, False, "has_work when both were aborted")
    a6.expect(run.pool.num_available, 60, "available blocks when both were aborted")
    a6.expect(len(running.answer_ids), 1, "the answer so far, which is kept")
    a6.expect(run.scheduler.abort("x"), False, "abort of an unknown id")
    ended = run.add("c", 5, 1)
    run.step()
    a6.expect(run.scheduler.abort("c"), False, "abort of a request that has ended by itself")
    a6.expect(ended.finish_reason, run.module.FinishReason.LENGTH, "its finish_reason")


@pytest.mark.parametrize("caching", [False, True])
def test_abort_within_a_step(implementation, a6, caching):
    run = Run(implementation, caching=caching)
    request, other = run.add("a", 5), run.add("b", 5)
    run.step()
    step = run.scheduler.schedule()
    sampled = run.model.run(step)
    a6.expect(run.scheduler.abort("a"), True, "abort between schedule and finish_step")
    a6.expect(run.pool.num_available, 58, "available blocks right after the abort")
    again = run.add("a", 6)
    ended = run.scheduler.finish_step(step, sampled)
    causes = {"finish_step ignores the chunk of a request that has been aborted": (2, [0, 1])}
    got = len(request.answer_ids), [len(again.answer_ids), request.num_computed // 5]
    a6.expect(got, (1, [0, 1]), "(its answer, [that of a new request with its id, ...])", causes)
    a6.expect(ids_of(ended), [], "the requests that ended in this step: the abort came before")
    a6.expect(len(other.answer_ids), 2, "the answer of the other request")
    a6.expect(run.pool.num_available, 58, "available blocks after finish_step")
    run.run_all(a6)
    expected = answer_alone([97, *range(5)], 9, frozenset(), 200)[0]
    a6.expect(again.answer_ids, expected, "the answer of the new request with its id")
    a6.expect(run.pool.num_available, 60, "available blocks at the end")


def test_a_result_for_a_request_that_is_gone(implementation, a6):
    """Its id is in use again, by a request that already runs."""
    run = Run(implementation)
    old = run.add("a", 3)
    step = run.scheduler.schedule()
    run.scheduler.abort("a")
    new = run.add("a", 3)
    run.scheduler.schedule()
    run.scheduler.finish_step(step, {"a": 7})
    cause = "go by the request of the chunk: another request now has its id"
    got = (new.answer_ids, new.num_computed)
    a6.expect(got, ([], 0), "(answer_ids, num_computed) of the new request", {cause: ([7], 3)})
    got = (old.answer_ids, old.num_computed)
    a6.expect(got, ([], 0), "(answer_ids, num_computed) of the request that was aborted")


def test_abort_of_a_preempted_request(implementation, a6):
    run, (*_, third, _) = three_running(implementation)
    run.step()
    a6.expect(run.preempted, ["c"], "preempted")
    a6.expect(run.scheduler.abort("c"), True, "abort of a preempted request")
    run.run_all(a6)
    a6.expect(len(third.answer_ids), 2, "its answer")
    a6.expect(run.pool.num_available, 6, "available blocks at the end")


# Everything together


@pytest.mark.parametrize("caching", [False, True], ids=["no-caching", "caching"])
@pytest.mark.parametrize("blocks", [5, 8, 40])
def test_each_answer_is_that_of_the_request_alone(implementation, a6, blocks, caching):
    run = Run(implementation, pool=(blocks, 4), limits=(7, 5), caching=caching, context=18)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5], [9] * 8, [1, 2, 3, 4, 5, 6, 7, 8], [3]]
    made = [
        run.add(name, prompt, 11, [0] if name == "d" else [])
        for name, prompt in zip("abcde", prompts, strict=True)
    ]
    steps = run.run_all(a6)
    for request, prompt in zip(made, prompts, strict=True):
        answer, reason = answer_alone(prompt, 11, request.stop_ids, 18)
        what = f"(answer, reason) of {request.id} with {blocks} blocks"
        a6.expect((request.answer_ids, request.finish_reason.value), (answer, reason), what)
    a6.expect(run.pool.num_available, blocks, "available blocks at the end")
    a6.true(steps <= 100, f"{steps} steps for 5 requests; alone, one after the other, they need 58")
