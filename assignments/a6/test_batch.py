"""a6.7: prompts of different lengths in one batch."""

from functools import partial

import pytest
import torch
from drawn_texts import model_of
from generation_oracle import greedy, one_text
from ragged_oracle import RaggedOracle, random_qkv, seen_keys

pytestmark = pytest.mark.task("a6.7")
MODULE = "inference.batch_generation"
PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5, 8]]
HEADS, WIDTH = (4, 2), 4


def made(implementation, rows=3, length=12, layers=2, dtype=torch.float32):
    return implementation(MODULE).RaggedKVCache(layers, rows, HEADS[1], length, WIDTH, dtype)


def test_positions_and_lengths(implementation, a6):
    cache = made(implementation)
    a6.expect(list(cache.lengths), [0, 0, 0], "lengths of a new cache")
    got = cache.positions([0, 2], [3, 1]).tolist()
    causes = {"the positions of a row begin at its own length": [0, 1, 2, 3]}
    a6.expect(got, [0, 1, 2, 0], "positions([0, 2], [3, 1]) of a new cache", causes)
    a6.expect(list(cache.lengths), [0, 0, 0], "lengths after positions")
    attend = cache.attend([0, 2], [3, 1])
    a6.expect(list(cache.lengths), [0, 0, 0], "lengths after attend, before the pass")
    for layer in (0, 1):
        attend(layer, *random_qkv(4, HEADS, WIDTH, layer, torch.float32))
        what = f"lengths after layer {layer} of a pass: advance counts the tokens, not attend"
        a6.expect(list(cache.lengths), [0, 0, 0], what)
    cache.advance([0, 2], [3, 1])
    a6.expect(list(cache.lengths), [3, 0, 1], "lengths after advance([0, 2], [3, 1])")
    got = cache.positions([2, 0, 1], [2, 1, 1]).tolist()
    causes = {
        "the positions come in the order of `rows`": [3, 0, 1, 2],
        "the positions of a row begin at its own length": lambda found: found[:2] == [3, 4],
    }
    a6.expect(got, [1, 2, 3, 0], "positions([2, 0, 1], [2, 1, 1]) at lengths 3, 0, 1", causes)


# Passes of (rows, counts): rows of different lengths, some of them, in any order.
SCHEDULES = {
    "prefill": [([0, 1, 2], [4, 1, 2])],
    "decode": [([0, 1, 2], [4, 1, 2]), ([0, 1, 2], [1, 1, 1]), ([0, 1, 2], [1, 1, 1])],
    "a row has ended": [([0, 1, 2], [4, 1, 2]), ([0, 2], [1, 1]), ([2], [1])],
    "in another order": [([2, 0], [3, 5]), ([1, 2], [4, 1]), ([2, 1, 0], [1, 2, 3])],
    "to the end": [([1, 0], [11, 2]), ([0, 1], [10, 1])],
}


def wrong_views(oracle, layer, rows, counts, q, window, own):
    """Return likely cause -> whether a result is what that mistake gives."""
    sees = {
        "a query sees itself and all before it in its row": lambda at, _: range(at),
        "a query must not see the tokens of its row that come later": lambda *_: range(99),
        "a window of n is the query itself and n - 1 before it": lambda at, window: seen_keys(
            at, window and window + 1
        ),
        "a window of n contains the query itself": lambda at, window: seen_keys(
            at, window and max(1, window - 1)
        ),
        "the sliding window is ignored": lambda at, _: seen_keys(at, None),
    }

    def fits(found, rule):
        wrong = oracle.attended(layer, rows, counts, q, window, rule)[own]
        return torch.allclose(found, wrong, rtol=1e-3, atol=1e-4)

    return {
        **{cause: partial(fits, rule=rule) for cause, rule in sees.items()},
        "keys from beyond the row's length, or of another row, are seen: mask them": (
            lambda found: found.abs().max() > 5
        ),
    }


@pytest.mark.parametrize(
    ("schedule", "window"),
    [*((name, None) for name in SCHEDULES), ("decode", 2), ("in another order", 3)],
)
def test_each_query_sees_its_own_row(implementation, a6, schedule, window):
    cache, oracle = made(implementation), RaggedOracle(2, 3)
    # What an earlier text left behind in the memory of all rows.
    left = random_qkv(36, HEADS, WIDTH, 77, torch.float32)
    for layer in (0, 1):
        cache.attend([0, 1, 2], [12, 12, 12])(layer, *(30 * x for x in left))
    for number, (rows, counts) in enumerate(SCHEDULES[schedule]):
        attends = [each.attend(rows, counts, window) for each in (cache, oracle)]
        for layer in (0, 1):
            given = random_qkv(sum(counts), HEADS, WIDTH, 10 * number + layer, torch.float32)
            expected = attends[1](layer, *given)
            got = attends[0](layer, *(x.clone() for x in given))
            a6.true(
                tuple(getattr(got, "shape", ())) == tuple(expected.shape),
                "the function that attend returned must give [tokens, heads, head_dim]",
                {"expected": tuple(expected.shape), "got": tuple(getattr(got, "shape", ()))},
            )
            first = 0
            for row, count in zip(rows, counts, strict=True):
                own = slice(first, first + count)
                first += count
                what = (
                    f"pass {number} ({schedule}; rows {rows}, {counts} tokens, window {window}), "
                    f"layer {layer}: what the {count} new tokens of row {row} see"
                )
                views = wrong_views(oracle, layer, rows, counts, given[0], window, own)
                a6.tensor(got[own], expected[own], what, views, rtol=1e-3, atol=1e-4)
        for each in (cache, oracle):
            each.advance(rows, counts)


def test_the_keys_are_copied(implementation, a6):
    cache, oracle = made(implementation, 1, layers=1), RaggedOracle(1, 1)
    for number in range(3):
        given = random_qkv(1, HEADS, WIDTH, number, torch.float32)
        attends = [each.attend([0], [1]) for each in (oracle, cache)]
        expected = attends[0](0, *given)
        got = attends[1](0, *given).clone()
        for x in given:
            x.fill_(-50.0)
        cache.advance([0], [1])
        oracle.advance([0], [1])
    causes = {"the caller's tensors must be copied": lambda _: True}
    a6.tensor(got, expected, "the third token's result", causes, rtol=1e-3, atol=1e-4)


def test_no_room(implementation, a6):
    cache = made(implementation, rows=2, length=4)
    cache.advance([1], [3])
    call = partial(cache.attend, [0, 1], [4, 2])
    a6.raises(AssertionError, call, "attend to 2 more tokens of a row that has 3 of 4")


def batch(implementation, model, prompts, settings, limits, stop_ids=()):
    run = implementation(MODULE).generate_batch
    return run(model, prompts, settings, limits, stop_ids)


def greedy_settings(implementation, count=1):
    return [implementation("inference.sampling").SamplingSettings(temperature=0.0)] * count


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 2},
        {"position": "learned", "norm": "layernorm"},
        {"norm_position": "post", "tie_embeddings": False, "sliding_window": 3},
    ],
)
def test_each_text_is_the_one_alone(implementation, a6, changes):
    model = model_of(changes, 6)
    got = batch(implementation, model, PROMPTS, greedy_settings(implementation, 3), [5, 6, 4])
    expected = [greedy(model, *each) for each in zip(PROMPTS, [5, 6, 4], strict=True)]
    causes = {
        "only the longest prompt is right: the positions of a row begin at its own length, and no "
        "row sees the padding of a shorter one": lambda found: found[0] == expected[0],
        "the limit of each text is its own": lambda found: (
            list(map(len, found)) != [5, 6, 4] and found[0][:4] == expected[0][:4]
        ),
    }
    a6.expect(got, expected, "three greedy texts, whose prompts have 7, 1 and 4 tokens,", causes)


def test_settings_of_each_text(implementation, a6):
    sampling = implementation("inference.sampling")
    settings = [
        sampling.SamplingSettings(temperature=1.5, seed=4),
        sampling.SamplingSettings(temperature=0.0, repetition_penalty=1.6),
        sampling.SamplingSettings(temperature=1.5, seed=4, frequency_penalty=0.8),
        sampling.SamplingSettings(temperature=1.5, seed=5),
    ]
    prompts, model = [*PROMPTS, PROMPTS[0]], model_of({}, 6)
    got = batch(implementation, model, prompts, settings, [6] * 4)
    expected = [
        one_text(sampling, model, prompt, own, 6)
        for prompt, own in zip(prompts, settings, strict=True)
    ]
    causes = {
        "each text has its own settings": [
            one_text(sampling, model, prompt, settings[0], 6) for prompt in prompts
        ],
        "text 1 is penalized by the prompt of another text": lambda found: (
            [found[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]
        ),
        "the index of a draw is the number of tokens of its own answer": lambda found: (
            [text[0] for text in found] == [text[0] for text in expected]
        ),
    }
    a6.expect(got, expected, "four texts with settings of their own", causes)


def test_texts_end_one_by_one(implementation, a6):
    """By the limit, by a stop id, and because the context is full."""
    model = model_of({}, 8)
    prompts = [PROMPTS[0], PROMPTS[1], [1, 2] * 7, [4, 5] * 8]
    limits = [2, 9, 20, 20]
    whole = [greedy(model, prompt, 9) for prompt in prompts[:2]]
    stop = next(token for token in whole[1][1:] if token not in whole[0][:2] + whole[1][:1])
    sampling = implementation("inference.sampling")
    settings = greedy_settings(implementation, 4)
    expected = [
        one_text(sampling, model, *each, {stop})
        for each in zip(prompts, settings, limits, strict=True)
    ]
    got = batch(implementation, model, prompts, settings, limits, {stop})
    causes = {
        "a stop id is not part of the text": lambda found: stop in found[1],
        "a text that has ended must not end the others": lambda found: (
            min(map(len, found)) == max(map(len, found))
        ),
        "a prompt as long as the context still gets one token": lambda found: not found[3],
    }
    what = "texts that end by a limit, a stop id, and the end of the context (twice)"
    a6.expect(got, expected, what, causes)


def test_all_texts_stop_at_once(implementation, a6):
    model = model_of({}, 8)
    first = {greedy(model, prompt, 1)[0] for prompt in PROMPTS}
    settings = greedy_settings(implementation, 3)
    got = batch(implementation, model, PROMPTS, settings, [5] * 3, first)
    a6.expect(got, [[], [], []], "three texts that begin with a stop id")
    a6.expect(batch(implementation, model, [], [], []), [], "no prompts at all")


def test_a_text_that_has_ended_computes_nothing(implementation, a6):
    model = model_of({"d_ff": 300}, 1)
    settings = greedy_settings(implementation, 3)

    def flops(prompts, limits):
        with a6.watched("generate_batch") as counter:
            batch(implementation, model, prompts, settings[: len(prompts)], limits)
        return counter.flops

    alone = sum(flops([prompt], [limit]) for prompt, limit in zip(PROMPTS, [1, 9, 1], strict=True))
    together = flops(PROMPTS, [1, 9, 1])
    a6.true(
        together <= 1.15 * alone,
        "three texts of 1, 9 and 1 tokens cost more than the three alone: a text that has ended "
        "must leave the batch, and prompts must not be padded",
        {"expected": f"at most {int(1.15 * alone):,} FLOPs", "got": f"{together:,} FLOPs"},
    )


def test_logits_of_last_tokens_only(implementation, a6):
    model = model_of({"vocab_size": 3000, "tie_embeddings": False}, 1)
    settings = greedy_settings(implementation, 3)
    with a6.watched("generate_batch") as counter:
        batch(implementation, model, PROMPTS, settings, [2, 2, 1])
    head = 2 * 8 * 3000
    a6.true(
        counter.flops <= 7 * head,
        "only the last token of each prompt goes through the output head: 5 draws need 5 rows of "
        "logits, and the other 9 tokens of the prompts none",
        {"expected": f"at most {7 * head:,} FLOPs", "got": f"{counter.flops:,} FLOPs"},
    )


def test_what_is_refused(implementation, a6):
    model, one = model_of({}, 1), greedy_settings(implementation)
    for prompts, settings, limits, words in [
        ([[1], [2]], one, [1, 1], ["2", "1"]),
        ([[1], [2]], one * 2, [1], ["2", "1"]),
        ([[1]], one * 2, [1], ["2", "1"]),
        ([[1], []], one * 2, [1, 1], []),
        ([[1], [1] * 17], one * 2, [1, 1], ["17", "16"]),
        ([[1], [11]], one * 2, [1, 1], ["11"]),
        ([[1], [2]], one * 2, [1, 0], ["0"]),
    ]:
        call = partial(batch, implementation, model, prompts, settings, limits)
        lengths = [len(prompt) for prompt in prompts]
        what = (
            f"generate_batch of prompts of {lengths} tokens (the last id is "
            f"{[*[0], *prompts[-1]][-1]}), {len(settings)} settings, limits {limits}"
        )
        a6.raises(ValueError, call, what, words)
