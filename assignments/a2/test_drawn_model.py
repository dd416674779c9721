"""a2.12 to a2.15 on drawn inputs: the block, the model, parameters, FLOPs and bytes."""

import pytest
import torch
from drawn_objects import KeptCache, config_of, configs, filled, pieces_of, rotary_of
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import Differentiated, within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import SEEDS, TensorInput, integers, tensor
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within
from lm_course.grading.comparisons import check_true

pytestmark = pytest.mark.usefixtures("a2")  # one thread
booleans = st.booleans()
cuts = st.none() | st.lists(st.integers(1, 8), max_size=3)
backends = st.sampled_from(["auto", "eager", "sdpa"])


PLAIN = {
    "vocab_size": 60,
    "context_length": 50,
    "d_model": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "d_ff": 70,
    "biases": False,
}


# a2.12


@st.composite
def blocks(draw):
    fields = draw(configs())
    length = draw(st.integers(1, fields["context_length"]))
    return {
        "config": fields,
        "x": tensor(draw, (draw(st.integers(1, 3)), length, fields["d_model"]), ("float32",)),
        "cuts": draw(cuts),
        "layer": draw(near_constants(st.integers(0, 2), 0, 100)),
        "backend": draw(backends),
        "seed": draw(SEEDS),
        "with_gradient": draw(booleans),
    }


def call_block(module, config, x, cuts, layer, backend, seed, with_gradient):
    """Call a block on the whole of x, or behind a cache in pieces, after another block was made."""
    settings = config_of(config)
    other = {"norm_eps": 0.1, "norm_position": "pre", "biases": not config["biases"]}
    module.TransformerBlock(config_of(config | other), 7)
    block = filled(module.TransformerBlock(settings, layer, backend), seed)
    rotary, positions = rotary_of(settings), torch.arange(x.shape[1])

    def run(x):
        if cuts is None:
            return block(x, rotary, positions)
        cache = KeptCache()
        pieces = pieces_of(x.shape[1], cuts)
        results = [block(x[:, piece], rotary, positions[piece], cache) for piece in pieces]
        return (*results, *cache.layers.get(layer, ()))

    parameters = dict(block.named_parameters()) if with_gradient else {}
    return Differentiated(run, {"x": x}, parameters, wanted=with_gradient, step=1e-3, rounds=True)


def make_block(module, config, layer, backend, **_):
    return module.TransformerBlock(config_of(config), layer, backend)


# a2.13


@st.composite
def models(draw):
    fields = draw(configs())
    context, vocab_size = fields["context_length"], fields["vocab_size"]
    # One too long and one id too large, now and then: both must be refused.
    fitting = st.integers(1, context)
    length = draw(st.one_of(fitting, fitting, fitting, st.just(context + 1)))
    below = vocab_size + draw(st.sampled_from([0, 0, 0, 0, 1, 1, 30]))
    return {
        "config": fields,
        "ids": integers(draw, (draw(st.integers(1, 3)), length), below),
        "cuts": draw(cuts),
        "backend": draw(backends),
        "seed": draw(SEEDS),
        "with_gradient": draw(booleans),
    }


def call_model(module, config, ids, cuts, backend, seed, with_gradient):
    """Call a model on all ids, or behind a cache in pieces, after another model was made."""
    other = {"norm_eps": 0.1, "rope_theta": 3.0, "biases": not config["biases"]}
    module.TransformerLM(config_of(config | other))
    model = filled(module.TransformerLM(config_of(config), backend), seed)
    check_true(model.config == config_of(config), "the model must keep `config` as an attribute")

    def run(ids):
        if cuts is None:
            return model(ids)
        cache = KeptCache()
        results = [model(ids[:, piece], cache) for piece in pieces_of(ids.shape[1], cuts)]
        return (*results, *(x for layer in sorted(cache.layers) for x in cache.layers[layer]))

    model.train(with_gradient)
    parameters = dict(model.named_parameters()) if with_gradient else {}
    return Differentiated(
        run, {"ids": ids}, parameters, wanted=with_gradient, step=1e-3, rounds=True
    )


# Only the last id is too large; the first piece is right.
LATE_MISTAKE = {
    "config": {**PLAIN, "vocab_size": 5, "context_length": 8},
    "ids": TensorInput((1, 6), "int64", order="in a row", below=6),
    "cuts": [3],
    "backend": "eager",
    "seed": 1,
    "with_gradient": False,
}


def make_model(module, config, backend, **_):
    return module.TransformerLM(config_of(config), backend)


@st.composite
def wide_configs(draw):
    """Draw every field of models with so many weights that their deviation can be measured."""
    sizes = {"vocab_size": 60, "context_length": 50, "d_ff": 70, "head_dim": 16}
    heads = {"num_heads": 4, "num_kv_heads": draw(st.sampled_from([2, 4]))}
    deep = {"d_model": draw(st.sampled_from([48, 80])), "num_layers": draw(st.integers(1, 4))}
    return draw(configs()) | sizes | heads | deep


# The settings that the start depends on, in all combinations.
NEW_MODELS = [
    {
        "config": {**PLAIN, "norm": norm, "norm_position": place, "tie_embeddings": tied},
        "seed": 3,
    }
    for norm in ("rmsnorm", "layernorm", "none")
    for place in ("pre", "post")
    for tied in (True, False)
]


def call_new_model(module, config, seed):
    torch.manual_seed(seed)
    return module.TransformerLM(config_of(config))


def view_new_model(model):
    """Matrices by their deviation, mean and largest value; everything else exactly."""
    seen = {}
    for name, parameter in sorted(model.named_parameters()):
        x = parameter.detach()
        seen[name] = x if x.ndim == 1 else statistics_of(x)
    return seen


def statistics_of(x):
    std = float(x.std())
    return {
        "standard deviation": Within(std, 0.1, 0.0),
        "mean is nearly 0": abs(float(x.mean())) < 0.15 * std,
        "cut off at three deviations": 1.9 * std < float(x.abs().max()) < 3.4 * std,
    }


# a2.14, a2.15


@st.composite
def large_configs(draw):
    """Draw every field, also of large models: nothing is built."""
    large = st.integers(1, 5000)
    return draw(configs()) | {
        name: draw(large) * draw(st.sampled_from([1, 1, 1, 997]))
        for name in ("vocab_size", "context_length", "d_model", "num_layers", "d_ff")
    }


def call_parameters(module, config):
    settings = config_of(config)
    return module.parameters_by_part(settings), module.count_parameters(settings)


def call_flops(module, config, sequence_length):
    settings = config_of(config)
    return {
        "forward_flops_by_part": module.forward_flops_by_part(settings, sequence_length),
        "flops_per_token": float(module.flops_per_token(settings, sequence_length)),
        "six_n_flops_per_token": module.six_n_flops_per_token(settings),
    }


def view_flops(value):
    """Keys in any order; a quotient of large numbers may be rounded."""
    parts, per_token, six_n = value.values()
    return (
        sorted(parts.items()),
        within(1e-12, 0.0)(torch.tensor(per_token, dtype=torch.float64)),
        six_n,
    )


def call_cache_bytes(module, config, bytes_per_value):
    if bytes_per_value is None:
        return module.kv_cache_bytes_per_token(config_of(config))
    return module.kv_cache_bytes_per_token(config_of(config), bytes_per_value)


SPACES = [
    Space(
        "a2.12",
        "transformer_lm.language_model.TransformerBlock",
        blocks(),
        call_block,
        within(2e-3, 1e-3, (1e-2, 1e-3)),
        makes=make_block,
        draws=40,
    ),
    Space(
        "a2.13",
        "transformer_lm.language_model.TransformerLM",
        models(),
        call_model,
        within(2e-3, 1e-3, (1e-2, 1e-3)),
        makes=make_model,
        draws=40,
        examples=[LATE_MISTAKE],
    ),
    Space(
        "a2.13",
        "transformer_lm.language_model.TransformerLM, new",
        arguments({"config": wide_configs(), "seed": SEEDS}),
        call_new_model,
        view_new_model,
        seeds=True,
        draws=20,
        examples=NEW_MODELS,
    ),
    Space(
        "a2.14",
        "transformer_lm.model_cost.parameters_by_part",
        arguments({"config": large_configs()}),
        call_parameters,
        lambda value: (sorted(value[0].items()), value[1]),
        draws=40,
    ),
    Space(
        "a2.15",
        "transformer_lm.model_cost.forward_flops_by_part",
        arguments(
            {
                "config": large_configs(),
                "sequence_length": near_constants(st.integers(1, 9000), 1, 2**20),
            }
        ),
        call_flops,
        view_flops,
        draws=40,
    ),
    Space(
        "a2.15",
        "transformer_lm.model_cost.kv_cache_bytes_per_token",
        arguments(
            {"config": large_configs(), "bytes_per_value": st.sampled_from([None, 1, 2, 4, 8])}
        ),
        call_cache_bytes,
        draws=40,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
