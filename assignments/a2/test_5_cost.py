"""a2.14 to a2.16: parameters, FLOPs and cache bytes, and the written questions on named models."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lm_course.grading.comparisons import check_close, check_equal, check_true

MODULE = "transformer_lm.model_cost"
GPT2 = {
    "vocab_size": 50257,
    "context_length": 1024,
    "d_model": 768,
    "num_layers": 12,
    "num_heads": 12,
    "num_kv_heads": 12,
    "d_ff": 3072,
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu",
    "biases": True,
}
LLAMA3_8B = {
    "vocab_size": 128256,
    "context_length": 8192,
    "d_model": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 8,
    "d_ff": 14336,
    "rope_theta": 500000.0,
    "tie_embeddings": False,
}
SMALL = {
    "vocab_size": 7,
    "context_length": 16,
    "d_model": 6,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 2,
    "d_ff": 10,
}
MODELS = {
    "small": SMALL,
    "untied": SMALL | {"tie_embeddings": False, "qk_norm": True},
    "gpt2": GPT2,
    "llama3-8b": LLAMA3_8B,
}
models = pytest.mark.parametrize("name", MODELS)
PARTS = ("token embedding", "positions", "attention", "feed-forward", "norms", "output head")


def config_of(implementation, name, **changes):
    return implementation("transformer_lm.model_config").ModelConfig(**(MODELS[name] | changes))


def part_of(parameter):
    """Return the part that a parameter belongs to, by its name."""
    if "norm" in parameter:
        return "norms"
    for start, part in (("token_", "token embedding"), ("position_", "positions")):
        if parameter.startswith(start):
            return part
    if parameter.startswith("output_head"):
        return "output head"
    return "attention" if ".attention." in parameter else "feed-forward"


def parameters(shapes):
    """Return part -> number of parameters, from the list of shapes."""
    counts = dict.fromkeys(PARTS, 0)
    for name, shape in shapes.items():
        counts[part_of(name)] += math.prod(shape)
    return counts


# a2.14


@pytest.mark.task("a2.14")
def test_parameters_by_hand(implementation):
    """One layer of width 2 with 1 head, d_ff 3 and 5 tokens: the handout's example."""
    values = {"vocab_size": 5, "d_model": 2, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    config = config_of(implementation, "small", **(values | {"d_ff": 3}))
    got = implementation(MODULE).parameters_by_part(config)
    expected = {"token embedding": 10, "positions": 0, "attention": 16, "feed-forward": 18}
    expected |= {"norms": 6, "output head": 0}
    check_equal(dict(got), expected, "parameters_by_part of the handout's smallest model")


@pytest.mark.task("a2.14")
@models
def test_parameters_of_each_part(implementation, a2, name):
    config = config_of(implementation, name)
    got = dict(implementation(MODULE).parameters_by_part(config))
    check_equal(sorted(got), sorted(PARTS), f"the parts of {name}")
    expected = parameters(a2.model_shapes(config))

    def with_settings(**changes):
        return parameters(a2.model_shapes(config.model_copy(update=changes)))

    wrong = {
        "a tied output head has no parameters of its own": with_settings(tie_embeddings=False),
        "an untied output head has parameters of its own": with_settings(tie_embeddings=True),
        "keys and values have num_kv_heads heads, not num_heads": (
            with_settings(num_kv_heads=config.num_heads)
        ),
        "the biases are missing": with_settings(biases=False),
        "SwiGLU has three matrices, the GELU MLP two": (
            with_settings(mlp="gelu" if config.mlp == "swiglu" else "swiglu")
        ),
        "a LayerNorm has a bias too": with_settings(norm="rmsnorm"),
        "post-norm has no norm after the last block, pre-norm has one": (
            with_settings(norm_position="post" if config.norm_position == "pre" else "pre")
        ),
        "qk_norm adds two norms of head_dim to each layer": with_settings(qk_norm=False),
        "rotary positions have no parameters": with_settings(position="learned"),
    }
    for part in PARTS:
        hints = {
            cause: counts[part] for cause, counts in wrong.items() if counts[part] != expected[part]
        }
        hints["only one layer was counted"] = expected[part] // config.num_layers
        check_equal(got[part], expected[part], f"parameters of the {part} of {name}", hints)


# a2.15


def flops_of(a2, config, length):
    """Return the FLOPs that PyTorch counts while the float64 oracle runs."""
    weights = {name: torch.zeros(shape).double() for name, shape in a2.model_shapes(config).items()}
    with FlopCounterMode(display=False) as counter:
        a2.decoder(config, weights, torch.zeros(1, length, dtype=torch.long))
    return counter.get_total_flops()


@pytest.mark.task("a2.15")
def test_flops_by_hand(implementation):
    values = {"vocab_size": 5, "d_model": 2, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    config = config_of(implementation, "small", **(values | {"d_ff": 3}))
    got = dict(implementation(MODULE).forward_flops_by_part(config, 10))
    expected = {
        "attention projections": 320,
        "attention scores": 800,
        "feed-forward": 360,
        "output head": 200,
    }
    check_equal(sorted(got), sorted(expected), "the parts of forward_flops_by_part")
    for part, right in expected.items():
        hints = {
            "a multiplication and its addition are two FLOPs": right // 2,
            "these are the FLOPs of one token; a sequence has 10": right // 10,
            "these are the FLOPs of training; forward is a third of it": right * 3,
        }
        if part == "attention scores":
            hints["there are two products with the score matrix: q k^T, and weights times v"] = (
                right // 2
            )
            del hints["a multiplication and its addition are two FLOPs"]
            hints["count the whole score matrix, masked entries included"] = lambda got: (
                400 <= got < 800
            )
        what = f"FLOPs of the {part} over 10 tokens of the handout's smallest model"
        check_equal(got[part], right, what, hints)


@pytest.mark.task("a2.15")
@pytest.mark.usefixtures("compiler_loaded")
@pytest.mark.parametrize("name", ["small"])
@pytest.mark.parametrize("length", [7])
def test_flops_as_counted_by_pytorch(implementation, a2, name, length):
    config = config_of(implementation, name)
    got = sum(implementation(MODULE).forward_flops_by_part(config, length).values())
    expected = flops_of(a2, config, length)
    table = config.num_layers * 4 * length**2 * config.head_dim
    hints = {
        "every QUERY head has a score matrix: grouping shares keys, not scores": (
            expected - table * (config.num_heads - config.num_kv_heads)
        ),
        "a tied output head multiplies too": (
            expected - 2 * length * config.vocab_size * config.d_model
        ),
        "only the scores of one layer were counted": (
            expected - table * config.num_heads * (config.num_layers - 1) // config.num_layers
        ),
    }
    what = f"FLOPs of {name} over {length} tokens, against PyTorch's own counter"
    check_equal(got, expected, what, {k: w for k, w in hints.items() if w != expected})


@pytest.mark.task("a2.15")
@pytest.mark.parametrize("name", ["small"])
def test_flops_to_train_on_a_token(implementation, name):
    config = config_of(implementation, name)
    got = implementation(MODULE).flops_per_token(config, 16)
    width, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    inner = (3 if config.mlp == "swiglu" else 2) * config.d_model * config.d_ff
    matrices = config.num_layers * (2 * config.d_model * (width + kv) + inner)
    matrices += config.vocab_size * config.d_model
    forward = 2 * matrices + config.num_layers * 4 * 16 * width
    causes = {
        "this is only the forward pass": forward,
        "the backward pass costs twice the forward pass: three times in total": 2 * forward,
        "these are the FLOPs of 16 tokens: divide by their number": 3 * forward * 16,
        "the attention scores are missing": 6 * matrices,
    }
    what = f"flops_per_token of {name} in sequences of 16"
    check_close(got, 3.0 * forward, 0, 1e-12, what, causes)


@pytest.mark.task("a2.15")
@pytest.mark.parametrize("name", ["untied"])
def test_six_n(implementation, a2, name):
    config = config_of(implementation, name)
    counts = parameters(a2.model_shapes(config))
    total = sum(counts.values())
    hints = {
        "N is all parameters, the embedding included": 6 * (total - counts["token embedding"]),
        "N is all parameters, the output head included": 6 * (total - counts["output head"]),
        "this is 2 N, the forward pass": 2 * total,
    }
    got = implementation(MODULE).six_n_flops_per_token(config)
    check_equal(got, 6 * total, f"six_n_flops_per_token of {name}", hints)


@pytest.mark.task("a2.15")
@pytest.mark.parametrize("name", ["small"])
@pytest.mark.parametrize("bytes_per_value", [2])
def test_cache_bytes(implementation, name, bytes_per_value):
    config = config_of(implementation, name)
    values = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    hints = {
        "a cache holds a key and a value for each token": values * bytes_per_value // 2,
        "only num_kv_heads heads are cached": (
            values * bytes_per_value * config.num_heads // config.num_kv_heads
        ),
        "every layer has a cache": values * bytes_per_value // config.num_layers,
        "bytes_per_value is ignored": values * 2,
        "this is the number of values: each has bytes_per_value bytes": values,
    }
    hints = {cause: wrong for cause, wrong in hints.items() if wrong != values * bytes_per_value}
    got = implementation(MODULE).kv_cache_bytes_per_token(config, bytes_per_value)
    what = f"kv_cache_bytes_per_token of {name}, {bytes_per_value} bytes a value"
    check_equal(got, values * bytes_per_value, what, hints)


@pytest.mark.task("a2.15")
def test_cache_bytes_are_of_bfloat16_unless_told(implementation):
    config = config_of(implementation, "llama3-8b")
    got = implementation(MODULE).kv_cache_bytes_per_token(config)
    check_equal(
        got,
        131_072,
        "kv_cache_bytes_per_token of llama3-8b",
        {"this is for float32: bytes_per_value is 2 by default": 262_144},
    )


# a2.16: GPT-2 has 12 * 768^2 weights in the matrices of a layer, Llama 3 8B 218,103,808.

GPT2_MATRICES = 12 * 12 * 768**2
GPT2_HEAD = 50257 * 768
GPT2_SCORES = 12 * 4 * 1024 * 768  # FLOPs of a token at 1,024
GPT2_FORWARD = 2 * (GPT2_MATRICES + GPT2_HEAD) + GPT2_SCORES
GPT2_PARAMETERS = 124_439_808
LLAMA_PARAMETERS = 8_030_261_248
LLAMA_CACHE = 2 * 32 * 8 * 128 * 2 * 8192
LLAMA_TABLE = 32 * 8192**2 * 2


def check_number(answers, key, expected, causes, relative=0.0):
    """Compare an answer; `causes` maps a likely cause to the wrong number that it gives."""
    found = answers.number(key)
    likely = [
        cause
        for cause, wrong in causes.items()
        if abs(found - wrong) <= max(relative, 1e-4) * abs(wrong)
        and abs(wrong - expected) > relative * expected
    ]
    sentence = f"{key}: {found:,.10g} is not right"
    if likely:
        sentence += f": {likely[0]}"
    elif 0 < abs(found - expected) < 0.02 * expected:
        sentence += ", but less than 2 % off: a small part is missing or counted twice"
    elif found > 0:
        sentence += f": the answer is {'smaller' if found > expected else 'larger'}"
    check_true(abs(found - expected) <= relative * expected, sentence)


@pytest.mark.task("a2.16")
def test_gpt2_parameters(answers):
    right, positions, norms = GPT2_PARAMETERS, 1024 * 768, 25 * 2 * 768
    biases = 12 * (4 * 768 + 3072 + 768)
    causes = {
        "the output head is the embedding: do not count it again": right + GPT2_HEAD,
        "the embedding of 1,024 positions is missing": right - positions,
        "the biases of the linear layers are missing": right - biases,
        "the norms are missing": right - norms,
        "the norm after the last block is missing": right - 2 * 768,
        "a LayerNorm has a bias in addition to its weight": right - 25 * 768,
        "biases and norms are missing": right - biases - norms,
        "these are only the blocks": right - positions - GPT2_HEAD - 2 * 768,
        "these are only the matrices of the blocks": GPT2_MATRICES,
        "biases, norms and position embeddings are missing": (GPT2_MATRICES + GPT2_HEAD),
    }
    check_number(answers, "gpt2_parameters", right, causes)


@pytest.mark.task("a2.16")
def test_llama3_8b_parameters(answers):
    right, head = LLAMA_PARAMETERS, 128256 * 4096
    causes = {
        "the output head is not tied here: it has its own weight": right - head,
        "keys and values have 8 heads of 128 each, not 32": right + 32 * 2 * 3072 * 4096,
        "SwiGLU has three matrices": right - 32 * 4096 * 14336,
        "the norms are missing": right - 65 * 4096,
        "the norm after the last block is missing": right - 4096,
        "these are only the blocks": right - 2 * head - 4096,
    }
    check_number(answers, "llama3_8b_parameters", right, causes)


@pytest.mark.task("a2.16")
def test_gpt2_training_flops(answers):
    causes = {
        "this is only the forward pass": GPT2_FORWARD,
        "the backward pass costs twice the forward pass: three times in total": 2 * GPT2_FORWARD,
        "the attention scores are missing": 6 * (GPT2_MATRICES + GPT2_HEAD),
        "the output head multiplies too, although it is tied": 3 * (GPT2_FORWARD - 2 * GPT2_HEAD),
        "a multiplication and its addition are two FLOPs": 3 * GPT2_FORWARD // 2,
        "this is 6 N, the rule of thumb": 6 * GPT2_PARAMETERS,
        "these are the FLOPs of all 1,024 tokens": 3 * GPT2_FORWARD * 1024,
        "q k^T and weights times v are two products, both counted over the whole score matrix, "
        "masked entries included": 3 * (GPT2_FORWARD - GPT2_SCORES // 2),
    }
    check_number(answers, "gpt2_training_flops_per_token", 3 * GPT2_FORWARD, causes)


@pytest.mark.task("a2.16")
def test_gpt2_six_n(answers):
    causes = {
        "N is all parameters here, the embedding included": 6 * (GPT2_PARAMETERS - GPT2_HEAD),
        "N is all parameters here, both embeddings included": (
            6 * (GPT2_PARAMETERS - GPT2_HEAD - 1024 * 768)
        ),
        "this is 2 N, the forward pass": 2 * GPT2_PARAMETERS,
        "the output head is the embedding: do not count it again": (
            6 * (GPT2_PARAMETERS + GPT2_HEAD)
        ),
    }
    check_number(answers, "gpt2_six_n_flops_per_token", 6 * GPT2_PARAMETERS, causes)


@pytest.mark.task("a2.16")
def test_gpt2_share_of_scores(answers):
    right = 100 * GPT2_SCORES / GPT2_FORWARD
    causes = {
        "q k^T and weights times v are two products": 100
        * (GPT2_SCORES / 2)
        / (GPT2_FORWARD - GPT2_SCORES / 2),
        "this is the ratio of the scores to the rest, not their share in the total": 100
        * GPT2_SCORES
        / (GPT2_FORWARD - GPT2_SCORES),
        "the output head belongs to the forward pass": 100
        * GPT2_SCORES
        / (GPT2_FORWARD - 2 * GPT2_HEAD),
        "this is a fraction: give it in percent": right / 100,
        "a multiplication and its addition are two FLOPs outside the scores, too": (
            100 * GPT2_SCORES / (GPT2_MATRICES + GPT2_HEAD + GPT2_SCORES)
        ),
    }
    check_number(answers, "gpt2_percent_in_scores", right, causes, relative=0.01)


@pytest.mark.task("a2.16")
def test_gpt2_length_where_scores_cost_as_much(answers):
    right = (GPT2_MATRICES + GPT2_HEAD) / (2 * 12 * 768)
    causes = {
        "the output head belongs to the rest": GPT2_MATRICES / (2 * 12 * 768),
        "q k^T and weights times v are two products": 2 * right,
        "a multiplication and its addition are two FLOPs, in the matrices as in the scores": right
        / 2,
        "the FLOPs of one token's scores grow with T, not with T^2": right**0.5,
    }
    check_number(answers, "gpt2_length_of_equal_cost", right, causes, relative=0.002)


@pytest.mark.task("a2.16")
def test_llama3_8b_cache(answers):
    causes = {
        "a cache holds a key and a value, and each number has 2 bytes": LLAMA_CACHE / 2,
        "8 key-value heads are cached, not 32": 4 * LLAMA_CACHE,
        "a bfloat16 has 2 bytes, not 4": 2 * LLAMA_CACHE,
        "every one of the 32 layers has a cache": LLAMA_CACHE / 32,
        "these are the bytes of one token": LLAMA_CACHE / 8192,
        "this is for 8,000 tokens; the question asks for 8,192": LLAMA_CACHE / 8192 * 8000,
    }
    check_number(answers, "llama3_8b_cache_bytes", LLAMA_CACHE, causes)


@pytest.mark.task("a2.16")
def test_llama3_8b_score_table(answers):
    causes = {
        "this is the score matrix of one head; a layer has 32": LLAMA_TABLE / 32,
        "every QUERY head has a score matrix: grouping shares keys, not scores": LLAMA_TABLE / 4,
        "a bfloat16 has 2 bytes": LLAMA_TABLE / 2,
        "this is for float32, with 4 bytes; a bfloat16 has 2": 2 * LLAMA_TABLE,
        "this is for 32 layers; the question asks for one": 32 * LLAMA_TABLE,
    }
    check_number(answers, "llama3_8b_table_bytes", LLAMA_TABLE, causes)
