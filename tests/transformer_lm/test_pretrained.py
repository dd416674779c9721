"""Checkpoints against transformers itself, both ways, and every way that a folder can be wrong."""

import pytest
import torch
import transformers

from lm_core.checkpoint_files import read_checkpoint, write_checkpoint
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.pretrained import (
    from_hugging_face,
    halves_to_pairs,
    load_model,
    model_config_from_hugging_face,
    pairs_to_halves,
    to_hugging_face,
)

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
    with torch.no_grad():  # away from the start: norms of 1 and tiny logits would hide mistakes
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


def test_rows_of_a_head_go_to_halves_and_back():
    rows = torch.arange(12)[:, None].float()
    assert pairs_to_halves(rows, 6).flatten().tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert torch.equal(halves_to_pairs(pairs_to_halves(rows, 6), 6), rows)


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
        ({"model_type": "gpt2"}, "model_type is 'gpt2', this code reads 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"head_dim": 16}, "head_dim is 16, this code reads 8"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type is 'llama3'"),
        ({"num_attention_heads": 5, "head_dim": None}, "does not divide"),
    ],
)
def test_other_architectures_are_refused(model, change, words):
    tensors, config = to_hugging_face(model)
    with pytest.raises(ValueError, match=words) as error:
        from_hugging_face(tensors, config | change)
    assert "\n" not in str(error.value)


def test_a_config_without_a_shape_is_refused(model, tmp_path):
    tensors, config = to_hugging_face(model)
    del config["vocab_size"]
    write_checkpoint(tmp_path / "c", tensors, config, {}, None)
    with pytest.raises(ValueError, match="vocab_size is missing"):
        load_model(tmp_path / "c")
    assert read_checkpoint(tmp_path / "c")[1]["model_type"] == "llama"


@pytest.mark.parametrize("config", [[], {"model_type": "llama", "hidden_size": "64"}])
def test_a_config_of_another_form_is_one_line(config):
    with pytest.raises(ValueError, match=r"config\.json: "):
        model_config_from_hugging_face(config)
