"""A model that is written as GGUF: package `gguf` reads it, our reader makes the same model of it,
and a shape or a tokenizer that does not fit is refused in one line.
"""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from inference.engine.engine import Engine
from inference.engine.text_side import TextSide
from inference.quantized_files.gguf_export import export_gguf, gguf_architecture
from inference.sampling import SamplingSettings
from lm_core.formats.gguf_container import read_gguf
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer
from tokenizer_bpe.pretokenization import PATTERNS
from tokenizer_bpe.templates.jinja_template import JinjaTemplate
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import to_printable
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.weights.gguf_file import load_gguf, types_by_size

ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
GPT2 = {
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu",
    "biases": True,
    "num_kv_heads": 4,
}
SHAPES = {
    "llama": {},
    "llama, own head": {"tie_embeddings": False},
    "llama, wide heads": {"head_dim": 32, "norm_eps": 1e-6, "rope_theta": 500_000.0},
    "llama, linear": {
        "rope_scaling": RopeScaling(kind="linear", factor=2.0, original_context_length=24)
    },
    "llama, llama3": {
        "rope_theta": 500_000.0,
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context_length=8192),
    },
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "gpt2": GPT2,
    "gpt2, own head": GPT2 | {"tie_embeddings": False},
}
# The largest difference of a logit, relative to the largest logit.
TOLERANCES = {"f16": 2e-3, "q8_0": 0.03, "q4_0": 0.5}


def model_of(**changes) -> TransformerLM:
    torch.manual_seed(1)
    shape = {"context_length": 48, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 96}
    shape |= {"num_kv_heads": 2, "vocab_size": 262}
    return TransformerLM(ModelConfig(**(shape | changes))).eval()


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocab = dict(enumerate(bytes([byte]) for byte in range(256)))
    merges = [(b"t", b"h"), (b" ", b"th")]
    vocab |= {256: b"th", 257: b" th"}
    return Tokenizer(vocab, merges, SPECIAL_TOKENS, PATTERNS["gpt4"])  # 261 tokens


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("name", SHAPES)
def test_our_reader_makes_the_same_model_of_the_file(name, kind, tokenizer, tmp_path: Path):
    model = model_of(**SHAPES[name])
    path = tmp_path / "m.gguf"
    assert export_gguf(path, model, TextSide(tokenizer), ROLES, kind) == []
    loaded = load_gguf(path)
    assert loaded.config == model.config
    ids = torch.arange(40)[None]
    with torch.no_grad():
        logits, found = model(ids), loaded(ids)
    error = float((found - logits).abs().max() / logits.abs().max())
    assert error < TOLERANCES[kind]
    assert name.endswith("head") or error > 0
    expected = {"f16": {"F16", "F32"}, "q8_0": {"Q8_0", "F32"}, "q4_0": {"Q4_0", "Q8_0", "F32"}}
    assert set(types_by_size(read_gguf(path))) == expected[kind]


@pytest.mark.parametrize(("kind", "packing"), [("q8_0", "Q8_0"), ("q4_0", "Q4_0"), ("f16", "F16")])
def test_package_gguf_reads_what_its_own_writer_would_have_written(
    kind, packing, tokenizer, tmp_path: Path
):
    model = model_of()
    export_gguf(tmp_path / "m.gguf", model, TextSide(tokenizer), ROLES, kind)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 2 + 9 * 2
    type_number = gguf.GGMLQuantizationType[packing]
    weight = model.blocks[1].feed_forward.down.weight.detach().numpy()
    found = tensors["blk.1.ffn_down.weight"]
    assert found.tensor_type == type_number and found.shape.tolist() == [96, 64]
    expected = gguf.quants.quantize(weight, type_number)
    np.testing.assert_array_equal(
        found.data.view(np.uint8).reshape(-1), expected.view(np.uint8).reshape(-1)
    )
    norm = tensors["output_norm.weight"]
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32
    np.testing.assert_array_equal(norm.data, model.final_norm.weight.detach())
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{packing}"]
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.rope.dimension_count"] == 16
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[257:] == [to_printable(b" th"), *SPECIAL_TOKENS, "[PAD261]"]
    types = fields["tokenizer.ggml.token_type"]
    assert types[257:] == [
        gguf.TokenType[each] for each in ("NORMAL", "CONTROL", "CONTROL", "CONTROL", "UNUSED")
    ]
    assert fields["tokenizer.ggml.merges"] == ["t h", "Ġ th"]
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.special_tokens["<|im_end|>"]
    assert fields["tokenizer.ggml.add_bos_token"] is False


def test_the_engine_says_the_same_from_the_file(tokenizer, tmp_path: Path):
    model, path = model_of(), tmp_path / "m.gguf"
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    export_gguf(path, model, TextSide(tokenizer), ROLES, "f16")
    engine, again = Engine(model, tokenizer), Engine.from_gguf(path)
    assert again.stop_ids == engine.stop_ids
    greedy = SamplingSettings(temperature=0.0)
    for text in ("the cat", "Ünï 123456", ""):
        assert again.tokenizer.encode(text) == tokenizer.encode(text)
        assert again.complete(text, greedy, 8) == engine.complete(text, greedy, 8)
    question = [{"role": "user", "content": "Hi <|im_end|>"}]
    assert again.chat_ids(question) == engine.chat_ids(question)


def test_a_foreign_text_side_is_kept(tokenizer, tmp_path: Path):
    template = JinjaTemplate("{{ messages[0]['content'] }}<|im_end|>", ROLES)
    ends = frozenset({tokenizer.special_tokens[text] for text in SPECIAL_TOKENS} | {256})
    side = TextSide(tokenizer, template, ends, tokenizer.special_tokens["<|endoftext|>"])
    roles = ROLES | {"bos_token": "<|endoftext|>"}
    export_gguf(tmp_path / "m.gguf", model_of(), side, roles, "q8_0")
    engine = Engine.from_gguf(tmp_path / "m.gguf")
    assert engine.stop_ids == ends and engine.first_id == side.first_id
    assert engine.template.text == template.text
    many = side._replace(stop_ids=ends | {1, 2, 3})
    with pytest.raises(ValueError, match=r"that end a text: .* would be lost"):
        export_gguf(tmp_path / "n.gguf", model_of(), many, roles, "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_rows_that_are_not_whole_blocks_are_in_float16(tokenizer, tmp_path: Path):
    model = model_of(d_ff=80)
    wider = export_gguf(tmp_path / "m.gguf", model, TextSide(tokenizer), ROLES, "q4_0")
    assert wider == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert load_gguf(tmp_path / "m.gguf").config == model.config


def test_what_does_not_fit_is_refused(tokenizer, tmp_path: Path):
    def refused(words, model=None, side=None, kind="q8_0"):
        given = TextSide(tokenizer) if side is None else side
        with pytest.raises(ValueError, match=words) as error:
            export_gguf(tmp_path / "m.gguf", model or model_of(), given, ROLES, kind)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())

    refused(r"GGUF type 'q5_0': expected f16, q8_0, q4_0", kind="q5_0")
    refused("no architecture for a decoder with norm_position = 'post'; the nearest, llama",
            model_of(norm_position="post"))  # fmt: skip
    refused("sliding_window = 8", model_of(sliding_window=8))
    refused("num_kv_heads = 2", model_of(**GPT2 | {"num_kv_heads": 2}))
    yarn = RopeScaling(kind="yarn", factor=2.0, original_context_length=24)
    refused("rope_scaling of the kind 'yarn'", model_of(rope_scaling=yarn))
    large = model_of()
    large.blocks[0].attention.key.weight.data[3, 4] = 1e9
    refused(r"blk\.0\.attn_k\.weight: block \d+ has the scale", large)
    refused(r"blk\.0\.attn_k\.weight: a weight is above 65504", large, kind="f16")
    other = Tokenizer(tokenizer.vocab, tokenizer.merges, SPECIAL_TOKENS, r"\w+|\W+")
    refused("no name for the tokenizer's pattern", side=TextSide(other))
    refused("byte-level BPE", side=TextSide(CharacterTokenizer.of(list("abc"))))


@pytest.mark.parametrize("name", ["llama", "llama, own head", "qwen3", "gpt2"])
def test_the_tensors_are_those_that_the_converter_makes_of_the_hugging_face_model(
    name, tokenizer, parity, gguf_writing, tmp_path: Path
):
    """The other path: our Hugging Face layout, transformers, and the converter's reordering."""
    model = model_of(**SHAPES[name])
    theirs = parity.loaded_by_transformers(model, tmp_path / "hugging_face")
    export_gguf(tmp_path / "m.gguf", model, TextSide(tokenizer), ROLES, "q8_0")
    found = read_gguf(tmp_path / "m.gguf").tensors
    expected = gguf_writing.converted(theirs)
    assert found.keys() == expected.keys()
    for tensor_name, weight in expected.items():
        tensor = found[tensor_name]
        assert tensor.shape == weight.shape
        packed = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[tensor.type])
        np.testing.assert_array_equal(tensor.data, packed.view(np.uint8).reshape(-1), tensor_name)


@pytest.mark.parametrize("name", SHAPES)
def test_the_architecture_of_each_shape(name):
    assert gguf_architecture(model_of(**SHAPES[name]).config) == name.partition(",")[0]
