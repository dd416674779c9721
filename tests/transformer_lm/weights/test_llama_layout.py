"""The contents of a config.json of Llama, Mistral or Qwen3, with transformers' own classes as the
oracle, and every value that is rejected by name.
"""

import itertools
import json

import pytest
import torch
import transformers

from transformer_lm.model_config import RopeScaling
from transformer_lm.weights.llama_layout import LLAMA, MISTRAL, ORIGINAL_LENGTH, QWEN3
from transformer_lm.weights.pretrained import load_model

SMALL = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CLASSES = {
    LLAMA: transformers.LlamaConfig,
    MISTRAL: transformers.MistralConfig,
    QWEN3: transformers.Qwen3Config,
}
families = pytest.mark.parametrize("family", CLASSES, ids=lambda family: family.name)


def grouped(family, **changes):
    heads = {} if family is LLAMA else {"num_key_value_heads": 4}
    return SMALL | heads | changes


@families
def test_what_config_json_leaves_out_is_what_transformers_takes(family):
    theirs = CLASSES[family](**grouped(family))
    ours = family.from_config(grouped(family))
    assert ours.head_dim == theirs.head_dim
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.tie_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize("family", [MISTRAL, QWEN3], ids=lambda family: family.name)
def test_key_heads_that_config_json_leaves_out_are_theirs_too(family):
    theirs = CLASSES[family](**SMALL).num_key_value_heads
    with pytest.raises(ValueError, match=f"num_kv_heads = {theirs} does not divide num_heads = 4"):
        family.from_config(SMALL)


@families
def test_what_is_written_is_what_their_class_writes(family, tmp_path):
    """Every value that their class supports survives a round trip through it."""
    config = family.from_config(grouped(family))
    written = family.to_config(config)
    CLASSES[family](**{k: v for k, v in written.items() if k != "model_type"}).save_pretrained(
        tmp_path
    )
    resaved = json.loads((tmp_path / "config.json").read_text())
    assert family.from_config(resaved) == config
    for key in written.keys() & resaved.keys():
        assert written[key] == resaved[key], key


OLD_AND_NEW = [
    (
        {"type": "linear", "factor": 4},
        RopeScaling(kind="linear", factor=4, original_context_length=64),
    ),
    (
        {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 5},
        RopeScaling(kind="linear", factor=2, original_context_length=5),
    ),
    (
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | {"original_max_position_embeddings": 32},
        RopeScaling(kind="llama3", factor=8, original_context_length=32),
    ),
    (
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "attention_factor": 0.5},
        RopeScaling(
            kind="yarn",
            factor=4,
            original_context_length=64,
            beta_fast=16,
            attention_factor=0.5,
        ),
    ),
]


# The rescaling, max_position_embeddings, and our result: Llama 3.2, Qwen2.5, Vicuna 16k, DeepSeek
# Coder, and the case of which transformers reads 150 tokens.
LENGTHS = [
    ({"rope_type": "llama3", "factor": 32.0, ORIGINAL_LENGTH: 8192}, 131_072, 131_072),
    ({"rope_type": "llama3", "factor": 8.0, ORIGINAL_LENGTH: 64}, 64, 512),
    ({"rope_type": "yarn", "factor": 4.0, ORIGINAL_LENGTH: 32_768}, 131_072, 131_072),
    ({"rope_type": "yarn", "factor": 4.0, ORIGINAL_LENGTH: 32_768}, 32_768, 131_072),
    ({"rope_type": "yarn", "factor": 4.0}, 64, 256),
    ({"rope_type": "yarn", "factor": 1.5, ORIGINAL_LENGTH: 33}, 40, 50),
    ({"type": "linear", "factor": 4.0}, 4096, 16_384),
    ({"type": "linear", "factor": 4.0, ORIGINAL_LENGTH: 4096}, 16_384, 16_384),
]


@pytest.mark.parametrize(("scaling", "stated", "read"), LENGTHS)
def test_a_rescaling_reads_the_original_length_times_the_factor(scaling, stated, read):
    scaling = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | scaling
    config = LLAMA.from_config(
        SMALL | {"max_position_embeddings": stated, "rope_parameters": scaling}
    )
    assert config.context_length == read
    assert LLAMA.from_config(LLAMA.to_config(config)) == config


@pytest.mark.parametrize("family", CLASSES, ids=lambda family: family.name)
@pytest.mark.parametrize(
    ("kind", "stated"), [("linear", 64), *itertools.product(("llama3", "yarn"), (64, 256))]
)
def test_logits_beyond_the_original_length_are_those_of_transformers(
    kind, stated, family, tmp_path
):
    """150 tokens with a model trained on 64 and rescaled by 4, written and read by transformers."""
    scaling = {"rope_type": kind, "factor": 4.0, "rope_theta": 100.0, ORIGINAL_LENGTH: 64}
    if kind == "linear":
        del scaling[ORIGINAL_LENGTH]
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    changes = {"max_position_embeddings": stated, "rope_parameters": scaling}
    config = CLASSES[family](**grouped(family, **changes, head_dim=8))
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config.context_length == 256
    ids = torch.randint(0, SMALL["vocab_size"], (1, 150))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("written", "expected"), OLD_AND_NEW)
def test_rescaled_rotary_frequencies_by_either_key(written, expected):
    """transformers 4 wrote rope_scaling and rope_theta, 5 writes rope_parameters."""
    old = LLAMA.from_config(SMALL | {"rope_scaling": written, "rope_theta": 77.0})
    new = LLAMA.from_config(SMALL | {"rope_parameters": written | {"rope_theta": 77.0}})
    assert old == new
    assert (old.rope_scaling, old.rope_theta) == (expected, 77.0)
    assert LLAMA.from_config(LLAMA.to_config(old)) == old


def test_a_window_in_all_layers_is_computed_and_one_in_some_is_refused():
    windowed = grouped(QWEN3, use_sliding_window=True, sliding_window=8)
    assert QWEN3.from_config(windowed | {"max_window_layers": 0}).sliding_window == 8
    assert QWEN3.from_config(windowed | {"max_window_layers": 3}).sliding_window is None
    assert QWEN3.from_config(windowed | {"use_sliding_window": False}).sliding_window is None
    for some in (
        {"max_window_layers": 1},
        {"layer_types": ["full_attention"] + ["sliding_attention"] * 2},
    ):
        with pytest.raises(ValueError, match="sliding_window applies to 2 of 3 layers"):
            QWEN3.from_config(windowed | some)


REFUSED = [
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu' is supported"),
    ({"attention_bias": True}, "attention_bias is True, but only False is supported"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but only 1.0 is supported"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type is 'dynamic'; supported are"),
    ({"rope_scaling": {"type": "linear"}}, "the rope factor must be a number from 1, found None"),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "mscale": 1}}, "mscale is 1, but only"),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": False}}, "truncate is False"),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": "a"}}, "beta_fast: .*found 'a'"),
    ({"rope_parameters": [1]}, r"rope_parameters must be an object, found \[1\]"),
    ({"rope_parameters": {"full_attention": {}}}, "has a part for full_attention alone"),
    ({"rope_theta": "big"}, "does not describe a model: rope_theta"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config is \{'bits': 4\}"),
    ({"vocab_size": True}, "vocab_size must be a whole number from 1, found True"),
    ({"hidden_size": 0}, "hidden_size must be a whole number from 1, found 0"),
    ({"num_hidden_layers": None}, "num_hidden_layers must be a whole number from 1, found None"),
    ({"head_dim": 7}, "does not describe a model: head_dim = 7 .* is odd"),
    ({"tie_word_embeddings": "yes"}, "does not describe a model: tie_embeddings"),
    ({"max_position_embeddings": 10**12}, "a context of 1,000,000,000,000 tokens is more than"),
    ({"rope_scaling": {"type": "linear", "factor": 1e8}}, "a context of 6,400,000,000 tokens is"),
]


@families
@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_what_this_code_does_not_compute_is_refused_by_name(family, change, words):
    with pytest.raises(ValueError, match=words) as error:
        family.from_config(grouped(family, **change))
    assert str(error.value).startswith("config.json") and "\n" not in str(error.value)


def test_biases_in_all_linear_layers_are_computed():
    assert LLAMA.from_config(SMALL | {"attention_bias": True, "mlp_bias": True}).biases
