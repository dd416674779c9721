"""Files written as by llama.cpp's converter are read bit for bit; every wrong file is one line; and
SmolLM2 says that the capital of France is Paris.
"""

import gguf
import numpy as np
import pytest
import torch

from lm_core.formats.gguf_container import read_gguf
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.model_cost import count_parameters
from transformer_lm.rotary_embedding import rotary_frequencies
from transformer_lm.weights.gguf_blocks import PACKINGS
from transformer_lm.weights.gguf_file import load_gguf, types_by_size

NAMES = ["llama, grouped heads", "llama, tied", "llama, as SmolLM2", "qwen3", "gpt2"]


@pytest.fixture(params=NAMES)
def pair(request, parity, tmp_path):
    """Return one of our models, and the same model in transformers."""
    model = parity.random_model(parity.shape_named(request.param))
    return model, parity.loaded_by_transformers(model, tmp_path / "c")


@pytest.fixture
def llama(parity, tmp_path):
    model = parity.random_model(parity.shape_named("llama, grouped heads"))
    return parity.loaded_by_transformers(model, tmp_path / "c")


def test_every_architecture_comes_back_bit_for_bit(pair, gguf_writing, tmp_path):
    model, theirs = pair
    gguf_writing.write_gguf(tmp_path / "m.gguf", theirs)
    found = load_gguf(tmp_path / "m.gguf")
    assert found.config == model.config
    for (name, expected), weight in zip(model.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(expected, weight), name
    ids = torch.arange(60)[None]
    torch.testing.assert_close(found(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", PACKINGS)
def test_every_type_of_tensor_gives_the_weights_that_gguf_gives(
    kind, parity, gguf_writing, tmp_path
):
    shape = parity.SMALL | {"d_model": 64, "num_heads": 4, "d_ff": 96}
    theirs = parity.loaded_by_transformers(
        parity.random_model(ModelConfig(**shape)), tmp_path / "c"
    )
    gguf_writing.write_gguf(tmp_path / "m.gguf", theirs, kind)
    model = load_gguf(tmp_path / "m.gguf")
    assert types_by_size(read_gguf(tmp_path / "m.gguf"))[0] == kind
    packing = gguf.GGMLQuantizationType[kind]
    up = theirs.model.layers[1].mlp.up_proj.weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(up, packing), packing)
    np.testing.assert_array_equal(model.blocks[1].feed_forward.up.weight.detach(), expected)
    rounded = load_gguf(tmp_path / "m.gguf", dtype=torch.bfloat16)
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}


def test_llama_3_is_known_by_its_divisors(llama, gguf_writing, tmp_path):
    """The converter of llama.cpp writes the divisor of every frequency."""
    path = tmp_path / "m.gguf"
    scaling = RopeScaling(kind="llama3", factor=32, original_context_length=8192)
    before, after = rotary_frequencies(8, 500_000.0), rotary_frequencies(8, 500_000.0, scaling)
    divisors = (before / after).float().numpy()
    assert divisors.min() == 1 and divisors.max() == 32
    llama.config.rope_parameters["rope_theta"] = 500_000.0
    tensors = gguf_writing.converted(llama)
    gguf_writing.write_gguf(path, llama, tensors=tensors | {"rope_freqs.weight": divisors})
    assert load_gguf(path).config.rope_scaling == scaling
    for added, words in ((0.5, "differs from Llama 3's rescaling"), (np.nan, "holds NaN")):
        divisors[1] += added
        gguf_writing.write_gguf(path, llama, tensors=tensors | {"rope_freqs.weight": divisors})
        with pytest.raises(ValueError, match=rf"rope_freqs\.weight .*{words}") as error:
            load_gguf(path)
        assert "\n" not in str(error.value)


LINEAR = {"llama__rope__scaling__type": "linear"}
METADATA = [
    ({"general__architecture": "gemma3"}, "the architecture is 'gemma3'; this code reads gpt2, ll"),
    ({"llama__expert_count": 8}, "llama.expert_count is 8, but only 0 is supported"),
    ({"llama__rope__dimension_count": 4}, "rope.dimension_count is 4, but only 8 is supported"),
    ({"llama__rope__scaling__type": "longrope"}, "rope.scaling.type is 'longrope'; supported"),
    ({"split__count": 3}, "one of 3 parts"),
    ({"split__count": "three"}, "one of 'three' parts"),
    ({**LINEAR, "llama__rope__scaling__factor": 0.0}, "scaling.factor is 0, expected a number fr"),
    ({**LINEAR, "llama__rope__scaling__factor": 0.5}, "scaling.factor is 0.5, expected a number"),
    ({**LINEAR, "llama__rope__scaling__factor": float("nan")}, "scaling.factor is nan, expected"),
    ({**LINEAR, "llama__rope__scaling__factor": "two"}, "scaling.factor is 'two', expected"),
]


@pytest.mark.parametrize(("metadata", "words"), METADATA)
def test_what_this_code_does_not_compute_is_refused(llama, gguf_writing, tmp_path, metadata, words):
    path = tmp_path / "m.gguf"
    if "general__architecture" in metadata:
        path.write_bytes(b"")
        writer = gguf.GGUFWriter(path, metadata["general__architecture"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        gguf_writing.write_gguf(path, llama, **metadata)
    with pytest.raises(ValueError, match=words) as error:
        load_gguf(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_listed(llama, gguf_writing, tmp_path):
    path = tmp_path / "m.gguf"
    tensors = gguf_writing.converted(llama)
    del tensors["output_norm.weight"]
    tensors["blk.0.attn_q.bias"] = np.zeros(48, np.float32)
    tensors["blk.1.ffn_up.weight"] = np.zeros((3, 48), np.float32)
    gguf_writing.write_gguf(path, llama, tensors=tensors)
    with pytest.raises(ValueError, match="the file does not fit its metadata") as error:
        load_gguf(path)
    for words in (
        "output_norm.weight is missing",
        "blk.0.attn_q.bias is not known",
        "blk.1.ffn_up.weight has shape (3, 48), expected (80, 48)",
    ):
        assert words in str(error.value)


def test_nan_is_named(llama, gguf_writing, tmp_path):
    tensors = gguf_writing.converted(llama)
    tensors["blk.2.ffn_down.weight"][5, 6] = np.nan
    gguf_writing.write_gguf(tmp_path / "m.gguf", llama, tensors=tensors)
    with pytest.raises(ValueError, match=r"blk\.2\.ffn_down\.weight holds NaN"):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_number_that_is_none_is_named_in_every_type(kind, parity, gguf_writing, tmp_path):
    """NumPy, which would warn, is not used for it: warnings are errors here."""
    shape = parity.SMALL | {"d_model": 64, "num_heads": 4, "d_ff": 96}
    theirs = parity.loaded_by_transformers(
        parity.random_model(ModelConfig(**shape)), tmp_path / "c"
    )
    path = tmp_path / "m.gguf"
    gguf_writing.write_gguf(path, theirs, kind)
    packed = read_gguf(path).tensors["blk.1.ffn_up.weight"].data.tobytes()
    start = {"F32": b"\0\0\xc0\x7f", "BF16": b"\x80\x7f"}.get(kind, b"\0\x7c")
    content = path.read_bytes().replace(packed, start + packed[len(start) :])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged: blk\.1\.ffn_up\.weight holds NaN or inf"):
        load_gguf(path)


def test_a_weight_too_large_for_float16_is_named(llama, gguf_writing, tmp_path):
    tensors = gguf_writing.converted(llama)
    tensors["blk.2.ffn_down.weight"][5, 6] = 1e5
    gguf_writing.write_gguf(tmp_path / "m.gguf", llama, tensors=tensors)
    assert load_gguf(tmp_path / "m.gguf", dtype=torch.bfloat16)
    words = r"float16 ends at 65504; choose bfloat16 or float32: blk\.2\.ffn_down\.weight would"
    with pytest.raises(ValueError, match=words):
        load_gguf(tmp_path / "m.gguf", dtype=torch.float16)


def test_a_type_that_is_not_read_is_named(llama, gguf_writing, tmp_path, parity):
    shape = parity.SMALL | {"d_model": 64, "num_heads": 4, "d_ff": 96}
    model = parity.random_model(ModelConfig(**shape))
    theirs = parity.loaded_by_transformers(model, tmp_path / "c2")
    gguf_writing.write_gguf(tmp_path / "m.gguf", theirs, "Q5_0")
    with pytest.raises(ValueError, match="tensors are of type Q5_0; this code reads F32, F16, BF1"):
        load_gguf(tmp_path / "m.gguf")


def test_smollm2_knows_the_capital_of_france(smollm2):
    """The logits were measured once with llama.cpp's weights, in the issue."""
    model = load_gguf(smollm2)
    assert count_parameters(model.config) == 134_515_008
    with torch.no_grad():
        logits = model(torch.tensor([[504, 3575, 282, 4649, 314]]))[0, -1]
    values, ids = logits.topk(5)
    assert ids.tolist() == [7042, 260, 4528, 2250, 1315]
    expected = torch.tensor([17.371, 14.889, 13.245, 13.009, 12.952])
    torch.testing.assert_close(values, expected, atol=0.02, rtol=0)
