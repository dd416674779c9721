"""The rescaling that a GGUF file's metadata describe; transformers is the oracle for the logits of
positions beyond the training length.
"""

import math

import pytest
import torch
import transformers

from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.rotary_embedding import rotary_frequencies
from transformer_lm.weights.gguf_file import load_gguf

ORIGINAL = "original_max_position_embeddings"
USUAL = 0.1 * math.log(4) + 1  # yarn's attention factor by 4


@pytest.fixture
def llama(parity, tmp_path):
    model = parity.random_model(parity.shape_named("llama, grouped heads"))
    return parity.loaded_by_transformers(model, tmp_path / "c")


def keys(**values):
    """Make keys such as rope.scaling.factor from scaling__factor."""
    return {f"llama__rope__{name}": value for name, value in values.items()}


YARN = {"scaling__type": "yarn", "scaling__factor": 4.0}
SCALINGS = [
    ({"scale_linear": 4.0}, ("linear", 64, {})),
    ({"scaling__type": "linear", "scale_linear": 4.0}, ("linear", 64, {})),
    ({"scaling__factor": 4.0}, ("linear", 64, {})),
    ({"scaling__factor": 4.0, "scale_linear": 1.0}, ("linear", 64, {})),
    ({"scaling__factor": 4.0, "scale_linear": 4.0}, ("linear", 64, {})),
    ({"scaling__factor": 4.0, "scaling__original_context_length": 16}, ("linear", 16, {})),
    ({"scaling__type": "none", "scaling__factor": 4.0}, None),
    ({"scaling__type": "none", "scale_linear": 4.0}, None),
    ({"scaling__type": "linear"}, None),
    ({"scaling__factor": 1.0, "scaling__attn_factor": 1.0}, None),
    (YARN, ("yarn", 64, {})),
    (YARN | {"scaling__original_context_length": 16}, ("yarn", 16, {})),
    (YARN | {"scaling__yarn_beta_fast": 8.0}, ("yarn", 64, {"beta_fast": 8.0})),
    (YARN | {"scaling__yarn_beta_slow": 2.0}, ("yarn", 64, {"beta_slow": 2.0})),
    (YARN | {"scaling__yarn_ext_factor": 1.0, "scaling__finetuned": True}, ("yarn", 64, {})),
    (YARN | {"scaling__yarn_attn_factor": USUAL}, ("yarn", 64, {})),
    (YARN | {"scaling__attn_factor": 0.5}, ("yarn", 64, {"attention_factor": USUAL / 2})),
]


@pytest.mark.parametrize(("written", "expected"), SCALINGS)
def test_what_the_keys_say(written, expected, llama, gguf_writing, tmp_path):
    gguf_writing.write_gguf(tmp_path / "m.gguf", llama, **keys(**written))
    config = load_gguf(tmp_path / "m.gguf").config
    if expected is None:
        assert config.rope_scaling is None and config.context_length == 64
        return
    kind, original, others = expected
    assert config.rope_scaling == RopeScaling(
        kind=kind, factor=4, original_context_length=original, **others
    )
    assert config.context_length == max(64, 4 * original)


REFUSED = [
    ({"scale": 4.0}, "llama.rope.scale is 4.0, but only 1 is supported"),
    ({"scale_linear": 0.25}, "llama.rope.scale_linear is 0.25, expected a number from 1"),
    ({"scale_linear": 2.0, "scaling__factor": 4.0}, "factor is 4 and llama.rope.scale_linear is 2"),
    ({"scaling__attn_factor": 1.2}, "attn_factor is 1.2, but with linear only 1 is supported"),
    ({"scaling__yarn_ext_factor": 1.0}, "ext_factor is 1, but with linear only 0 is supported"),
    (YARN | {"scaling__yarn_ext_factor": 0.0}, "ext_factor is 0, but with yarn only 1 is"),
    (YARN | {"scaling__yarn_attn_factor": 1.0}, "yarn_attn_factor is 1, but with yarn only"),
    (YARN | {"scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier is 0.1.*only 0 is"),
    (YARN | {"scaling__yarn_beta_fast": 0.0}, "does not describe a model: beta_fast"),
    ({"scaling__alpha": 1000.0}, "rope.scaling.alpha is 1000.0, but only 1 is supported"),
    ({"scaling__type": "longrope"}, "rope.scaling.type is 'longrope'; supported are none"),
    ({"freq_base_swa": 77.0}, "freq_base_swa is 77.0, but only 500 is supported"),
    ({"dimension_count": 4}, "rope.dimension_count is 4, but only 8 is supported"),
    ({"scaling__factor": 1e8}, "a context of 6,400,000,000 tokens is more than the"),
]


@pytest.mark.parametrize(("written", "words"), REFUSED)
def test_what_is_not_computed_is_refused(written, words, llama, gguf_writing, tmp_path):
    gguf_writing.write_gguf(tmp_path / "m.gguf", llama, **keys(**written))
    with pytest.raises(UserError, match=words) as error:
        load_gguf(tmp_path / "m.gguf")
    assert str(error.value).startswith(f"{tmp_path / 'm.gguf'}: ") and "\n" not in str(error.value)


def rescaled(family: str, length: int, **scaling) -> transformers.PreTrainedModel:
    """Return a random transformers model with rescaled rotary frequencies."""
    sizes = {"vocab_size": 131, "hidden_size": 48, "intermediate_size": 80, "head_dim": 8}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2}
    kind = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}[family]
    rope = {"rope_theta": 500.0} | scaling
    config = kind(**sizes, **heads, max_position_embeddings=length, rope_parameters=rope)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


# The settings for transformers, and those of the file.
ORACLES = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"scale_linear": 4.0}),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 64, "beta_fast": 8, "beta_slow": 2}
        | {"attention_factor": 0.75 * USUAL},
        YARN
        | {"scaling__yarn_beta_fast": 8.0, "scaling__yarn_beta_slow": 2.0}
        | {"scaling__original_context_length": 64, "scaling__attn_factor": 0.75},
    ),
}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", ORACLES)
def test_logits_beyond_the_original_length(kind, family, gguf_writing, tmp_path):
    scaling, written = ORACLES[kind]
    theirs = rescaled(family, 64, **scaling)
    metadata = {f"{family}__rope__{name}": value for name, value in written.items()}
    gguf_writing.write_gguf(tmp_path / "m.gguf", theirs, **metadata)
    model = load_gguf(tmp_path / "m.gguf")
    assert model.config.context_length == 256
    ids = torch.arange(150)[None] % 131
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_llama3_comes_as_divisors_and_keeps_its_length(gguf_writing, tmp_path):
    scaling = RopeScaling(kind="llama3", factor=32, original_context_length=8192)
    theirs = rescaled(
        "llama",
        256,
        rope_theta=500_000.0,
        rope_type="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        **{ORIGINAL: 8192},
    )
    before, after = rotary_frequencies(8, 500_000.0), rotary_frequencies(8, 500_000.0, scaling)
    tensors = gguf_writing.converted(theirs) | {
        "rope_freqs.weight": (before / after).float().numpy()
    }
    path = tmp_path / "m.gguf"
    gguf_writing.write_gguf(path, theirs, tensors=tensors)
    model = load_gguf(path)
    assert (model.config.rope_scaling, model.config.context_length) == (scaling, 256)
    ids = torch.arange(150)[None] % 131
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    gguf_writing.write_gguf(path, theirs, tensors=tensors, **keys(scaling__factor=2.0))
    with pytest.raises(UserError, match=r"file has rope_freqs\.weight, and llama\.rope\.scaling"):
        load_gguf(path)


def test_divisors_in_a_model_without_rotary_positions_are_not_known(parity, gguf_writing, tmp_path):
    theirs = parity.loaded_by_transformers(
        parity.random_model(ModelConfig(**(parity.SMALL | parity.SHAPES["gpt2"]))), tmp_path / "c"
    )
    tensors = gguf_writing.converted(theirs) | {"rope_freqs.weight": torch.ones(4).numpy()}
    gguf_writing.write_gguf(tmp_path / "m.gguf", theirs, tensors=tensors)
    with pytest.raises(UserError, match=r"rope_freqs\.weight is not known"):
        load_gguf(tmp_path / "m.gguf")
