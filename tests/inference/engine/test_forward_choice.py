"""The fastest forward pass that knows a model is taken, and a form that it lacks is refused."""

import pytest
import torch

from inference.compiled.weight_products import BFloat16Parts, Float32Parts, Int4Parts
from inference.engine.compiled_forward import CompiledForwardPass
from inference.engine.forward_choice import bytes_of_copies, cache_bits, forward_for
from inference.engine.forward_pass import PlainForwardPass
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig


def made(**changes: object) -> TransformerLM:
    shape = {"d_model": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "d_ff": 32}
    return TransformerLM(ModelConfig(vocab_size=9, context_length=8, **{**shape, **changes}))


@pytest.mark.parametrize(
    ("dtype", "weights", "form"),
    [
        (torch.float32, "auto", Float32Parts),
        (torch.bfloat16, "auto", BFloat16Parts),
        (torch.float32, "int4", Int4Parts),
    ],
)
def test_the_form_of_the_weights(dtype, weights, form) -> None:
    forward = forward_for(made().to(dtype), 2, 4, weights)
    assert isinstance(forward, CompiledForwardPass)
    assert isinstance(forward.matrices["down"].parts, form)


@pytest.mark.parametrize("model", [made(mlp="gelu"), made().double()], ids=["gelu", "float64"])
def test_other_models_take_the_plain_pass(model) -> None:
    assert isinstance(forward_for(model, 2, 4), PlainForwardPass)


@pytest.mark.parametrize("weights", ["auto", "bfloat16", "int8", "int4"])
def test_the_memory_of_the_copies(weights) -> None:
    model = made(d_model=64, d_ff=64)
    forward = forward_for(model, 2, 4, weights)
    # The estimate has the embedding for an output head, in the form of the rest, and no padding.
    matrices = sum(each.num_bytes for each in forward.matrices.values())
    assert bytes_of_copies(model, weights) == pytest.approx(matrices, rel=0.12)
    assert bytes_of_copies(made().double()) == 0


def test_a_form_that_the_model_cannot_have() -> None:
    with pytest.raises(UserError, match="weights in int8: not for a model with mlp = gelu;"):
        forward_for(made(mlp="gelu"), 2, 4, "int8")
    with pytest.raises(UserError, match="in int8: not for a model with weights = float64;"):
        forward_for(made().double(), 2, 4, cache="int8")


@pytest.mark.parametrize(
    ("model", "weights", "cache"),
    [
        (made(), "auto", "auto"),
        (made(), "int4", "auto"),
        (made(), "bfloat16", "float32"),
        (made(), "int8", "int8"),
        (made().double(), "auto", "auto"),
        (made(mlp="gelu").bfloat16(), "auto", "auto"),
    ],
)
def test_the_memory_of_the_cache(model, weights, cache) -> None:
    """The estimate before the cache is made is the memory that it then takes."""
    allocated = forward_for(model, 2, 4, weights, cache).cache.num_bytes
    numbers = 2 * 2 * 4 * 16  # keys and values, blocks, places, numbers of a head
    assert allocated == numbers * cache_bits(model, weights, cache) / 8
