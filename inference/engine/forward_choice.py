"""Which forward pass computes a model on this machine.

What this leaves out: the passes themselves (forward_pass.py, compiled_forward.py).
"""

from typing import Literal

import torch

from inference.engine.compiled_forward import CompiledForwardPass, WeightKind, is_supported
from inference.engine.forward_pass import ForwardPass, PlainForwardPass
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM

AnyWeightKind = Literal["auto", "float32", "bfloat16", "int8", "int4"]
KINDS_OF_TYPES: dict[torch.dtype, WeightKind] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float32",
}


def forward_for(
    model: TransformerLM, num_blocks: int, block_size: int, weights: AnyWeightKind = "auto"
) -> ForwardPass:
    """Return the fastest forward pass for a model.

    On a CPU that is the compiled one, if it knows the model's variants. "auto" keeps the type of
    the model's weights. Raises ValueError if another form was asked for and only the plain pass
    knows the model.
    """
    weight = next(model.parameters())
    kind = KINDS_OF_TYPES.get(weight.dtype) if weights == "auto" else weights
    if kind is not None and weight.device.type == "cpu" and is_supported(model.config):
        return CompiledForwardPass(model, num_blocks, block_size, kind)
    if weights != "auto":
        raise UserError(
            f"weights in {weights}: not for this model on this device "
            f"({weight.device.type}, {model.config.norm}, {model.config.mlp}); leave it at auto"
        )
    return PlainForwardPass(model, num_blocks, block_size)
