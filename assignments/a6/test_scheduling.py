"""a6.13: the tokens of a step. The checks do themselves what `finish_step` and `make_room` do."""

import pytest
from scheduler_runs import (
    SimulatedModel,
    chunks_of,
    end_by_hand,
    finish_by_hand,
    ids_of,
    scheduler_of,
)

pytestmark = pytest.mark.task("a6.13")
MODULE = "inference.batch_scheduler"
IN_ORDER = "decodes (one token left) come first, then other running requests, then waiting ones"


class Run:
    """A scheduler in which nobody is preempted, with requests "a", "b", ... and a model."""

    def __init__(self, implementation, pool=(60, 4), limits=(8, 4), caching=False, context=200):
        self.module = implementation(MODULE)
        self.scheduler = scheduler_of(self.module, pool, limits, caching, context)
        self.scheduler.make_room = list
        self.model = SimulatedModel(pool[1])

    def add(self, name, prompt, max_new_tokens=9):
        """Add a request; a number stands for a prompt of so many tokens, all its own."""
        if isinstance(prompt, int):
            prompt = [ord(name), *range(prompt - 1)]
        request = self.module.Request(name, list(prompt), max_new_tokens)
        self.scheduler.add(request)
        return request

    def step(self):
        """Make a step, and return its chunks."""
        step = self.scheduler.schedule()
        finish_by_hand(self.scheduler, step, self.model.run(step))
        return chunks_of(step)


def test_a_long_prompt_in_chunks(implementation, a6):
    run = Run(implementation, limits=(4, 1))
    request = run.add("a", 10)
    what = "the chunks of a prompt of 10 tokens, 4 tokens a step"
    causes = {
        "a chunk may not be longer than the budget": [[("a", 0, 10, True)]],
        "a chunk in the middle of the prompt does not sample": (
            lambda got: len(got) > 1 and all(chunk[3] for step in got for chunk in step)
        ),
        "the chunk with the last token of the prompt samples": (
            lambda got: len(got) == 3 and not any(chunk[3] for step in got for chunk in step)
        ),
        "`first` is the request's num_computed": (
            lambda got: [c[1] for step in got[:3] for c in step] != [0, 4, 8]
        ),
    }
    expected = [[("a", 0, 4, False)], [("a", 4, 4, False)], [("a", 8, 2, True)]]
    a6.expect([run.step() for _ in range(3)], expected, what, causes)
    a6.expect([run.step()], [[("a", 10, 1, True)]], "the step after the prompt")
    a6.expect(request.table.num_tokens, 11, "table.num_tokens after 10 + 1 tokens")


def test_an_answer_so_far_in_chunks(implementation, a6):
    """A preempted request is computed again: its answer, too, and only the end samples."""
    run = Run(implementation, limits=(4, 1))
    request = run.add("a", 3)
    request.answer_ids += [5, 1, 4, 2, 6, 3]
    causes = {
        "only the chunk with the last known token samples: that is one of the answer here": (
            lambda got: got[0][0][3]
        ),
        "the known tokens are the prompt and the answer so far": lambda got: (
            got[0] == [("a", 0, 3, True)]
        ),
    }
    expected = [[("a", 0, 4, False)], [("a", 4, 4, False)], [("a", 8, 1, True)]]
    what = "a prompt of 3 with an answer of 6 so far, 4 tokens a step"
    a6.expect([run.step() for _ in range(3)], expected, what, causes)


def test_decodes_come_first(implementation, a6):
    run = Run(implementation, limits=(6, 4))
    run.add("a", 9)
    run.add("b", 2)
    a6.expect([run.step(), run.step()][1], [("a", 6, 3, True), ("b", 0, 2, True)], "step 2")
    run.add("c", 9)
    run.add("d", 3)
    causes = {
        IN_ORDER: [("c", 0, 6, False)],
        "the tokens of the decodes count for the budget, too": lambda got: (
            sum(chunk[2] for chunk in got) > 6
        ),
    }
    expected = [("a", 9, 1, True), ("b", 2, 1, True), ("c", 0, 4, False)]
    a6.expect(run.step(), expected, "two decodes and a prompt of 9, 6 tokens a step", causes)
    expected = [("a", 10, 1, True), ("b", 3, 1, True), ("c", 4, 4, False)]
    a6.expect(run.step(), expected, "the next step", causes)
    causes = {"the tokens that c leaves are for the request that waits": lambda got: len(got) == 3}
    expected = [("a", 11, 1, True), ("b", 4, 1, True), ("c", 8, 1, True), ("d", 0, 3, True)]
    a6.expect(run.step(), expected, "the step that ends the prompt of 9", causes)


def test_running_prompts_before_waiting_ones(implementation, a6):
    """c decodes though it arrived last; a and b share what it leaves, by arrival."""
    run = Run(implementation, limits=(5, 3))
    first, second, third = run.add("a", 12), run.add("b", 9), run.add("c", 2)
    run.add("d", 1)
    for request, computed in ((first, 4), (second, 3), (third, 1)):
        run.scheduler.waiting.remove(request)
        run.scheduler.running.append(request)
        request.state = run.module.RequestState.RUNNING
        request.num_computed = request.table.num_tokens = computed
        request.table.blocks.append(run.scheduler.pool.allocate())
    got = chunks_of(run.scheduler.schedule())
    causes = {
        IN_ORDER: lambda got: got[0][0] != "c",
        "a request with one token left decodes, whether this is of its prompt or its answer": (
            [("a", 4, 5, False)]
        ),
        "max_running is the most that may run at one time": lambda got: got[-1][0] == "d",
    }
    a6.expect(got, [("c", 1, 1, True), ("a", 4, 4, False)], "three running, 5 tokens", causes)


def test_several_are_admitted_in_one_step(implementation, a6):
    run = Run(implementation, limits=(12, 3))
    requests = [run.add(name, 3) for name in "abcd"]
    step = run.scheduler.schedule()
    causes = {
        "as many are admitted as the budget and max_running allow": lambda got: len(got) < 3,
        "max_running is the most that may run at one time": lambda got: len(got) == 4,
    }
    a6.expect(
        chunks_of(step),
        [("a", 0, 3, True), ("b", 0, 3, True), ("c", 0, 3, True)],
        "4 prompts of 3, 12 tokens a step, at most 3 running",
        causes,
    )
    a6.expect(ids_of(run.scheduler.running), ["a", "b", "c"], "running")
    a6.expect(ids_of(run.scheduler.waiting), ["d"], "waiting")
    states = [request.state.name for request in requests]
    a6.expect(states, ["RUNNING"] * 3 + ["WAITING"], "the states of a, b, c, d")
    a6.expect((step.copies, step.preempted), ([], []), "copies and preempted")


def test_places_are_reserved(implementation, a6):
    run = Run(implementation, pool=(9, 4), limits=(6, 2))
    long, short = run.add("a", 9), run.add("b", 4)
    run.scheduler.schedule()
    a6.expect(
        (long.table.num_tokens, len(long.table.blocks), run.scheduler.pool.num_available),
        (6, 2, 7),
        "(num_tokens, blocks) of the table and available blocks after a chunk of 6",
        {
            "only the places of the chunk are reserved; the rest of the prompt comes later": (
                9,
                3,
                6,
            ),
            "reserve the places of the chunk": (0, 0, 9),
        },
    )
    a6.expect(long.num_computed, 0, "num_computed after schedule: nothing is computed yet")
    a6.expect((short.table.num_tokens, short.state.name), (0, "WAITING"), "the request without any")


def test_copies_are_passed_on(implementation, a6):
    """A table that shares its last, partly filled block gets a copy of it."""
    run = Run(implementation, pool=(9, 4), limits=(8, 2))
    request = run.add("a", 6)
    run.step()
    pool, block = run.scheduler.pool, request.table.blocks[-1]
    pool.share(block)
    step = run.scheduler.schedule()
    a6.expect(step.copies, [(block, request.table.blocks[-1])], "copies")
    a6.true(block != request.table.blocks[-1], "the shared block must leave the table")


def test_nobody_overtakes(implementation, a6):
    run = Run(implementation, pool=(6, 4), limits=(20, 4))
    run.add("a", 9)
    run.step()
    run.add("b", 13)
    run.add("c", 2)
    causes = {
        "c arrived after b, so it waits behind it, although it would fit": lambda got: (
            "c" in [chunk[0] for chunk in got]
        ),
        "b needs 4 blocks, and 3 are available: it has to wait": lambda got: (
            "b" in [chunk[0] for chunk in got]
        ),
    }
    a6.expect(run.step(), [("a", 9, 1, True)], "b (13 tokens) does not fit beside a", causes)
    a6.expect(ids_of(run.scheduler.waiting), ["b", "c"], "waiting")
    end_by_hand(run.module, run.scheduler, run.scheduler.running[0])
    expected = [("b", 0, 13, True), ("c", 0, 2, True)]
    a6.expect(run.step(), expected, "the step after a has ended")


def test_all_known_tokens_must_fit(implementation, a6):
    run = Run(implementation, pool=(6, 4), limits=(5, 2))
    run.add("a", 9)
    run.step()
    run.add("b", 14)
    causes = {
        "b is admitted once all its 14 tokens fit, not only its first chunk": (
            [("a", 5, 4, True), ("b", 0, 1, False)]
        ),
    }
    what = "3 blocks of 4 are available after a's chunk"
    a6.expect(run.step(), [("a", 5, 4, True)], what, causes)
    a6.expect(run.step(), [("a", 9, 1, True)], what, causes)


@pytest.mark.parametrize(("room", "admitted"), [(3, True), (2, False)], ids=["fits", "too-few"])
def test_exactly_enough_blocks(implementation, a6, room, admitted):
    run = Run(implementation, pool=(3, 4), limits=(20, 2))
    held = [run.scheduler.pool.allocate() for _ in range(3 - room)]
    run.add("a", 12, 1)
    expected = [("a", 0, 12, True)] if admitted else []
    what = f"a prompt of 12 with {room} blocks of 4 available ({len(held)} are held)"
    a6.expect(run.step(), expected, what)


def test_nobody_is_admitted_while_one_is_preempted(implementation, a6):
    run = Run(implementation, limits=(9, 4))
    run.add("a", 3)
    run.add("b", 4)
    run.step()
    run.add("c", 2)
    latest = run.scheduler.running[1]

    def make_room():
        run.scheduler.running.remove(latest)
        run.scheduler.waiting.insert(0, latest)
        latest.state, latest.num_computed = run.module.RequestState.WAITING, 0
        latest.table = type(latest.table)([], 0)
        return [latest]

    run.scheduler.make_room = make_room
    step = run.scheduler.schedule()
    causes = {
        "call make_room before you hand out any tokens": lambda got: (
            ("b", 4, 1, True) in got or len(got) == 0
        ),
        "a request that make_room has preempted waits for the next step": lambda got: any(
            chunk[0] == "b" for chunk in got
        ),
        "nobody is admitted in a step that preempts": lambda got: len(got) == 2,
    }
    a6.expect(chunks_of(step), [("a", 3, 1, True)], "a step that preempts b", causes)
    a6.expect(ids_of(step.preempted), ["b"], "step.preempted: what make_room returned")


# Cached beginnings


def shared(prompt_of_b, implementation):
    """Request a has computed a prompt of 10; then b is added."""
    run = Run(implementation, limits=(30, 4), caching=True)
    first = run.add("a", range(10))
    run.step()
    return run, first, run.add("b", prompt_of_b)


@pytest.mark.parametrize(
    ("prompt", "cached"),
    [
        (list(range(14)), 8),
        (list(range(10)), 8),
        (list(range(8)), 4),
        (list(range(7)), 4),
        ([0, 1, 2, 3, 9, 5, 6, 7, 8], 4),
        ([9, 1, 2, 3, 4, 5, 6, 7, 8], 0),
        (list(range(4)), 0),
    ],
    ids=[
        "longer",
        "same",
        "all-known",
        "7",
        "differs-later",
        "differs-at-once",
        "one-block",
    ],
)
def test_a_cached_beginning(implementation, a6, prompt, cached):
    run, first, second = shared(prompt, implementation)
    what = f"the chunk of {prompt} after a prompt of 0 to 9 was computed, blocks of 4"
    count = len(prompt) - cached
    causes = {
        "take_cached_prefix finds the blocks; num_computed begins behind them": (
            lambda got: got[-1][1] == 0
        ),
        "the cached tokens are not computed again": lambda got: got[-1][2] == len(prompt),
    }
    got = chunks_of(run.scheduler.schedule())
    a6.expect(got, [("a", 10, 1, True), ("b", cached, count, True)], what, causes)
    a6.expect(second.num_computed, cached, "num_computed of b after schedule")
    same = second.table.blocks[: cached // 4] == first.table.blocks[: cached // 4]
    a6.true(same, "the table of b begins with the blocks of a")
    references = [run.scheduler.pool.references(block) for block in first.table.blocks]
    a6.expect(references, [2] * (cached // 4) + [1] * (3 - cached // 4), "references of a's blocks")


def test_no_caching(implementation, a6):
    """The blocks that another scheduler has recorded in the pool are left alone."""
    run, _, _ = shared(range(14), implementation)
    settings = run.scheduler.settings.model_copy(update={"prefix_caching": False})
    other = run.module.Scheduler(run.scheduler.pool, settings, 200)
    other.make_room = list
    request = run.module.Request("c", list(range(14)), 3)
    other.add(request)
    causes = {"prefix_caching is off: nothing is shared": [("c", 8, 6, True)]}
    got = chunks_of(other.schedule())
    a6.expect(got, [("c", 0, 14, True)], "a known prompt without caching", causes)
    a6.expect((request.num_computed, len(request.table.blocks)), (0, 4), "(num_computed, blocks)")


def test_other_weights_have_other_keys(implementation, a6):
    run, _, _ = shared(range(14), implementation)
    settings = run.scheduler.settings
    other = run.module.Scheduler(run.scheduler.pool, settings, 200, b"other weights")
    other.make_room = list
    other.add(run.module.Request("c", list(range(14)), 3))
    causes = {"model_key goes into block_keys": [("c", 8, 6, True)]}
    got = chunks_of(other.schedule())
    a6.expect(got, [("c", 0, 14, True)], "the same prompt with another model_key", causes)


def test_not_computed_yet(implementation, a6):
    """Two requests with the same prompt are admitted in one step: neither knows the other's."""
    run = Run(implementation, limits=(40, 4), caching=True)
    run.add("a", range(10))
    run.add("b", range(10))
    causes = {
        "blocks are recorded after they were computed, in finish_step, never in schedule": (
            [("a", 0, 10, True), ("b", 8, 2, True)]
        ),
    }
    expected = [("a", 0, 10, True), ("b", 0, 10, True)]
    a6.expect(chunks_of(run.scheduler.schedule()), expected, "the same prompt twice", causes)


def test_cached_blocks_are_available_until_they_are_taken(implementation, a6):
    """6 blocks: a holds 2, 2 are cached, 2 empty. b begins with the cached ones and needs 3 more,
    so it does not fit, though 4 blocks are available before it takes any.
    """
    run = Run(implementation, pool=(6, 4), limits=(40, 4), caching=True)
    before = run.add("x", range(9))
    run.step()
    end_by_hand(run.module, run.scheduler, before)
    run.add("a", 6)
    run.step()
    pool = run.scheduler.pool
    a6.expect(pool.num_available, 4, "available blocks before b")
    second = run.add("b", range(18), 3)
    step = run.scheduler.schedule()
    causes = {
        "take the cached blocks first, and look then how many are available": (
            lambda got: len(got) == 2
        ),
    }
    what = "b needs 5 blocks, of which 2 are cached"
    a6.expect(chunks_of(step), [("a", 6, 1, True)], what, causes)
    causes = {
        "release_all gives back the cached blocks of a request that must wait": lambda got: (
            got[:2] == (2, 8)
        ),
    }
    got = pool.num_available, second.table.num_tokens, second.num_computed, second.state.name
    what = "(available blocks, table.num_tokens, num_computed, state) while b waits"
    a6.expect(got, (4, 0, 0, "WAITING"), what, causes)


# What is refused


def refused(run, a6, length, limit, words, what):
    request = run.module.Request("z", [1] * length, limit)
    a6.raises(ValueError, lambda: run.scheduler.add(request), what, words)
    a6.expect(ids_of(run.scheduler.waiting), [], f"waiting after {what} was refused")


def test_wrong_requests(implementation, a6):
    run = Run(implementation, pool=(5, 4), context=12)
    refused(run, a6, 0, 3, [], "an empty prompt")
    refused(run, a6, 13, 3, ["13", "12"], "a prompt of 13 in a context of 12")
    refused(run, a6, 3, 0, ["0"], "max_new_tokens = 0")
    run.add("a", 3)
    what = "a second request with the id 'a'"
    a6.raises(ValueError, lambda: run.add("a", 4), what, ["a"])
    run.step()
    a6.raises(ValueError, lambda: run.add("a", 4), f"{what}, which runs", ["a"])
    end_by_hand(run.module, run.scheduler, run.scheduler.running[0])
    run.add("a", 4)  # its name is free again
    run.add("b", 12, 1)  # as long as the context


def test_requests_that_never_fit(implementation, a6):
    run = Run(implementation, pool=(3, 4), context=100)
    refused(run, a6, 13, 1, ["12"], "a prompt of 13 for a pool of 3 blocks of 4")
    refused(run, a6, 5, 9, ["12"], "5 + 9 - 1 tokens for a pool of 3 blocks of 4")
    run.add("a", 5, 8)  # 12 tokens are computed, the 13th never is
    run = Run(implementation, pool=(3, 4), context=12)
    run.add("a", 5, 500)  # ends when the context is full
    a6.expect(run.scheduler.has_work, True, "has_work")


def test_a_long_queue_costs_nothing(implementation, a6):
    """A step looks at the first that waits, not at all of them."""
    steps = []
    for waiting in (5, 400):
        run = Run(implementation, limits=(8, 2), caching=True)
        for number in range(waiting):
            run.scheduler.waiting.append(run.module.Request(f"r{number}", [number % 7] * 9, 4))
        with a6.StepCounter() as counter:
            run.scheduler.schedule()
        steps.append(counter.steps)
    a6.true(
        steps[1] < 2 * steps[0] + 100,
        f"schedule took {steps[0]:,} steps with 5 waiting requests and {steps[1]:,} with 400: look "
        "only at the first one, until it must wait",
    )


def test_an_answer_that_is_computed_again(implementation, a6):
    """After a preemption, the answer so far is computed like a prompt."""
    run = Run(implementation, limits=(4, 1))
    request = run.module.Request("a", [1, 2, 3], 9)
    request.answer_ids = [4, 5, 6]
    run.scheduler.add(request)
    got = [chunks_of(run.scheduler.schedule())]
    causes = {
        "a chunk samples if it ends with the last known token, not with the last of the prompt": (
            [[("a", 0, 4, True)]]
        ),
    }
    what = "the first step of a request with 3 prompt and 3 answer tokens, 4 tokens a step"
    a6.expect(got, [[("a", 0, 4, False)]], what, causes)
