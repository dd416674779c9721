"""The contents of GPT-2's config.json, and every value that is rejected by name."""

import pytest
import transformers

from transformer_lm.model_cost import count_parameters
from transformer_lm.weights.gpt2_layout import GPT2

SMALL = {"vocab_size": 31, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}


def test_gpt2_itself_has_124_million_parameters():
    """Radford et al. say 117 million; the released file has 124,439,808."""
    config = GPT2.from_config(transformers.GPT2Config().to_dict())
    assert count_parameters(config) == 124_439_808
    assert config.d_ff == 3072
    assert GPT2.from_config(GPT2.to_config(config)) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', but only 'gel"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu', but only"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, but only True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"n_head": 5}, "num_heads = 5 does not divide d_model = 32"),
        ({"n_positions": "16"}, "n_positions must be a whole number from 1, found '16'"),
        ({"n_inner": "64"}, "does not describe a model: d_ff"),
    ],
)
def test_what_this_code_does_not_compute_is_refused_by_name(change, words):
    assert GPT2.from_config(SMALL).d_ff == 128
    with pytest.raises(ValueError, match=words) as error:
        GPT2.from_config(SMALL | change)
    assert str(error.value).startswith("config.json") and "\n" not in str(error.value)


def test_a_missing_number_is_named():
    with pytest.raises(ValueError, match="n_layer is missing"):
        GPT2.from_config({key: value for key, value in SMALL.items() if key != "n_layer"})


def test_the_other_name_of_the_same_activation_is_read():
    assert GPT2.from_config(SMALL | {"activation_function": "gelu_pytorch_tanh"}).mlp == "gelu"
