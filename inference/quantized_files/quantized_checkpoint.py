"""A checkpoint folder of a quantized model: codes and scales in model.safetensors.

The folder has the same files as any checkpoint (lm_core/formats/checkpoint_files.py), with our own
names for the tensors. config.json contains the shape of the model and how it was quantized. What
this leaves out: training state, and other programs, which read GGUF (gguf_export.py).
"""

from pathlib import Path
from typing import Any

import torch

from inference.weight_quantization import Kind, QuantizedLinear, quantize_model
from lm_core.formats.checkpoint_files import read_checkpoint, write_checkpoint
from lm_core.settings import Settings
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.layers import Linear
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.config_values import made_from
from transformer_lm.weights.empty_model import empty_model
from transformer_lm.weights.pretrained import with_weights
from transformer_lm.weights.weight_layout import is_finite, refuse_all, shape_problems

MODEL_TYPE = "lm_course_quantized"


class QuantizationSettings(Settings):
    """Settings for the quantization of a model's linear layers.

    Attributes:
        kind: "int8", with a scale per row, or "int4".
        group_size, symmetric: for int4, as in `quantize_int4`.
    """

    kind: Kind
    group_size: int = 32
    symmetric: bool = True


def save_quantized(
    model: TransformerLM,
    settings: QuantizationSettings,
    folder: Path,
    companion_files: dict[str, bytes],
) -> TransformerLM:
    """Quantize a model, and write the folder atomically.

    Args:
        model: in floats; it is not changed.
        settings: how to quantize it.
        folder: the folder to create.
        companion_files: further files by name, such as tokenizer.json.

    Returns:
        The quantized model.

    Raises:
        ValueError: as in `quantize_model`.
    """
    quantized = quantize_model(model, settings.kind, settings.group_size, settings.symmetric)
    tensors = {name: x.detach().cpu().contiguous() for name, x in quantized.state_dict().items()}
    config = {"model_type": MODEL_TYPE, "decoder": model.config.model_dump()}
    config |= {"quantization": settings.model_dump()}
    write_checkpoint(folder, tensors, config, companion_files, None)
    return quantized


def load_quantized(folder: Path) -> TransformerLM:
    """Read a folder that `save_quantized` wrote; the weights are never in floats.

    Raises:
        ValueError: the folder is not such a checkpoint, or its tensors do not fit its config.json.
    """
    tensors, config = read_checkpoint(folder)
    try:
        model = _without_weights(config)
        expected = model.state_dict()
        shapes = {name: tuple(x.shape) for name, x in tensors.items()}
        problems = shape_problems(shapes, {n: tuple(x.shape) for n, x in expected.items()})
        for name in expected.keys() & tensors.keys():
            found, wanted = tensors[name].dtype, expected[name].dtype
            if found.is_floating_point != wanted.is_floating_point:
                problems.append(f"{name} holds {found}, expected {wanted}")
            elif found.is_floating_point and not is_finite(tensors[name]):
                problems.append(f"{name} holds NaN or infinity")
        refuse_all(sorted(problems), "the checkpoint does not fit its config.json")
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return with_weights(model, tensors).eval()


def _without_weights(config: dict[str, Any]) -> TransformerLM:
    """Return a model whose linear layers are quantized zeros, the rest without memory."""
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != MODEL_TYPE:
        raise UserError(f"config.json: model_type is {found!r}, expected {MODEL_TYPE!r}")
    for key in ("decoder", "quantization"):
        if not isinstance(config.get(key), dict):
            raise UserError(f"config.json: {key} must be an object, found {config.get(key)!r}")
    settings = made_from(QuantizationSettings, **config["quantization"])
    model = empty_model(made_from(ModelConfig, **config["decoder"]))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                child.to_empty(device="cpu")
                with torch.no_grad():
                    for parameter in child.parameters():
                        parameter.zero_()
                layer = QuantizedLinear(
                    child, settings.kind, settings.group_size, settings.symmetric
                )
                setattr(parent, name, layer)
    return model
