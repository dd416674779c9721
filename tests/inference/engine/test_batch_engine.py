"""Whatever the schedule, each request gets the text that it gets alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.batch_scheduler import FinishReason
from inference.engine import batch_engine
from inference.engine.batch_engine import BatchEngine
from inference.engine.batch_requests import BatchSettings
from inference.generation import generate
from inference.sampling import SamplingSettings, seed_of_sample
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

VOCABULARY = 6  # few tokens: equal beginnings, repeated n-grams and stop ids are frequent
CONTEXT = 40


@pytest.fixture(scope="module")
def small_model() -> TransformerLM:
    torch.manual_seed(1)
    config = ModelConfig(
        vocab_size=VOCABULARY,
        context_length=CONTEXT,
        d_model=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        d_ff=24,
    )
    model = TransformerLM(config).eval().double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


ALONE: dict = {}


def alone(model, prompt, sampling, limit, stop_ids) -> list[int]:
    key = (tuple(prompt), sampling.model_dump_json(), limit, stop_ids)
    if key not in ALONE:
        ALONE[key] = generate(model, torch.tensor([prompt]), sampling, limit, stop_ids)[0]
    return ALONE[key]


sampling_settings = st.one_of(
    st.just(SamplingSettings(temperature=0.0)),
    st.builds(
        SamplingSettings,
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        top_k=st.sampled_from([0, 0, 3]),
        top_p=st.sampled_from([1.0, 0.9]),
        min_p=st.sampled_from([0.0, 0.1]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, 0.0, 0.5]),
        frequency_penalty=st.sampled_from([0.0, 0.0, 0.4]),
        seed=st.integers(0, 5),
    ),
)
beginnings = st.sampled_from([[], [1, 2, 3, 4] * 3, [1, 2, 3, 4] * 5, [0, 5] * 6])
prompts = st.builds(
    lambda beginning, end: beginning + end,
    beginnings,
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9),
)
requests = st.fixed_dictionaries(
    {
        "prompt": prompts,
        "sampling": sampling_settings,
        "limit": st.integers(1, 20),
        "stop_ids": st.sampled_from([frozenset(), frozenset(), frozenset({2})]),
        "arrives": st.integers(0, 12),
        "samples": st.sampled_from([1, 1, 1, 2, 3]),
        "aborted_after": st.one_of(st.none(), st.none(), st.none(), st.integers(0, 15)),
    }
)


@st.composite
def schedules(draw):
    block_size = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    budget = draw(st.integers(4, 40))
    return {
        "settings": BatchSettings(
            block_size=block_size,
            cache_tokens=CONTEXT + draw(st.sampled_from([0, 0, 10, 60, 200])),
            max_tokens_per_step=budget,
            max_running=draw(st.integers(1, min(budget, 6))),
            prefix_caching=draw(st.booleans()),
            num_drafts=draw(st.sampled_from([0, 0, 2, 4])),
        ),
        "requests": draw(st.lists(requests, min_size=1, max_size=7)),
        "weights_change_after": draw(st.one_of(st.none(), st.none(), st.integers(1, 15))),
    }


def run(model, schedule):
    engine = BatchEngine(model, schedule["settings"])
    queue = sorted(enumerate(schedule["requests"]), key=lambda pair: pair[1]["arrives"])
    tokens: dict[str, list[int]] = {}
    reasons: dict[str, FinishReason] = {}
    asked: dict[str, tuple] = {}
    aborts: list[tuple[int, str]] = []
    step = 0
    while queue or engine.has_work:
        while queue and queue[0][1]["arrives"] <= step:
            number, wanted = queue.pop(0)
            ids = engine.submit(
                f"request {number}",
                wanted["prompt"],
                wanted["sampling"],
                wanted["limit"],
                wanted["stop_ids"],
                num_samples=wanted["samples"],
            )
            for sample, each in enumerate(ids):
                seed = seed_of_sample(wanted["sampling"].seed, sample)
                own = wanted["sampling"].model_copy(update={"seed": seed})
                asked[each] = (wanted["prompt"], own, wanted["limit"], wanted["stop_ids"])
                tokens[each] = []
            if wanted["aborted_after"] is not None:
                aborts.append((step + wanted["aborted_after"], ids[sample // 2]))
        for when, each in aborts:
            if when == step and engine.abort(each):
                reasons[each] = FinishReason.ABORT
        if schedule["weights_change_after"] == step:
            engine.weights_changed()
        for event in engine.step():
            assert event.request_id not in reasons, "an event after the end"
            if event.token_id is not None:
                tokens[event.request_id].append(event.token_id)
            if event.finish_reason is not None:
                reasons[event.request_id] = event.finish_reason
        for request in engine.scheduler.running:
            assert request.table.num_tokens == request.num_computed, "places of rejected drafts"
        step += 1
        assert step < 2000, "the requests do not end"
    return engine, asked, tokens, reasons


def check_schedule(model, schedule) -> None:
    engine, asked, tokens, reasons = run(model, schedule)
    for each, (prompt, sampling, limit, stop_ids) in asked.items():
        expected = alone(model, prompt, sampling, limit, stop_ids)
        if reasons[each] is FinishReason.ABORT:
            assert tokens[each] == expected[: len(tokens[each])]
            continue
        assert tokens[each] == expected
        whole = min(limit, CONTEXT - len(prompt) + 1)
        ended_by = FinishReason.LENGTH if len(expected) == whole else FinishReason.STOP
        assert reasons[each] is ended_by
    assert engine.pool.num_available == engine.pool.num_blocks
    assert not any(engine.pool.references(block) for block in range(engine.pool.num_blocks))


@settings(max_examples=12, deadline=None)
@given(schedule=schedules())
def test_every_text_is_the_one_that_the_request_gets_alone(small_model, schedule) -> None:
    check_schedule(small_model, schedule)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(schedule=schedules())
def test_many_schedules(small_model, schedule) -> None:
    check_schedule(small_model, schedule)


def until_done(engine: BatchEngine) -> dict[str, list[int]]:
    texts: dict[str, list[int]] = {}
    while engine.has_work:
        for event in engine.step():
            texts.setdefault(event.request_id, [])
            if event.token_id is not None:
                texts[event.request_id].append(event.token_id)
    return texts


GREEDY = SamplingSettings(temperature=0.0)
HOT = SamplingSettings(temperature=1.5, seed=3)
PROMPT = [1, 2, 3, 4] * 5 + [0]


def test_a_request_that_lost_its_blocks_goes_on_where_it_was(small_model) -> None:
    engine = BatchEngine(small_model, BatchSettings(block_size=4, cache_tokens=44, max_running=4))
    for number in range(3):
        engine.submit(f"{number}", PROMPT[number:], HOT, 15)
    preempted = 0
    texts: dict[str, list[int]] = {f"{number}": [] for number in range(3)}
    while engine.has_work:
        for event in engine.step():
            texts[event.request_id].append(event.token_id)
        preempted = max(preempted, *(r.num_preemptions for r in engine.scheduler.waiting), 0, 0)
    assert preempted > 0
    for number in range(3):
        assert texts[f"{number}"] == alone(small_model, PROMPT[number:], HOT, 15, frozenset())


def counted(engine: BatchEngine) -> list[int]:
    """The tokens of each forward pass that the engine makes from now on."""
    counts: list[int] = []
    compute = engine.forward.hidden

    def hidden(chunks):
        counts.append(sum(len(chunk.token_ids) for chunk in chunks))
        return compute(chunks)

    engine.forward.hidden = hidden
    return counts


def test_a_prompt_that_is_cached_is_not_computed_again(small_model) -> None:
    engine = BatchEngine(small_model, BatchSettings(block_size=4))
    counts = counted(engine)
    for number in range(2):
        engine.submit(f"{number}", PROMPT[:20], GREEDY, 1)
        until_done(engine)
    assert counts == [20, 4], "one block of a prompt that is found whole is computed again"


def test_after_a_change_of_the_weights_nothing_is_found(small_model) -> None:
    engine = BatchEngine(small_model, BatchSettings(block_size=4))
    counts = counted(engine)
    engine.submit("before", PROMPT, GREEDY, 1)
    until_done(engine)
    engine.submit("during", PROMPT[1:], HOT, 9)
    engine.step()
    engine.weights_changed()
    again = counted(engine)
    assert [request.num_computed for request in engine.scheduler.waiting] == [0]
    assert engine.pool.num_available == engine.pool.num_blocks
    engine.step()
    assert (counts, again) == ([21, 20], [21]), "its prompt and its first token are computed again"


def test_after_a_change_of_the_weights_they_are_the_new_ones(small_model) -> None:
    model = copy.deepcopy(small_model).float()  # computed by the compiled pass, which has copies
    engine = BatchEngine(model, BatchSettings(block_size=4))
    texts = []
    for factor in (1, -3):
        with torch.no_grad():
            for block in model.blocks:
                block.feed_forward.down.weight.mul_(factor)
        engine.weights_changed()
        engine.submit("a", PROMPT, GREEDY, 9)
        texts.append(until_done(engine)["a"])
        assert texts[-1] == generate(model, torch.tensor([PROMPT]), GREEDY, 9)[0]
    assert texts[0] != texts[1]


def test_samples_of_a_prompt_share_its_blocks(small_model) -> None:
    engine = BatchEngine(small_model, BatchSettings(block_size=8))
    counts = counted(engine)
    ids = engine.submit("poem", PROMPT, HOT, 9, num_samples=4)
    engine.step()
    assert counts == [21], "the prompt is computed once"
    assert engine.pool.num_blocks - engine.pool.num_available == 3, "and stored once"
    engine.step()
    assert engine.pool.num_blocks - engine.pool.num_available == 2 + 4, "until the samples differ"
    texts = until_done(engine)
    assert ids == ["poem/0", "poem/1", "poem/2", "poem/3"]
    assert len({tuple(text) for text in texts.values()}) > 1


def test_drafts_save_passes_and_change_nothing(small_model) -> None:
    settings = BatchSettings(block_size=4, num_drafts=4)
    plain, drafting = BatchEngine(small_model), BatchEngine(small_model, settings)
    passes, fewer = counted(plain), counted(drafting)
    for engine in (plain, drafting):
        engine.submit("repeats", PROMPT, GREEDY, 18)
    assert until_done(plain) == until_done(drafting)
    assert len(fewer) < len(passes) - 3


def test_decoding_goes_on_while_a_long_prompt_is_read(small_model) -> None:
    settings = BatchSettings(block_size=4, max_tokens_per_step=5, max_running=4)
    engine = BatchEngine(small_model, settings)
    counts = counted(engine)
    engine.submit("short", [1], GREEDY, 20)
    engine.step()
    engine.submit("long", PROMPT, GREEDY, 3)
    events = [event.request_id for _ in range(5) for event in engine.step()]
    assert events == ["short"] * 5
    assert counts == [1, 5, 5, 5, 5, 5]


def test_log_probabilities(small_model) -> None:
    engine = BatchEngine(small_model)
    engine.submit("a", PROMPT, HOT, 2, num_alternatives=3)
    event = [*engine.step(), *engine.step()][0]
    with torch.no_grad():
        expected = small_model(torch.tensor([PROMPT]))[0, -1].log_softmax(-1)
    assert event.log_probability == pytest.approx(expected[event.token_id].item(), abs=1e-5)
    best = expected.topk(3)
    assert [token for token, _ in event.alternatives] == best.indices.tolist()
    assert [value for _, value in event.alternatives] == pytest.approx(best.values.tolist(), 1e-4)


def test_rows_that_may_not_be_drawn(small_model) -> None:
    drawable = torch.tensor([True, False, False, False, False, True])
    engine = BatchEngine(small_model, drawable=drawable)
    engine.submit("a", PROMPT, HOT, 15)
    assert set(until_done(engine)["a"]) <= {0, 5}


@pytest.mark.parametrize(
    ("prompt", "limit", "samples", "message"),
    [
        ([], 3, 1, "no tokens"),
        ([0] * 41, 3, 1, "has 41 tokens, the model's context holds 40"),
        ([0, 6], 3, 1, "token id 6 is not in the vocabulary of 6"),
        ([0, -1], 3, 1, "token id -1"),
        ([0], 0, 1, "at least 1, got 0"),
        ([0], 3, 0, "samples must be at least 1"),
        ([0] * 20, 20, 1, "39 places"),
    ],
)
def test_requests_that_are_refused(small_model, prompt, limit, samples, message) -> None:
    engine = BatchEngine(small_model, BatchSettings(block_size=4, cache_tokens=36))
    with pytest.raises(UserError, match=message):
        engine.submit("a", prompt, GREEDY, limit, num_samples=samples)
    assert not engine.has_work
    assert engine.abort("a") is False


def test_aborting_the_first_of_several_samples(small_model) -> None:
    engine = BatchEngine(small_model)
    engine.submit("a", PROMPT, HOT, 5, num_samples=3)
    assert engine.abort("a/0")
    assert engine.abort("a/2")
    assert list(until_done(engine)) == ["a/1"]


def test_a_request_for_which_nothing_can_be_drawn_ends_alone(small_model) -> None:
    engine = BatchEngine(small_model)
    compute = engine.forward.logits

    def logits(hidden):
        found = compute(hidden)
        found[0] = float("nan")  # the first request of the step
        return found

    engine.submit("broken", PROMPT, HOT, 5, num_samples=2)
    engine.submit("whole", PROMPT, HOT, 5)
    engine.forward.logits = logits
    events = engine.step()
    engine.forward.logits = compute
    [broken] = [event for event in events if event.request_id == "broken/0"]
    assert broken.finish_reason is FinishReason.ABORT
    assert "NaN" in broken.error or "nan" in broken.error
    rest = [event.token_id for event in events if event.request_id == "whole"]
    texts = until_done(engine)
    assert rest + texts["whole"] == alone(small_model, PROMPT, HOT, 5, frozenset())
    assert len(texts["broken/1"]) == 5, "the other sample computes the prompt itself"
    assert engine.pool.num_available == engine.pool.num_blocks


@pytest.mark.parametrize("cache_tokens", [1, 2, 16, CONTEXT])
def test_a_warm_engine_answers_like_a_cold_one(small_model, cache_tokens) -> None:
    settings = BatchSettings(block_size=1, cache_tokens=cache_tokens)
    cold, warm = BatchEngine(small_model, settings), BatchEngine(small_model, settings)
    warm.warm_up()
    assert warm.pool.num_available == warm.pool.num_blocks
    computed = counted(warm)
    for engine in (cold, warm):
        engine.submit("a", [0] * min(9, cache_tokens), SamplingSettings(temperature=0), 1)
    assert until_done(cold) == until_done(warm)
    assert computed == [min(9, cache_tokens)], "the warm-up left something in the prefix cache"


def test_drafts_that_are_wrong_become_few(small_model, monkeypatch) -> None:
    """The longest pause is 8 steps: of the 30 after the first 7 drafts, at most 6 have one."""
    plain = BatchEngine(small_model)
    rows = counted(plain)
    plain.submit("a", PROMPT[:3], GREEDY, 35)
    text = until_done(plain)["a"]

    def wrong(ids, longest, count, shortest):
        return [(text[len(ids) - 3] + 1) % VOCABULARY] * count

    monkeypatch.setattr(batch_engine, "prompt_lookup", wrong)
    drafting = BatchEngine(small_model, BatchSettings(block_size=4, num_drafts=7))
    more_rows = counted(drafting)
    drafting.submit("a", PROMPT[:3], GREEDY, 35)
    assert until_done(drafting)["a"] == text
    assert len(more_rows) == len(rows)
    assert 7 < sum(more_rows) - sum(rows) <= 7 + 6
