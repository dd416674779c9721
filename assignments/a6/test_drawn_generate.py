"""a6.5 on drawn inputs: limits, prefill, the next tokens, and texts."""

from importlib import import_module

import torch
from drawn_texts import VARIANTS, config_of, ids, model_of, settings, settings_of
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import tensor
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within

NAME = "inference.generation."
variants = st.sampled_from(VARIANTS)
seeds = st.integers(0, 3)
stops = st.sampled_from([[], [], [4], [0, 7, 9]])


@st.composite
def limits(draw):
    context = draw(near_constants(st.integers(1, 12), 1, 900))
    return {
        "context": context,
        "shape": draw(st.sampled_from([(), (1,), (3,)])),
        "length": max(0, context + draw(st.sampled_from([-11, -3, -2, -1, 0, 0, 1, 2]))),
        "limit": draw(near_constants(st.integers(0, 14), 0, 900)),
        "last": draw(st.sampled_from([0, 10, 10, 10, 10, 11, -1])),
    }


def call_limit(module, context, shape, length, limit, last):
    prompt = torch.zeros(*shape, length, dtype=torch.int64)
    prompt[..., -1:] = last
    return module.num_new_tokens(config_of({"context_length": context}), prompt, limit)


@st.composite
def prefills(draw):
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 16))
    return {
        "variant": draw(variants),
        "seed": draw(seeds),
        "prompts": [draw(ids(length, length)) for _ in range(batch)],
        "cached": draw(st.integers(0, length)),
        "more": draw(st.sampled_from([0, 0, 1])),
    }


def call_prefill(module, variant, seed, prompts, cached, more):
    model = model_of(variant, seed)
    prompt = torch.tensor(prompts)
    cache = import_module("inference.kv_cache").KVCache.for_model(model.config, len(prompts), 17)
    with torch.no_grad():
        if cached:
            model(prompt[:, :cached], cache=cache)
        if more and cached == prompt.shape[1] < 16:
            model(prompt[:, :1], cache=cache)  # further tokens behind the prompt
    logits = module.prefill(model, prompt, cache)
    return logits, cache.length


def view_prefill(value):
    logits, length = value
    return Within(logits, 1e-3, 1e-4), length


@st.composite
def next_tokens(draw):
    texts = draw(st.integers(1, 4))
    return {
        "logits": tensor(draw, (texts, 11), ("float32", "float32", "float64", "bfloat16"), (2.0,)),
        "settings": [draw(settings) for _ in range(texts)],
        "prompts": [draw(ids(1, 5)) for _ in range(texts)],
        "answers": [draw(ids(0, 5)) for _ in range(texts)],
    }


def call_next(module, logits, settings, prompts, answers):
    return module.next_token_ids(logits, list(map(settings_of, settings)), prompts, answers)


@st.composite
def texts(draw):
    batch, length = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 5, 13, 15, 16]))
    return {
        "variant": draw(variants),
        "seed": draw(seeds),
        "prompts": [draw(ids(length, length)) for _ in range(batch)],
        "settings": draw(settings),
        "limit": draw(st.integers(1, 4)),
        "stop_ids": draw(stops),
        "samples": draw(st.sampled_from([1, 1, 2, 3])),
        "drawable": draw(st.none() | st.lists(st.booleans(), min_size=10, max_size=10)),
    }


def call_steps(module, variant, seed, prompts, settings, limit, stop_ids, samples, drawable):
    allowed = None if drawable is None else torch.tensor([True, *drawable])
    steps = module.generate_steps(
        model_of(variant, seed),
        torch.tensor(prompts),
        settings_of(settings),
        limit,
        stop_ids,
        samples,
        drawable=allowed,
    )
    return list(steps)


def call_texts(module, variant, seed, prompts, settings, limit, stop_ids, samples, drawable):
    return module.generate(
        model_of(variant, seed), torch.tensor(prompts), settings_of(settings), limit, stop_ids,
        samples,
    )  # fmt: skip


SPACES = [
    Space("a6.5", f"{NAME}num_new_tokens", limits(), call_limit, draws=30),
    Space("a6.5", f"{NAME}prefill", prefills(), call_prefill, view_prefill, draws=16),
    Space("a6.5", f"{NAME}next_token_ids", next_tokens(), call_next, draws=30),
    Space("a6.5", f"{NAME}generate_steps", texts(), call_steps, draws=16),
    Space("a6.5", f"{NAME}generate", texts(), call_texts, draws=6),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
