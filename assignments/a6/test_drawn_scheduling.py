"""a6.13 and a6.14 on drawn inputs: whole runs, compared step by step with scheduler_oracle.py."""

from itertools import product

from hypothesis import strategies as st
from scheduler_oracle import traced_by_oracle
from scheduler_runs import scheduler_of, traced

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "inference.batch_scheduler.Scheduler."

BEGINNINGS = [(), (), (3, 1, 4, 1), (3, 1, 4, 1, 5, 2), (3, 1, 4, 1, 5, 2, 6, 5, 3)]
# Few draws for each run, because Hypothesis takes longer than the runs: the step in which a request
# arrives, the beginning of its prompt, and the token that fills up the prompt.
kinds = st.sampled_from(list(product(range(4), BEGINNINGS, range(3))))
shapes = st.sampled_from(list(product(range(1, 5), range(1, 5), [True, False])))
contexts = st.integers(4, 14)


@st.composite
def runs(draw, most_room, most_new=6, stops=((), (), (0,), (1, 5)), contexts=None, aborts=0):
    """A pool, limits and requests that fit: the pool has up to `most_room` blocks more than the
    largest request needs. About `aborts` requests are aborted.
    """
    size, most_running, caching = draw(shapes)
    context = 1000 if contexts is None else draw(contexts)
    requests = []
    for _ in range(draw(st.integers(1, 5))):
        arrival, beginning, token = draw(kinds)
        prompt = beginning + (token,) * draw(near_constants(st.integers(0, 6), 1, 40))
        limit = draw(near_constants(st.integers(1, most_new), 1, 30))
        stop_ids = stops[(len(prompt) + token) % len(stops)]
        requests.append((arrival, prompt[:context] or (token,), limit, stop_ids))
    most = max(min(len(prompt) + limit - 1, context) for _, prompt, limit, _ in requests)
    numbers = st.integers(0, 8)
    run = {
        "pool": (-(-most // size) + draw(st.integers(0, most_room)), size),
        "limits": (most_running + draw(near_constants(numbers, 0, 200)), most_running),
        "caching": caching,
        "context": context,
        "requests": requests,
        "aborts": [
            (draw(numbers), draw(st.booleans()), draw(numbers) % len(requests))
            for _ in range(aborts)
        ],
    }
    return {**run, "steps": len(traced_by_oracle(**run))}


def until_blocks_run_out(run):
    """The same run, without the step in which the first request would be preempted."""
    trace = traced_by_oracle(**run)[:-1]
    steps = [number for number, event in enumerate(trace) if event["preempted"]]
    return {**run, "steps": min([*steps, run["steps"]]), "by_hand": True}


def added(module, pool, limits, context, requests):
    scheduler = scheduler_of(module, pool, limits, context=context)
    for name, length, max_new_tokens in requests:
        scheduler.add(module.Request(name, [1] * length, max_new_tokens))
    return [(r.id, r.state.name, r.num_computed) for r in scheduler.waiting], scheduler.has_work


names = st.sampled_from(["a", "b", "c", "d", "e", "f"])
lengths = near_constants(st.one_of(st.integers(1, 10), st.integers(0, 12)), 0, 300)
SPACES = [
    Space(
        "a6.13",
        f"{NAME}add",
        arguments(
            {
                "pool": st.tuples(st.integers(2, 6), st.integers(1, 4)),
                "limits": st.just((8, 2)),
                "context": near_constants(st.integers(5, 20), 1, 300),
                "requests": st.lists(
                    st.tuples(names, lengths, near_constants(st.integers(0, 8), 0, 300)),
                    max_size=3,
                    unique_by=lambda request: request[0] if request[1] % 4 else object(),
                ),
            }
        ),
        call=added,
        told=r"(?<=prompt has )\d+|(?<=context holds )\d+|(?<=blocks, which have )\d+"
        r"|(?<=with the id ')\w+|(?<=at least 1, got )-?\d+",
        draws=40,
    ),
    Space(
        "a6.13",
        f"{NAME}schedule",
        runs(9, stops=[()]).map(until_blocks_run_out),
        call=traced,
        oracle=traced_by_oracle,
        draws=40,
    ),
    Space(
        "a6.14",
        f"{NAME}make_room",
        runs(2, most_new=9, stops=[(), (), (0,)]),
        call=traced,
        oracle=traced_by_oracle,
        draws=30,
    ),
    Space(
        "a6.14",
        f"{NAME}finish_step",
        runs(12, contexts=contexts),
        call=traced,
        oracle=traced_by_oracle,
        draws=30,
    ),
    Space(
        "a6.14",
        f"{NAME}abort",
        runs(6, aborts=3),
        call=traced,
        oracle=traced_by_oracle,
        draws=30,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
