"""Checkpoints against transformers itself, in both directions, and every fault of a folder."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lm_core.formats.checkpoint_files import read_checkpoint, write_checkpoint
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights import pretrained
from transformer_lm.weights.pretrained import (
    from_hugging_face,
    hugging_face_family,
    load_model,
    model_config_from_hugging_face,
    to_hugging_face,
)
from transformer_lm.weights.weight_layout import pairs_to_halves

PARITY = Path(__file__).parents[3] / "benchmarks" / "parity.py"


def script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = script(PARITY)
TOLERANCE = {"atol": 1e-4, "rtol": 0}  # issue 2's bound; the errors found are below 1e-5


@pytest.fixture(params=[(True, 2), (False, 2), (True, 4), (False, 1)], ids=str)
def model(request) -> TransformerLM:
    tied, kv_heads = request.param
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=101,
        context_length=40,
        d_model=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=kv_heads,
        d_ff=56,
        rope_theta=500.0,
        norm_eps=1e-3,
        tie_embeddings=tied,
    )
    model = TransformerLM(config)
    with torch.no_grad():  # norms of 1 and tiny logits would hide mistakes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def export(model: TransformerLM, folder, **special_token_ids) -> None:
    write_checkpoint(folder, *to_hugging_face(model, special_token_ids), {}, None)


def test_transformers_computes_the_same_logits_and_gradients(model, tmp_path):
    export(model, tmp_path / "step_000001")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "step_000001")
    ids = torch.randint(0, 101, (2, 40), generator=torch.Generator().manual_seed(3))
    ours_logits, their_logits = model(ids), theirs(ids).logits
    assert their_logits.dtype == torch.float32
    torch.testing.assert_close(ours_logits, their_logits, **TOLERANCE)
    ours_logits.logsumexp(-1).mean().backward()
    their_logits.logsumexp(-1).mean().backward()
    ours = model.blocks[0].attention.key.weight.grad
    gradient = theirs.model.layers[0].self_attn.k_proj.weight.grad
    torch.testing.assert_close(pairs_to_halves(ours, 8), gradient, atol=1e-6, rtol=1e-3)


def test_transformers_generates_the_same_greedy_text(model, tmp_path):
    export(model, tmp_path / "step_000001", eos_token_id=100)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "step_000001")
    prompt = torch.tensor([[5, 17, 3]])
    ids = prompt
    while ids.shape[1] < 20 and ids[0, -1] != 100:
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    generated = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=17, pad_token_id=0
    )
    assert generated.tolist() == ids.tolist()
    assert theirs.generation_config.eos_token_id == 100


def test_a_model_made_by_transformers_loads_here(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=67,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=30,
        rope_parameters={"rope_type": "default", "rope_theta": 777.0},
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    ids = torch.arange(30)[None]
    torch.testing.assert_close(load_model(tmp_path)(ids), theirs(ids).logits, **TOLERANCE)


def test_the_old_key_for_the_rotary_base_is_read_too(model):
    tensors, config = to_hugging_face(model)
    del config["rope_parameters"]
    assert from_hugging_face(tensors, config).config.rope_theta == 500.0


def test_weights_come_back_bit_for_bit(model, tmp_path):
    export(model, tmp_path / "c")
    loaded = load_model(tmp_path / "c")
    assert loaded.config == model.config
    for (name, expected), found in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(expected, found), name


def test_tensors_that_do_not_fit_are_all_listed(model, tmp_path):
    tensors, config = to_hugging_face(model)
    del tensors["model.norm.weight"]
    tensors["model.layers.7.extra"] = torch.zeros(1)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 4)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    write_checkpoint(tmp_path / "c", tensors, config, {}, None)
    with pytest.raises(ValueError) as error:
        load_model(tmp_path / "c")
    message = str(error.value)
    assert "\n" not in message
    for words in (
        f"{tmp_path / 'c'}: ",
        "model.norm.weight is missing",
        "model.layers.7.extra is not known",
        "model.layers.0.mlp.up_proj.weight has shape (3, 4), expected (56, 32)",
        "model.layers.1.mlp.up_proj.weight holds NaN",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model_type": "gemma"},
            "model_type is 'gemma'; this code reads gpt2, llama, lm_course_decoder, mistral, qwen3",
        ),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu' is supported"),
        ({"attention_bias": True}, "attention_bias is True, but only False is supported"),
        ({"mlp_bias": True}, "attention_bias is False, but only True is supported"),
        ({"num_attention_heads": 5, "head_dim": None}, "does not divide"),
        ({"rope_scaling": {"rope_type": ["yarn"], "factor": 2}}, r"rope_type is \['yarn'\]; sup"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": math.inf}}, "factor must be a number"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2, "rope_theta": 1.0}},
            r"rope_theta = 1 with yarn",
        ),
        (
            {"model_type": "qwen3", "layer_types": 5, "mlp_bias": False},
            "layer_types must be a list",
        ),
    ],
)
def test_other_architectures_are_refused(model, change, words):
    tensors, config = to_hugging_face(model)
    with pytest.raises(ValueError, match=words) as error:
        from_hugging_face(tensors, config | change)
    assert "\n" not in str(error.value)


def test_a_weight_too_large_for_float16_is_named(model):
    tensors, config = to_hugging_face(model)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    words = r"float16 ends at 65504; choose bfloat16 or float32: model\.layers\.0\.mlp\.up_proj"
    with pytest.raises(ValueError, match=words):
        from_hugging_face(tensors, config, torch.float16)
    assert from_hugging_face(tensors, config, torch.bfloat16)


def test_a_few_problems_of_each_kind_are_listed(model):
    tensors, config = to_hugging_face(model)
    found = {name: tensors[name] for name in list(tensors)[:4]}
    found[list(found)[-1]] = torch.zeros(2, 3)
    found |= {f"extra.{number}": torch.zeros(1) for number in range(9)}
    with pytest.raises(ValueError) as error:
        from_hugging_face(found, config)
    for words in (" is missing", " is not known", " has shape (2, 3), expected "):
        assert words in str(error.value)


def test_a_config_without_a_shape_is_refused(model, tmp_path):
    tensors, config = to_hugging_face(model)
    del config["vocab_size"]
    write_checkpoint(tmp_path / "c", tensors, config, {}, None)
    with pytest.raises(ValueError, match="vocab_size is missing"):
        load_model(tmp_path / "c")
    assert read_checkpoint(tmp_path / "c")[1]["model_type"] == "llama"


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("config", [[], {"model_type": "llama", "hidden_size": "64"}])
def test_a_config_of_another_form_is_one_line(config):
    with pytest.raises(ValueError, match=r"config\.json: "):
        model_config_from_hugging_face(config)


def test_of_many_problems_five_are_listed_and_the_others_counted(model):
    tensors, config = to_hugging_face(model)
    few = {name: tensors[name] for name in list(tensors)[:3]}
    with pytest.raises(ValueError, match=rf"; and {len(tensors) - 3 - 5} more$") as error:
        from_hugging_face(few, config)
    assert str(error.value).count(" is missing") == 5


def test_whole_numbers_in_place_of_weights_are_refused(model):
    tensors, config = to_hugging_face(model)
    tensors["model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds int8, expected floating"):
        from_hugging_face(tensors, config)


def test_a_tied_head_of_its_own_is_refused_and_a_copy_is_not(model):
    tensors, config = to_hugging_face(model)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    config["tie_word_embeddings"] = True
    assert from_hugging_face(tensors, config).config.tie_embeddings
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        from_hugging_face(tensors, config)


# Parity with transformers, in both directions: benchmarks/parity.py has the shapes and the measure.


@pytest.mark.parametrize("name", parity.SHAPES)
def test_every_family_gives_the_logits_and_gradients_of_transformers(name):
    found = parity.parity_of(name, torch.float32)
    assert found.largest_logit > 1, "logits near 0 would hide mistakes"
    assert found.logits < 1e-4  # the bound; the errors found are below 2e-5
    for tensor, error in found.gradients.items():
        assert error < 1e-3, tensor  # of the tensor's largest gradient


@pytest.mark.parametrize("name", ["llama, grouped heads", "qwen3", "gpt2"])
def test_bfloat16_is_as_near_to_float32_as_transformers_is(name):
    found = parity.parity_of(name, torch.bfloat16)
    assert found.ours_rounded < 2 * found.theirs_rounded
    assert found.logits < 2 * found.theirs_rounded + 2 * found.ours_rounded


@pytest.mark.parametrize("name", parity.SHAPES)
def test_every_family_comes_back_bit_for_bit(name, tmp_path):
    model = parity.random_model(parity.shape_named(name))
    export(model, tmp_path / "c")
    loaded = load_model(tmp_path / "c")
    assert loaded.config == model.config
    assert hugging_face_family(model.config).name == name.partition(",")[0]
    for (expected_name, expected), (found_name, found) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert found_name == expected_name
        assert torch.equal(expected, found), expected_name
        assert found.requires_grad


@pytest.mark.parametrize("name", parity.SHAPES)
def test_what_transformers_saves_loads_here(name, tmp_path):
    """Not a folder that we wrote: their config, their random weights, their names."""
    described = to_hugging_face(TransformerLM(parity.shape_named(name)))[1]
    del described["dtype"], described["torch_dtype"]
    config = transformers.AutoConfig.for_model(**described)
    torch.manual_seed(5)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config == parity.shape_named(name)
    found = parity.measure(ours, theirs)
    assert found.logits < 1e-4
    for tensor, error in found.gradients.items():
        assert error < 1e-3, tensor


@pytest.mark.parametrize("name", ["llama, tied", "qwen3, window of 9, tied", "gpt2"])
def test_the_model_without_its_head_is_read_too(name, tmp_path):
    """As GPT-2's own file is: no prefix before the names."""
    model = parity.random_model(parity.shape_named(name))
    theirs = parity.loaded_by_transformers(model, tmp_path / "ours")
    theirs.base_model.save_pretrained(tmp_path / "theirs")
    ids = parity.random_ids(model.config)
    assert torch.equal(load_model(tmp_path / "theirs")(ids), model(ids))


def test_buffers_that_are_no_weights_are_passed_over():
    model = parity.random_model(parity.shape_named("gpt2"))
    tensors, config = to_hugging_face(model)
    for layer in range(3):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril().byte()
    assert from_hugging_face(tensors, config).config == model.config


def test_weights_in_several_files_are_read(tmp_path):
    model = parity.random_model(parity.shape_named("qwen3"))
    theirs = parity.loaded_by_transformers(model, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
    assert len(list((tmp_path / "parts").glob("model-0000*.safetensors"))) > 2
    ids = parity.random_ids(model.config)
    assert torch.equal(load_model(tmp_path / "parts")(ids), model(ids))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("model.layers.0.self_attn.twist", "twist is not known"),
    ],
)
def test_what_the_index_does_not_name_is_passed_over_if_the_family_does(name, problem, tmp_path):
    """transformers 4 left buffers in the files of Llama, and not always in the index."""
    model = parity.random_model(parity.shape_named("llama, tied"))
    folder = tmp_path / "parts"
    theirs = parity.loaded_by_transformers(model, tmp_path / "ours")
    theirs.save_pretrained(folder, max_shard_size="60KB")
    first = sorted(folder.glob("model-*.safetensors"))[0]
    save_file(load_file(first) | {name: torch.ones(4)}, first)
    if problem is None:
        ids = parity.random_ids(model.config)
        assert torch.equal(load_model(folder)(ids), model(ids))
    else:
        with pytest.raises(ValueError, match=problem):
            load_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers, but 29 tensors"),
        ({"hidden_size": 6 * 2**40, "head_dim": 8}, "is larger than any existing model"),
        ({"intermediate_size": 2**62}, "is larger than any existing model"),
        ({"vocab_size": 2**62}, "is larger than any existing model"),
        ({"num_attention_heads": 6 * 2**60}, "is larger than any existing model"),
    ],
)
def test_a_shape_that_no_file_could_have_is_one_line(change, words):
    tensors, config = to_hugging_face(parity.random_model(parity.shape_named("llama, tied")))
    with pytest.raises(ValueError, match=words):
        from_hugging_face(tensors, config | change)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_number_format_is_kept_or_changed_as_asked(dtype, tmp_path):
    model = parity.random_model(parity.shape_named("llama, tied"))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    export(model, tmp_path / "c")
    assert read_checkpoint(tmp_path / "c")[1]["dtype"] == str(dtype).removeprefix("torch.")
    assert {p.dtype for p in load_model(tmp_path / "c").parameters()} == {torch.float32}
    kept = load_model(tmp_path / "c", dtype=None)
    for expected, found in zip(model.parameters(), kept.parameters(), strict=True):
        assert torch.equal(expected, found) and found.dtype == dtype
    assert kept.rotary.cosines.dtype == torch.float32


def test_loading_shares_no_memory_with_the_tensors_given():
    model = parity.random_model(parity.shape_named("llama, tied"))
    copy = from_hugging_face(*to_hugging_face(model))
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in model.parameters())


NO_FAMILY = [
    ({"norm_position": "post"}, "norm_position = 'post'; the nearest, llama, needs norm_position"),
    ({"position": "none"}, "position = 'none'"),
    ({"norm": "none"}, "norm = 'none'"),
    ({"mlp": "gelu"}, "mlp = 'gelu'"),
    ({"mlp": "squared_relu"}, "mlp = 'squared_relu'; the nearest, llama, needs mlp = 'swiglu'"),
    ({"mlp": "geglu"}, "mlp = 'geglu'; the nearest, llama, needs mlp = 'swiglu'"),
    ({"qk_norm": True, "biases": True}, "qk_norm = True; the nearest, llama, needs qk_norm"),
    (parity.GPT2_SHAPE, "num_kv_heads = 2; the nearest, gpt2, needs num_kv_heads = 6"),
]


@pytest.mark.parametrize(("change", "words"), NO_FAMILY)
def test_a_shape_that_transformers_cannot_compute_is_saved_in_our_own_layout(
    change, words, tmp_path
):
    model = parity.random_model(ModelConfig(**(parity.SMALL | change)))
    with pytest.raises(ValueError, match="transformers has no family for a decoder with") as error:
        hugging_face_family(model.config)
    assert words in str(error.value)
    export(model, tmp_path / "c", eos_token_id=7)
    described = read_checkpoint(tmp_path / "c")[1]
    assert (described["model_type"], described["eos_token_id"]) == ("lm_course_decoder", 7)
    loaded = load_model(tmp_path / "c")
    assert loaded.config == model.config
    for (name, expected), found in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(expected, found), name
    ids = parity.random_ids(model.config)
    assert torch.equal(loaded(ids), model(ids))


def test_a_mistake_in_code_is_not_said_to_be_the_folders(tmp_path, monkeypatch):
    def mistaken(*given):
        raise ValueError("operands could not be broadcast together")

    write_checkpoint(tmp_path / "model", {}, {}, {}, None)
    monkeypatch.setattr(pretrained, "from_hugging_face", mistaken)
    with pytest.raises(ValueError, match=r"^operands could not be broadcast together$") as error:
        pretrained.load_model(tmp_path / "model")
    assert not isinstance(error.value, UserError)
