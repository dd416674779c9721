"""a6.6 and a6.7 on drawn inputs: tokens in one row, the ragged cache, and whole batches."""

import torch
from drawn_texts import VARIANTS, fields, ids, model_of, settings, settings_of
from hypothesis import strategies as st
from ragged_oracle import RaggedOracle, random_qkv

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import tensor
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within

NAME = "inference.batch_generation."
seeds = st.integers(0, 3)


# a6.6


@st.composite
def rows(draw):
    config = draw(fields())
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    position = st.integers(0, config["context_length"] - 1)
    token = st.integers(0, config["vocab_size"] - 1)
    total = sum(counts)
    return {
        "fields": config,
        "seed": draw(seeds),
        "dtype": draw(st.sampled_from(["float32", "float32", "float64"])),
        "counts": counts,
        "token_ids": draw(st.lists(token, min_size=total, max_size=total)),
        "positions": draw(st.lists(position, min_size=total, max_size=total)),
    }


def call_rows(module, fields, seed, dtype, counts, token_ids, positions):
    model = model_of(fields, seed, dtype)
    own = RaggedOracle(fields["num_layers"], len(counts)).attend(range(len(counts)), counts)
    calls = []

    def attend(layer, q, k, v):
        calls.append((layer, tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return own(layer, q, k, v)

    hidden = module.forward_tokens(model, torch.tensor(token_ids), torch.tensor(positions), attend)
    return hidden, calls


def view_rows(value):
    return Within(value[0], 2e-3, 1e-3), value[1]


@st.composite
def hidden_states(draw):
    config = draw(fields())
    shape = draw(st.integers(1, 5)), config["d_model"]
    return {"fields": config, "seed": draw(seeds), "hidden": tensor(draw, shape, ("float32",))}


def call_logits(module, fields, seed, hidden):
    return module.logits_of(model_of(fields, seed), hidden)


# a6.7


@st.composite
def schedules(draw):
    kv_heads, num_rows = draw(st.integers(1, 2)), draw(near_constants(st.integers(1, 4), 1, 20))
    length = draw(near_constants(st.integers(2, 10), 2, 200))
    lengths, passes = [0] * num_rows, []
    for _ in range(draw(st.integers(1, 3))):
        free = [row for row in range(num_rows) if lengths[row] < length]
        if not free:
            break
        chosen = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True))
        counts = [min(draw(st.integers(1, 4)), length - lengths[row]) for row in chosen]
        for row, count in zip(chosen, counts, strict=True):
            lengths[row] += count
        passes.append((chosen, counts, draw(st.booleans())))
    return {
        "sizes": (draw(st.integers(1, 2)), num_rows, kv_heads, length, draw(st.integers(1, 5))),
        "heads": kv_heads * draw(st.integers(1, 2)),
        "dtype": draw(st.sampled_from(["float32", "float32", "float64", "bfloat16"])),
        "window": draw(near_constants(st.sampled_from([None, 1, 2, 3, 50]), 1, 100)),
        "passes": passes,
        "seed": draw(seeds),
    }


def call_cache(module, sizes, heads, dtype, window, passes, seed):
    """Run the passes; those that are marked are begun twice, as if the first had failed."""
    layers, _, kv_heads, _, width = sizes
    kind = getattr(torch, dtype)
    cache, results = module.RaggedKVCache(*sizes, dtype=kind), []
    for number, (rows, counts, twice) in enumerate(passes):
        for begun in range(1 + twice):
            positions = cache.positions(rows, counts)
            attend = cache.attend(rows, counts, *([] if window is None else [window]))
            for layer in range(layers):
                place = 1000 * seed + 100 * number + 10 * layer + begun
                given = random_qkv(sum(counts), (heads, kv_heads), width, place, kind)
                results.append(attend(layer, *given).clone())
                for x in given:
                    x.fill_(9.0)
        cache.advance(rows, counts)
        results.append((positions.tolist(), list(cache.lengths)))
    return results


def view_cache(value):
    return [
        Within(x, *((0.05, 0.05) if x.dtype == torch.bfloat16 else (1e-3, 1e-4)))
        if isinstance(x, torch.Tensor)
        else x
        for x in value
    ]


@st.composite
def batches(draw):
    number = draw(st.integers(0, 3))
    return {
        "variant": draw(st.sampled_from(VARIANTS)),
        "seed": draw(seeds),
        "prompts": [draw(st.one_of(ids(1, 5), ids(1, 5), ids(13, 16))) for _ in range(number)],
        "settings": [draw(settings) for _ in range(number)],
        "limits": [draw(st.integers(1, 4)) for _ in range(number)],
        "stop_ids": draw(st.sampled_from([[], [], [4], [0, 7, 9]])),
    }


def call_batch(module, variant, seed, prompts, settings, limits, stop_ids):
    return module.generate_batch(
        model_of(variant, seed), prompts, list(map(settings_of, settings)), limits, stop_ids
    )


SPACES = [
    Space("a6.6", f"{NAME}forward_tokens", rows(), call_rows, view_rows, draws=20),
    Space("a6.6", f"{NAME}logits_of", hidden_states(), call_logits, draws=8),
    Space("a6.7", f"{NAME}RaggedKVCache.attend", schedules(), call_cache, view_cache, draws=24),
    Space("a6.7", f"{NAME}generate_batch", batches(), call_batch, draws=16),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
