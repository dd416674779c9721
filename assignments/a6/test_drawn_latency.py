"""a6.21 on drawn inputs: costs of steps, and memory of caches."""

import latency_oracle as oracle
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within

NAME = "inference.latency_model."

BITS = st.sampled_from([16, 16, 32, 8, 4, 4.5, 8.5])


@st.composite
def configs(draw):
    kv_heads = draw(st.integers(1, 3))
    return {
        "vocab_size": draw(near_constants(st.integers(1, 20), 1, 100_000)),
        "context_length": draw(st.sampled_from([1, 8, 64])),
        "d_model": draw(st.integers(1, 9)),
        "num_layers": draw(near_constants(st.integers(1, 4), 1, 200)),
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 4)),
        "d_ff": draw(st.integers(1, 12)),
        "mlp": draw(st.sampled_from(["swiglu", "gelu", "squared_relu", "geglu"])),
        "position": draw(st.sampled_from(["rotary", "learned", "none"])),
        "norm": draw(st.sampled_from(["rmsnorm", "layernorm", "none"])),
        "biases": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "tie_embeddings": draw(st.booleans()),
        "sliding_window": draw(st.none() | near_constants(st.integers(1, 9), 1, 300)),
    }


@st.composite
def steps(draw):
    new = draw(st.lists(near_constants(st.integers(1, 6), 1, 300), max_size=4))
    cached = [draw(near_constants(st.integers(0, 12), 0, 300)) for _ in new]
    wrong = draw(st.integers(0, 9))
    if wrong == 7:
        cached = [*cached, 3]
    elif wrong == 8 and new:
        new[-1] = draw(st.sampled_from([0, -2]))
    elif wrong == 9 and new:
        cached[0] = -1
    as_tuples = draw(st.booleans())
    return {
        "config": draw(configs()),
        "new_tokens": tuple(new) if as_tuples else new,
        "cached_tokens": tuple(cached) if as_tuples else cached,
        "weight_bits": draw(BITS),
        "cache_bits": draw(BITS),
    }


def step_cost(module, config, new_tokens, cached_tokens, weight_bits, cache_bits):
    shape = oracle.config_of(config)
    if (weight_bits, cache_bits) == (16, 16):
        return module.step_cost(shape, new_tokens, cached_tokens)
    return module.step_cost(shape, new_tokens, cached_tokens, weight_bits, cache_bits)


def step_oracle(config, new_tokens, cached_tokens, weight_bits, cache_bits):
    shape = oracle.config_of(config)
    return oracle.cost_of(shape, new_tokens, cached_tokens, weight_bits, cache_bits)


amounts = st.sampled_from([0.0, 1.0, 3.5, 1e3, 1e9, 7e12])
rates = st.sampled_from([1.0, 2.5, 1e3, 1e9, 3e12])
machines = st.tuples(rates, rates)
roofs = arguments({"cost": st.tuples(amounts, amounts, amounts), "machine": machines})


def roofline_seconds(module, cost, machine):
    return module.roofline_seconds(module.StepCost(*cost), module.Machine(*machine))


@st.composite
def decodes(draw):
    return {
        "config": draw(configs()),
        "batch_size": draw(near_constants(st.integers(1, 5), 1, 300)),
        "length": draw(near_constants(st.integers(0, 12), 0, 300)),
        "machine": draw(machines),
        "weight_bits": draw(BITS),
        "cache_bits": draw(BITS),
    }


def tokens_per_second(module, config, batch_size, length, machine, weight_bits, cache_bits):
    shape, fast = oracle.config_of(config), module.Machine(*machine)
    bits = () if (weight_bits, cache_bits) == (16, 16) else (weight_bits, cache_bits)
    return module.decode_tokens_per_second(shape, batch_size, length, fast, *bits)


def tokens_oracle(config, batch_size, length, machine, weight_bits, cache_bits):
    shape, requests = oracle.config_of(config), ([1] * batch_size, [length] * batch_size)
    weight, cache, flops = oracle.cost_of(shape, *requests, weight_bits, cache_bits)
    return batch_size / max((weight + cache) / machine[0], flops / machine[1])


@st.composite
def memories(draw):
    lengths = draw(st.lists(near_constants(st.integers(0, 40), 0, 2000), max_size=5))
    return {
        "config": draw(configs()),
        "lengths": tuple(lengths) if draw(st.booleans()) else lengths,
        "block_size": draw(near_constants(st.integers(1, 20), 1, 500)),
        "cache_bits": draw(BITS),
    }


def memory_for_cache(module, config, lengths, block_size, cache_bits):
    bits = () if cache_bits == 16 else (cache_bits,)
    return module.memory_for_cache(oracle.config_of(config), lengths, block_size, *bits)


def memory_oracle(config, lengths, block_size, cache_bits):
    return oracle.memory_of(oracle.config_of(config), lengths, block_size, cache_bits)


def as_floats(value):
    """A number or a tuple of numbers, each within the rounding of float64."""
    each = value if isinstance(value, tuple) else (value,)
    return [Within(float(number), 1e-9, 0.0) for number in each]


SPACES = [
    Space("a6.21", f"{NAME}step_cost", steps(), step_cost, as_floats, draws=40, oracle=step_oracle),
    Space("a6.21", f"{NAME}roofline_seconds", roofs, roofline_seconds, as_floats, draws=30),
    Space(
        "a6.21",
        f"{NAME}decode_tokens_per_second",
        decodes(),
        tokens_per_second,
        as_floats,
        draws=30,
        oracle=tokens_oracle,
    ),
    Space(
        "a6.21",
        f"{NAME}memory_for_cache",
        memories(),
        memory_for_cache,
        as_floats,
        draws=30,
        oracle=memory_oracle,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
