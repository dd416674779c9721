"""The cost of quantization: the error of each layer, the bits per weight, and the bits per byte of
a text before and after.

What this leaves out: which layer's error matters most for the text, for which each would have to be
quantized alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from inference.weight_quantization import QuantizedLinear, relative_error
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM


class LayerError(NamedTuple):
    """One row of the table.

    Attributes:
        name: the layer's, such as "blocks.0.attention.query".
        shape: [d_out, d_in].
        bits_per_weight: of codes and scales, without the bias.
        error: ||weight - restored|| / ||weight||.
    """

    name: str
    shape: tuple[int, ...]
    bits_per_weight: float
    error: float


def layer_errors(model: TransformerLM, quantized: TransformerLM) -> list[LayerError]:
    """Return the error of every quantized layer, in the order of the model.

    Args:
        model: in floats.
        quantized: the result of `quantize_model` for it.
    """
    originals = dict(model.named_modules())
    return [
        LayerError(
            name,
            tuple(originals[name].weight.shape),
            8 * _weight_bytes(layer) / originals[name].weight.numel(),
            relative_error(originals[name].weight.detach(), layer.dequantized()),
        )
        for name, layer in quantized.named_modules()
        if isinstance(layer, QuantizedLinear)
    ]


def num_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and of all buffers that a checkpoint contains."""
    return sum(x.numel() * x.element_size() for x in model.state_dict().values())


@torch.no_grad()
def bits_per_byte(
    model: TransformerLM, token_ids: Int[Tensor, " tokens"], text_bytes: int
) -> float:
    """Return the loss of a text in bits per byte of its text.

    The text is cut into pieces of the context length. The first token of the text is not predicted;
    the first of each later piece is, from the last token of the piece before alone.

    Args:
        model: any model, quantized or not.
        token_ids: the text; at least two tokens.
        text_bytes: its length in bytes, without the first token.

    Raises:
        ValueError: there are fewer than two tokens, or no bytes.
    """
    if len(token_ids) < 2 or text_bytes < 1:
        raise UserError(
            f"no bits per byte for {len(token_ids)} tokens and {text_bytes} bytes; give a text of "
            "at least two tokens"
        )
    nats, length = 0.0, model.config.context_length
    for start in range(0, len(token_ids) - 1, length):
        inputs, targets = token_ids[start : start + length], token_ids[start + 1 :][:length]
        logits = model(inputs[None, : len(targets)])[0].float()
        nats += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return nats / math.log(2) / text_bytes


def error_table(rows: Sequence[LayerError], before: float, after: float) -> str:
    """Return the rows as text, the largest error first, and the bits per byte before and after."""
    width = max([len(row.name) for row in rows] + [len("layer")])
    lines = [f"{'layer':<{width}}  {'shape':>13}  bits/weight    error"]
    for row in sorted(rows, key=lambda row: -row.error):
        shape = " x ".join(map(str, row.shape))
        lines.append(
            f"{row.name:<{width}}  {shape:>13}  {row.bits_per_weight:>11.2f}  {row.error:>7.2%}"
        )
    change = f"{after - before:+.4f}"
    return "\n".join([*lines, f"bits per byte: {before:.4f} before, {after:.4f} after ({change})"])


def _weight_bytes(layer: QuantizedLinear) -> int:
    bias = layer.state_dict().get("bias")
    kept = num_bytes(layer)
    return kept if bias is None else kept - bias.numel() * bias.element_size()
