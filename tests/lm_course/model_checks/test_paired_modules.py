"""Pairs from the tables of the weights; a name that a model lacks is an error."""

import pytest
import torch
from torch import nn

from lm_core.user_error import UserError
from lm_course.model_checks.paired_modules import (
    Pair,
    check_names,
    in_our_order,
    paired_modules,
    shaped_like,
)
from transformer_lm.weights.weight_layout import Source


def test_modules_around_a_weight_are_pairs_too():
    pairs = paired_modules(
        {
            "blocks.0.attention.query.weight": Source("h.0.attn.qkv.weight", part=0, parts=3),
            "blocks.0.attention_norm.weight": Source("h.0.ln.weight"),
            "output_head.weight": Source("head.weight"),
        }
    )
    assert {name: pair.theirs for name, pair in pairs.items()} == {
        "blocks.0.attention.query": "h.0.attn.qkv",
        "blocks.0.attention": "h.0.attn",
        "blocks.0": "h.0",
        "blocks.0.attention_norm": "h.0.ln",
        "": "",
    }
    assert pairs["blocks.0.attention.query"].parts == 3


@pytest.mark.parametrize("side", ["transformers' model", "the model that is checked"])
def test_a_wrong_name_is_an_error(side):
    models = [nn.ModuleDict({"norm": nn.Identity()}), nn.ModuleDict({"ln": nn.Identity()})]
    good = {"norm": Pair("norm", "ln")}
    check_names(good, *models)
    bad = Pair("norm", "ln_f") if side.startswith("transformers") else Pair("norms", "ln")
    with pytest.raises(UserError, match=f"{side} has no module (ln_f|norms)"):
        check_names({"norm": bad}, *models)


def test_order_of_values():
    parts = Pair("q", "qkv", part=1, parts=3)
    value = torch.arange(6.0)[None, None]
    assert in_our_order(value, parts, 2, is_input=False).tolist() == [[[2.0, 3.0]]]
    assert in_our_order(value, parts, 2, is_input=True) is value
    halves = Pair("q", "q_proj", halves=True)  # one head of 4: halves (0, 1), (2, 3)
    value = torch.arange(4.0)[None, None]
    assert in_our_order(value, halves, 4, is_input=False).tolist() == [[[0.0, 2.0, 1.0, 3.0]]]
    norm = Pair("n", "q_norm", halves=True, over_heads=True)
    value = torch.arange(24.0).reshape(1, 2, 3, 4)  # [batch, seq, heads, head_dim]
    turned = in_our_order(value, norm, 4, is_input=True)
    assert turned.shape == (1, 3, 2, 4)
    assert turned[0, 2, 1].tolist() == [20.0, 22.0, 21.0, 23.0]


def test_shapes_of_a_learners_code():
    value = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert torch.equal(shaped_like(value, torch.zeros(1, 3, 2, 4)), value.transpose(1, 2))
    assert shaped_like(value, torch.zeros(2, 12)).shape == (2, 12)
    assert shaped_like(value, torch.zeros(5)) is None
