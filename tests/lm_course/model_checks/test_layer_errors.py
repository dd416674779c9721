"""Planted mistakes: the layer that has the mistake is the first that is wrong, and the layers after
it, which are right, only inherit the error.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lm_course.model_checks.compared_models import ComparedModels
from lm_course.model_checks.layer_errors import Reference, layer_errors, with_weights_in
from lm_course.model_checks.model_comparison import random_tokens
from lm_course.model_checks.paired_modules import paired_modules
from transformer_lm.weights.pretrained import hugging_face_family

MISTAKES: dict[str, tuple[Callable[[nn.Module], None], str, str]] = {}


def mistake(first: str, part: str) -> Callable[[Callable], Callable]:
    """A function that plants a mistake; `first` is the wrong layer, `part` the wrong part."""

    def keep(plant: Callable[[nn.Module], None]) -> Callable:
        MISTAKES[plant.__name__] = plant, first, part
        return plant

    return keep


@mistake("output blocks.1.feed_forward_norm", "output blocks.1.feed_forward_norm")
def eps_of_another_family(model):
    model.blocks[1].feed_forward_norm.eps = 1e-6


@mistake("output blocks.0.attention", "output blocks.0.attention.rotary")
def rotary_halves(model):
    """Pairs (i, i + head_dim / 2), as transformers has them, for weights in our order."""
    adjacent = model.rotary.forward

    def forward(x, positions):
        turned = adjacent(torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2), positions)
        return torch.cat((turned[..., 0::2], turned[..., 1::2]), dim=-1)

    model.rotary.forward = forward


@mistake("output blocks.0.attention", "input blocks.0.attention.output")
def no_attention_scale(model):
    for block in model.blocks:
        attend = block.attention._attend
        block.attention._attend = lambda q, k, v, attend=attend: attend(
            q * math.sqrt(q.shape[-1]), k, v
        )


@mistake("output blocks.2.feed_forward", "input blocks.2.feed_forward.down")
def gate_and_up_swapped(model):
    layer = model.blocks[2].feed_forward
    layer.forward = lambda x: layer.down(nn.functional.silu(layer.up(x)) * layer.gate(x))


@mistake("output blocks.1.attention", "output blocks.1.attention.value")
def wrong_value_matrix(model):
    model.blocks[1].attention.value.weight.data.mul_(1.01)


@mistake("input blocks.1.feed_forward_norm", "input blocks.1.feed_forward_norm")
def no_residual_around_attention(model):
    block = model.blocks[1]

    def forward(x, rotary, positions, cache=None):
        x = block.attention(block.attention_norm(x), rotary, positions, cache)
        return x + block.feed_forward(block.feed_forward_norm(x))

    block.forward = forward


@mistake("output blocks.0", "output blocks.0")
def no_residual_around_feed_forward(model):
    block = model.blocks[0]

    def forward(x, rotary, positions, cache=None):
        x = x + block.attention(block.attention_norm(x), rotary, positions, cache)
        return block.feed_forward(block.feed_forward_norm(x))

    block.forward = forward


@mistake("output token_embedding", "output token_embedding")
def embedding_off_by_one(model):
    model.token_embedding.forward = lambda ids: model.token_embedding.weight[ids - 1]


@mistake("output final_norm", "output final_norm")
def final_norm_left_out(model):
    model.final_norm.forward = lambda x: x


@mistake("output logits", "output logits")
def logits_divided(model):
    head = model.output_head.forward
    model.output_head.forward = lambda x: head(x) / 1.001


@pytest.fixture(scope="module")
def references(llama: ComparedModels) -> dict[str, Reference]:
    config = llama.ours.config
    pairs = paired_modules(llama.family.sources(config))
    ids = random_tokens(config, 37)
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {n: Reference(llama.theirs, pairs, config, t, ids) for n, t in types.items()}


def wrong(rows):
    return [f"{row.kind} {row.name}" for row in rows if row.verdict == "wrong"]


@pytest.mark.parametrize("name", MISTAKES)
def test_the_wrong_layer_is_named_first(name, llama, references):
    plant, first, part = MISTAKES[name]
    model = with_weights_in(llama.ours, torch.float32, torch.float32)
    plant(model)
    layers = layer_errors(model, references["float32"], parts=False)
    assert wrong(layers)[0] == first
    assert wrong(layer_errors(model, references["float32"], parts=True))[0] == part


def test_later_layers_inherit(llama, references):
    model = with_weights_in(llama.ours, torch.float32, torch.float32)
    model.blocks[1].feed_forward_norm.eps = 0.1
    rows = layer_errors(model, references["float32"], parts=False)
    assert wrong(rows) == ["output blocks.1.feed_forward_norm"]
    verdicts = {row.name: row.verdict for row in rows if row.kind == "output"}
    assert verdicts["blocks.1.attention"] == "equal"
    later = ("blocks.1.feed_forward", "blocks.2.attention_norm", "blocks.2.attention", "logits")
    assert {verdicts[name] for name in later} == {"inherited"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parts", [False, True])
def test_equal_models(dtype, parts, llama, references):
    kind = getattr(torch, dtype)
    model = with_weights_in(llama.ours, kind, kind)
    rows = layer_errors(model, references[dtype], parts)
    assert {row.verdict for row in rows} == {"equal"}
    assert all(row.here <= row.tolerance / 2 for row in rows), "little room for other machines"
    names = [row.name for row in rows if row.kind == "output"]
    expected = ["token_embedding", "blocks.0.attention_norm", "blocks.2", "final_norm", "logits"]
    assert [name for name in names if name in expected] == expected
    assert ("blocks.1.attention.rotary" in names) == parts


def test_a_layer_that_is_not_called_shows_in_the_next(llama, references):
    model = with_weights_in(llama.ours, torch.float32, torch.float32)
    block = model.blocks[1]

    def forward(x, rotary, positions, cache=None):
        x = x + block.attention.forward(x, rotary, positions, cache)  # without its norm
        return x + block.feed_forward(block.feed_forward_norm(x))

    block.forward = forward
    rows = layer_errors(model, references["float32"], parts=False)
    assert wrong(rows)[0] == "input blocks.1.feed_forward_norm"


@pytest.mark.parametrize(
    "shape", ["gpt2", "qwen3", "mistral, window of 9", "llama, yarn rescaling", "llama, tied"]
)
def test_every_family(shape, parity, tmp_path):
    ours = parity.random_model(parity.shape_named(shape))
    theirs = parity.loaded_by_transformers(ours, tmp_path / "checkpoint")
    pairs = paired_modules(hugging_face_family(ours.config).sources(ours.config))
    ids = random_tokens(ours.config, 37)
    reference = Reference(theirs, pairs, ours.config, torch.float32, ids)
    rows = layer_errors(ours, reference, parts=True)
    assert {row.verdict for row in rows} == {"equal"}
    kinds = {row.name.rpartition(".")[2] for row in rows}
    assert {"query", "key", "value", "output", "up", "down"} <= kinds
    if shape == "gpt2":
        ours.position_embedding.weight.data.mul_(1.01)
        assert wrong(layer_errors(ours, reference, parts=False))[0] == "output position_embedding"
    if shape == "qwen3":
        ours.blocks[1].attention.key_norm.eps = 1.0
        found = wrong(layer_errors(ours, reference, parts=True))
        assert found[0] == "output blocks.1.attention.key_norm"
    if shape == "mistral, window of 9":
        ours.blocks[1].attention.sliding_window = 10
        found = wrong(layer_errors(ours, reference, parts=True))
        assert found[0] == "input blocks.1.attention.output"
