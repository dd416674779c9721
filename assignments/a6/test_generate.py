"""a6.5: one prompt, or several of the same length."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from generation_oracle import greedy, logits_after, one_text, reads_of, steps_of

pytestmark = pytest.mark.task("a6.5")
MODULE = "inference.generation"
PROMPT = [3, 1, 4, 1, 5]


def tools_of(implementation, a6):
    """Return the modules, a model, and settings."""
    sampling = implementation("inference.sampling")
    return SimpleNamespace(
        module=implementation(MODULE),
        sampling=sampling,
        cache=implementation("inference.kv_cache").KVCache,
        model=a6.tiny_model(seed=1),
        settings=sampling.SamplingSettings,
        greedy=sampling.SamplingSettings(temperature=0.0),
    )


def test_how_many_tokens_a_text_can_get(implementation, a6):
    tools = tools_of(implementation, a6)
    for length, limit, expected in [
        (20, 3, 3), (20, 5, 5), (20, 6, 5), (23, 9, 2), (24, 9, 1), (1, 99, 24), (24, 1, 1)
    ]:  # fmt: skip
        prompt = torch.zeros(2, length, dtype=torch.int64)
        got = tools.module.num_new_tokens(tools.model.config, prompt, limit)
        causes = {
            "the last token is never read, so its position may be one past the context": (
                expected - 1
            ),
            "the limit of the request counts too": 24 - length + 1,
        }
        what = f"num_new_tokens of a prompt of {length} in a context of 24 with the limit {limit}"
        a6.expect(got, expected, what, causes)


def test_what_is_refused(implementation, a6):
    tools = tools_of(implementation, a6)
    config = tools.model.config
    for prompt, limit, words in [
        ([], 1, []),
        ([1] * 26, 1, ["26", "24"]),
        ([1, 11], 1, ["11"]),
        ([-1, 2], 1, ["-1", "11"]),
        ([1], 0, ["0"]),
        ([1], -3, ["-3"]),
    ]:
        ids = torch.tensor([prompt], dtype=torch.int64)
        for name, given in [
            ("num_new_tokens", (config, ids, limit)),
            ("generate", (tools.model, ids, tools.greedy, limit)),
        ]:
            call = partial(getattr(tools.module, name), *given)
            what = f"{name} of the prompt {a6.shown(prompt)} and the limit {limit}"
            a6.raises(ValueError, call, what, words)


def test_prefill_with_a_part_in_the_cache(implementation, a6):
    tools = tools_of(implementation, a6)
    for cached in (0, 1, 4, 5, 6):
        cache = tools.cache.for_model(tools.model.config, 1)
        with torch.no_grad():
            if cached:
                tools.model(torch.tensor([[*PROMPT, 7][:cached]]), cache=cache)
        with reads_of(tools.model) as shapes:
            got = tools.module.prefill(tools.model, torch.tensor([PROMPT]), cache)
        expected = logits_after(tools.model, PROMPT)[None]
        what = f"the logits after a prompt of 5 tokens, of which {cached} are in the cache,"
        again = logits_after(tools.model, [*PROMPT, *([7] if cached == 6 else []), PROMPT[-1]])
        causes = {"the last token stands in the cache twice: cut it off first": again[None]}
        a6.tensor(got, expected, what, causes, rtol=1e-3, atol=1e-4)
        causes = {
            "tokens in the cache must not be computed again": [(1, 5)],
            "the whole prompt is in the cache: cut its last token off, and compute it again": (
                lambda found, cached=cached: cached > 4 and found != [(1, 1)]
            ),
        }
        a6.expect(shapes, [(1, max(1, 5 - cached))], f"the passes of a prefill, {what}", causes)
        a6.expect(cache.length, 5, "the length of the cache after the prefill")
        a6.true(not got.requires_grad, "prefill must run under torch.no_grad()")


def test_prefill_of_two_prompts(implementation, a6):
    tools = tools_of(implementation, a6)
    prompts = [PROMPT, [2, 7, 1, 8, 2]]
    cache = tools.cache.for_model(tools.model.config, 2)
    got = tools.module.prefill(tools.model, torch.tensor(prompts), cache)
    expected = torch.stack([logits_after(tools.model, prompt) for prompt in prompts])
    a6.tensor(got, expected, "the logits after two prompts", rtol=1e-3, atol=1e-4)


def test_a_long_prompt_is_read_in_parts(implementation, a6):
    tools = tools_of(implementation, a6)
    model = a6.tiny_model(seed=1, context_length=1200, d_model=4, num_heads=1, num_kv_heads=1)
    ids = torch.randint(11, (1, 1100), generator=torch.Generator().manual_seed(1))
    cache = tools.cache.for_model(model.config, 1)
    with reads_of(model) as shapes:
        got = tools.module.prefill(model, ids, cache)
    sizes = [shape[1] for shape in shapes]
    a6.true(
        sum(sizes) == 1100 and max(sizes) <= 512,
        "a prompt of 1,100 tokens must be read in parts of at most PREFILL_TOKENS = 512: the model "
        "computes logits for every position of a part, and with a large vocabulary those of the "
        "whole prompt take gigabytes",
        {"positions of each pass": sizes},
    )
    expected = logits_after(model, ids[0].tolist())[None]
    a6.tensor(got, expected, "the logits after a prompt of 1,100 tokens", rtol=1e-3, atol=1e-4)


def test_penalties_by_hand(implementation, a6):
    tools = tools_of(implementation, a6)
    logits = torch.tensor([[2.0, 1.9, 1.8]] * 4)
    repeated = tools.settings(temperature=0.0, repetition_penalty=1.5)
    frequent = tools.settings(temperature=0.0, frequency_penalty=0.15)
    got = tools.module.next_token_ids(
        logits,
        [tools.greedy, repeated, repeated, frequent],
        [[0], [0], [2], [0, 0]],
        [[0], [1], [0], [1]],
    )
    causes = {
        "the penalties of the settings are not applied": [0, 0, 0, 0],
        "the repetition penalty counts the prompt, too: pass it to penalize": [0, 0, 1, 0],
        "each text has its own settings, not those of the first": lambda found: found == [0] * 4,
        "prompt and answer are exchanged": [0, 2, 1, 1],
    }
    a6.expect(got, [0, 2, 1, 0], "next_token_ids of the handout's four texts", causes)


def test_the_index_of_a_draw(implementation, a6):
    """The number of a draw is the number of tokens of the answer, whatever the prompt."""
    tools = tools_of(implementation, a6)
    logits, settings = torch.zeros(40, 11), tools.settings(temperature=1.0, seed=5)
    answers = [[1] * (number % 20) for number in range(40)]
    prompts = [[1], [2, 3, 4]] * 20
    got = tools.module.next_token_ids(logits, [settings] * 40, prompts, answers)
    draw = tools.sampling.sample
    expected = draw(logits, [settings] * 40, [len(answer) for answer in answers])
    causes = {
        "the prompt does not count": draw(
            logits,
            [settings] * 40,
            [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)],
        ),
        "the index is the number of the draw in its answer, not of the row": draw(
            logits, [settings] * 40, list(range(40))
        ),
        "the first token of an answer has the index 0": draw(
            logits, [settings] * 40, [len(answer) + 1 for answer in answers]
        ),
    }
    a6.expect(got, expected, "the draws of texts whose answers have 0 to 19 tokens", causes)


def test_greedy_text(implementation, a6):
    tools = tools_of(implementation, a6)
    expected = greedy(tools.model, PROMPT, 12)
    for limit in (1, 2, 12):
        with reads_of(tools.model) as shapes:
            got = tools.module.generate(tools.model, torch.tensor([PROMPT]), tools.greedy, limit)
        causes = {
            "max_new_tokens is the number of new tokens": lambda found, limit=limit: (
                found[0] in (greedy(tools.model, PROMPT, limit + 1), expected[: limit - 1])
            ),
            "only the new tokens are returned": [[*PROMPT, *expected[:limit]]],
            "generate returns one list for each text": expected[:limit],
        }
        a6.expect(got, [expected[:limit]], f"the greedy text of {limit} tokens", causes)
        causes = {
            "each pass after the first reads one token: the others are in the cache": (
                lambda found: any(shape[1] > 1 for shape in found[1:])
            ),
            "the last token is never read: nobody needs the logits after it": (
                lambda found, limit=limit: len(found) == limit + 1
            ),
        }
        what = f"the shapes that the model reads for {limit} tokens"
        a6.expect(shapes, [(1, 5)] + [(1, 1)] * (limit - 1), what, causes)


def test_the_end_of_the_context(implementation, a6):
    tools = tools_of(implementation, a6)
    for length in (21, 23, 24):
        prompt = [number % 11 for number in range(length)]
        got = tools.module.generate(tools.model, torch.tensor([prompt]), tools.greedy, 100)
        expected = greedy(tools.model, prompt[:24], 1) if length == 24 else None
        count = 24 - length + 1
        causes = {"the last token needs no place in the context: it is never read": count - 1}
        what = f"the number of tokens after a prompt of {length} in a context of 24"
        a6.expect(len(got[0]), count, what, causes)
        if expected is not None:
            a6.expect(got[0], expected, "the one token after a prompt as long as the context")


def test_a_stop_id_ends_its_own_text(implementation, a6):
    tools = tools_of(implementation, a6)
    prompts = [PROMPT, [2, 7, 1, 8, 2]]
    whole = [greedy(tools.model, prompt, 8) for prompt in prompts]
    # A token of the first text that is not the first one, and that the second does not have before.
    place, stop = next(
        (place, token)
        for place, token in enumerate(whole[0])
        if token not in whole[0][:place] and token not in whole[1][: place + 2] and place
    )
    expected = [text[: text.index(stop)] if stop in text else text for text in whole]
    steps = list(
        tools.module.generate_steps(
            tools.model, torch.tensor(prompts), tools.greedy, 8, stop_ids={stop}
        )
    )
    got = [[step[i] for step in steps] for i in (0, 1)]
    causes = {
        "the stop id itself is not yielded": lambda found: stop in found[0],
        "a text that has ended does not end the others": lambda found: (
            len(found[0]) == place < len(expected[1])
        ),
        "None stands for a text that has ended, in every later step": lambda found: any(
            token is not None for token in found[0][place:]
        ),
    }
    right = steps_of(expected)
    what = f"the tokens of two texts, of which the first draws the stop id at place {place},"
    a6.expect(got, [[step[i] for step in right] for i in (0, 1)], what, causes)
    texts = tools.module.generate(tools.model, torch.tensor(prompts), tools.greedy, 8, [stop])
    a6.expect(texts, expected, "the texts that generate returns for them")


def test_no_step_is_yielded_when_all_have_ended(implementation, a6):
    tools = tools_of(implementation, a6)
    first = greedy(tools.model, PROMPT, 1)
    ids = torch.tensor([PROMPT, PROMPT])
    steps = list(tools.module.generate_steps(tools.model, ids, tools.greedy, 8, set(first)))
    causes = {"a step in which no text gets a token is not yielded": [[None, None]]}
    a6.expect(steps, [], "the steps of two texts that begin with the stop id", causes)


def test_samples_of_one_prompt(implementation, a6):
    tools = tools_of(implementation, a6)
    settings = tools.settings(temperature=3.0, seed=3)
    with reads_of(tools.model) as shapes:
        got = tools.module.generate(
            tools.model, torch.tensor([PROMPT]), settings, 3, samples_per_prompt=8
        )
    a6.true(
        len({text[0] for text in got}) > 1,
        "all samples of a prompt begin with the same token: repeat the logits before the first "
        "draw, and give each sample its own seed",
        {"texts": got},
    )
    causes = {
        "the prompt is read once for all its samples; then repeat the texts of the cache": (
            lambda found: found[0] == (8, 5)
        )
    }
    a6.expect(shapes, [(1, 5), (8, 1), (8, 1)], "the shapes that the model reads", causes)
    seeds = [tools.sampling.seed_of_sample(3, number) for number in range(8)]
    expected = [
        one_text(tools.sampling, tools.model, PROMPT, settings.model_copy(update={"seed": seed}), 3)
        for seed in seeds
    ]
    causes = {
        "sample 0 keeps the seed of the settings, and sample k has seed_of_sample(seed, k)": (
            lambda found: sorted(found) != sorted(expected)
        )
    }
    a6.expect(got, expected, "eight samples of one prompt", causes)


def test_samples_of_two_prompts(implementation, a6):
    tools = tools_of(implementation, a6)
    prompts, settings = [PROMPT, [2, 7, 1, 8, 2]], tools.settings(temperature=2.0, seed=9)
    got = tools.module.generate(
        tools.model, torch.tensor(prompts), settings, 5, samples_per_prompt=2
    )
    expected = [
        one_text(
            tools.sampling,
            tools.model,
            prompt,
            settings.model_copy(update={"seed": tools.sampling.seed_of_sample(9, number)}),
            5,
        )
        for prompt in prompts
        for number in (0, 1)
    ]
    causes = {
        "text i continues prompt i // samples_per_prompt": [expected[i] for i in (0, 2, 1, 3)],
        "number the samples of each prompt from 0, so that it gets the texts that it gets alone": (
            lambda found: found[:2] == expected[:2]
        ),
    }
    a6.expect(got, expected, "two samples of each of two prompts", causes)


def test_penalties_of_a_whole_text(implementation, a6):
    tools = tools_of(implementation, a6)
    for name, size in [
        ("repetition_penalty", 1.7),
        ("presence_penalty", 1.5),
        ("frequency_penalty", 1.0),
    ]:
        settings = tools.settings(temperature=0.0, **{name: size})
        prompts = [PROMPT, [2, 7, 1, 8, 2]]
        got = tools.module.generate(tools.model, torch.tensor(prompts), settings, 6)
        expected = [one_text(tools.sampling, tools.model, each, settings, 6) for each in prompts]
        causes = {
            "the penalties are not applied": lambda found, prompts=prompts: (
                found == [greedy(tools.model, each, 6) for each in prompts]
            ),
            "the second text is penalized by the prompt or the answer of the first": (
                lambda found, right=expected: found[0] == right[0]
            ),
            "penalize needs the answer so far": lambda found, right=expected: (
                found[0][:2] == right[0][:2]
            ),
        }
        a6.expect(got, expected, f"two greedy texts with {name}={size}", causes)


def test_rows_that_may_not_be_drawn(implementation, a6):
    tools = tools_of(implementation, a6)
    drawable = torch.ones(11, dtype=torch.bool)
    drawable[greedy(tools.model, PROMPT, 6)[:2]] = False
    for settings in (tools.greedy, tools.settings(temperature=2.0, seed=1)):
        steps = tools.module.generate_steps(
            tools.model, torch.tensor([PROMPT]), settings, 6, drawable=drawable
        )
        got = [step[0] for step in steps]
        expected = one_text(
            tools.sampling, tools.model, PROMPT, settings, 6, drawable=drawable.tolist()
        )
        causes = {
            "a token whose row of `drawable` is False was drawn": lambda found: (
                not all(drawable[token] for token in found)
            )
        }
        a6.expect(got, expected, "the text of a model with rows that may not be drawn", causes)


def test_a_given_cache_is_used(implementation, a6):
    tools = tools_of(implementation, a6)
    cache = tools.cache.for_model(tools.model.config, 1)
    with torch.no_grad():
        tools.model(torch.tensor([PROMPT[:3]]), cache=cache)
    with reads_of(tools.model) as shapes:
        steps = tools.module.generate_steps(
            tools.model, torch.tensor([PROMPT]), tools.greedy, 3, cache=cache
        )
        got = [step[0] for step in steps]
    a6.expect(got, greedy(tools.model, PROMPT, 3), "the text after a cache with 3 of 5 tokens")
    what = "the shapes that the model reads after a cache with 3 of 5 tokens"
    a6.expect(shapes, [(1, 2), (1, 1), (1, 1)], what)


def test_every_token_is_heard_at_once(implementation, a6):
    tools = tools_of(implementation, a6)
    heard = []

    def hear(*call):
        heard.append((*call, len(shapes)))

    prompts = [PROMPT, [2, 7, 1, 8, 2]]
    with reads_of(tools.model) as shapes:
        texts = tools.module.generate(
            tools.model, torch.tensor(prompts), tools.greedy, 3, on_token=hear
        )
    expected = [(text, texts[text][i], i + 1) for i in range(3) for text in (0, 1)]
    causes = {
        "on_token is called as soon as a token is drawn, not at the end": lambda found: (
            sorted(call[:2] for call in found) == sorted(call[:2] for call in expected)
        )
    }
    what = "the calls of on_token (number of the text, token, passes of the model so far)"
    a6.expect(heard, expected, what, causes)
