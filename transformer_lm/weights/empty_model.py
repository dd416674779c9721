"""A model whose parameters have shapes but no memory, for weights that are about to be loaded.

Initializing weights that are replaced at once would take 2 s and half a gigabyte for SmolLM2's 135
million.

What this leaves out: loading the weights (pretrained.py).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

LARGEST_MATRIX = 1 << 36  # numbers; torch cannot even represent a shape of 2 ** 63
MAKES_PARAMETERS = (torch.empty, torch.ones, torch.zeros)


class _WithoutMemory(TorchFunctionMode):
    """A mode in which new parameters are on the device "meta", and all else is computed.

    `torch.device("meta")` would put the positions of the rotary table there too, and torch computes
    `arange` without memory in Python, for which it imports its compiler: 2.4 s of processor time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        placed = {"device": "meta"} if func in MAKES_PARAMETERS else {}
        return func(*args, **placed | (kwargs or {}))


def empty_model(shape: ModelConfig) -> TransformerLM:
    """Return a model of this shape, in which only the table of rotary angles may have memory.

    Raises:
        UserError: a matrix would be larger than in any existing model.
    """
    inner = max(shape.d_ff, shape.num_heads * shape.head_dim, shape.vocab_size)
    if shape.d_model * max(inner, shape.context_length) > LARGEST_MATRIX:
        raise UserError(
            f"a width of {shape.d_model:,} with {shape.num_heads:,} heads of {shape.head_dim:,}, "
            f"{shape.d_ff:,} inner values, {shape.vocab_size:,} tokens and a context of "
            f"{shape.context_length:,} is larger than any existing model; check these numbers"
        )
    try:
        with _WithoutMemory():
            return TransformerLM(shape)
    except RuntimeError:  # a learner's rotary table, filled from computed values
        with torch.device("meta"):
            return TransformerLM(shape)


def has_no_memory(module: nn.Module) -> bool:
    """Return whether any tensor of the module, a parameter, a buffer or another, is without
    memory.
    """
    tensors = [*vars(module).values(), *module.parameters(), *module.buffers()]
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors)
