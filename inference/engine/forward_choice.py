"""Which forward pass computes a model on this machine.

What this leaves out: the passes themselves (forward_pass.py, compiled_forward.py).
"""

from typing import Literal

import torch

from inference.engine.compiled_forward import (
    CompiledForwardPass,
    WeightKind,
    default_cache,
    unsupported_variant,
)
from inference.engine.forward_pass import ForwardPass, PlainForwardPass
from inference.quantized_cache import SCALE_BYTES
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM

AnyWeightKind = Literal["auto", "float32", "bfloat16", "int8", "int4"]
AnyCacheKind = Literal["auto", "float32", "bfloat16", "int8"]
WEIGHT_BITS = {"float32": 32, "bfloat16": 16, "int8": 8.5, "int4": 5}  # scales included
KINDS_OF_TYPES: dict[torch.dtype, WeightKind] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float32",
}


def forward_for(
    model: TransformerLM,
    num_blocks: int,
    block_size: int,
    weights: AnyWeightKind = "auto",
    cache: AnyCacheKind = "auto",
) -> ForwardPass:
    """Return the fastest forward pass for a model.

    On a CPU that is the compiled one, if it knows the model's variants. "auto" keeps the type of
    the model's weights, and chooses the type of the keys and values by it. Raises ValueError if
    another form was asked for and only the plain pass knows the model.
    """
    kind = _compiled_weights(model, weights)
    if kind is not None:
        chosen = None if cache == "auto" else cache
        return CompiledForwardPass(model, num_blocks, block_size, kind, chosen)
    for what, asked in (("weights", weights), ("keys and values", cache)):
        if asked != "auto":
            reason = _why_plain(model, weights)
            raise UserError(f"{what} in {asked}: not for a model with {reason}; leave it at auto")
    return PlainForwardPass(model, num_blocks, block_size)


def cache_bits(
    model: TransformerLM, weights: AnyWeightKind = "auto", cache: AnyCacheKind = "auto"
) -> float:
    """Return the bits of a key's or value's number in the cache of `forward_for`, the scales of
    int8 included.
    """
    kind = _compiled_weights(model, weights)
    if kind is None:
        return 8.0 * next(model.parameters()).element_size()
    chosen = default_cache(kind) if cache == "auto" else cache
    if chosen == "int8":
        return 8.0 * (1 + SCALE_BYTES / model.config.head_dim)
    return {"float32": 32.0, "bfloat16": 16.0}[chosen]


def is_compiled(model: TransformerLM, weights: AnyWeightKind = "auto") -> bool:
    """Return whether `forward_for` takes the compiled pass."""
    return _compiled_weights(model, weights) is not None


def bytes_of_copies(model: TransformerLM, weights: AnyWeightKind = "auto") -> int:
    """Return the memory of the weights that `forward_for` copies, beside those of the model."""
    kind = _compiled_weights(model, weights)
    if kind is None:
        return 0
    numbers = sum(each.numel() for each in model.parameters() if each.ndim == 2)
    return int(numbers * WEIGHT_BITS[kind] / 8)


def _compiled_weights(model: TransformerLM, weights: AnyWeightKind) -> WeightKind | None:
    """Return the form of the weights in the compiled pass; None if it cannot compute the model."""
    if _why_plain(model, weights):
        return None
    return KINDS_OF_TYPES[next(model.parameters()).dtype] if weights == "auto" else weights


def _why_plain(model: TransformerLM, weights: AnyWeightKind) -> str:
    """Return what the compiled pass does not know of a model; "" if it computes the model."""
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return f"device = {weight.device.type}"
    if weights == "auto" and weight.dtype not in KINDS_OF_TYPES:
        return f"weights = {str(weight.dtype).removeprefix('torch.')}"
    return unsupported_variant(model.config)
