"""Pretrained weights: conversion of our models to Hugging Face's layouts, and back.

A checkpoint folder of a shape that `transformers` supports loads there unchanged, and a Hugging
Face folder loads here: Llama (including SmolLM2), Mistral, Qwen3, GPT-2. The tables are in
llama_layout.py and gpt2_layout.py; weight_layout.py applies them.

What this leaves out: other families, quantized weights (gguf_file.py reads some), pickled weights.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm_core.formats.checkpoint_files import read_checkpoint
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding
from transformer_lm.weights.empty_model import empty_model, has_no_memory
from transformer_lm.weights.gpt2_layout import GPT2
from transformer_lm.weights.llama_layout import LLAMA, MISTRAL, QWEN3
from transformer_lm.weights.own_layout import OWN
from transformer_lm.weights.weight_layout import (
    Family,
    check_tensors,
    refuse_all,
    refuse_overflow,
    their_shapes,
    to_our_layout,
    to_their_layout,
)

HUGGING_FACE = (LLAMA, MISTRAL, QWEN3, GPT2)  # the first that supports a shape is used
KNOWN = {family.name: family for family in (*HUGGING_FACE, OWN)}


def hugging_face_family(config: ModelConfig) -> Family:
    """Return the family of `transformers` that supports this shape.

    Raises:
        ValueError: there is none; the message says what the nearest would need.
    """
    misfits = {family.name: family.misfits(config) for family in HUGGING_FACE}
    name = min(misfits, key=lambda name: len(misfits[name]))
    if misfits[name]:
        ours = ", ".join(f"{field} = {getattr(config, field)!r}" for field in misfits[name])
        theirs = ", ".join(f"{field} = {value!r}" for field, value in misfits[name].items())
        raise UserError(
            f"transformers has no family for a decoder with {ours}; the nearest, {name}, needs "
            f"{theirs}"
        )
    return KNOWN[name]


def to_hugging_face(
    model: TransformerLM, special_token_ids: dict[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and config.json of a Hugging Face family, or of our own layout if no
    family supports the shape.

    Args:
        model: on any device; the returned tensors are on the CPU.
        special_token_ids: entries of config.json such as {"eos_token_id": 2}.
    """
    config = model.config
    try:
        family = hugging_face_family(config)
    except ValueError:
        family = OWN
    ours = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    tensors = to_their_layout(ours, family.sources(config), config.head_dim)
    dtype = str(model.token_embedding.weight.dtype).removeprefix("torch.")
    # transformers 4 reads torch_dtype, 5 dtype; without the ids, it would use those of its own
    # models.
    no_ids = {"bos_token_id": None, "eos_token_id": None}
    described = family.to_config(config) | no_ids | {"dtype": dtype, "torch_dtype": dtype}
    return tensors, described | (special_token_ids or {})


def family_of(config: dict[str, Any]) -> Family:
    """Return the family that a config.json names; raise ValueError if it is not supported."""
    if not isinstance(config, dict):
        raise UserError(f"config.json: expected an object, found a {type(config).__name__}")
    name = config.get("model_type")
    if not isinstance(name, str) or name not in KNOWN:
        raise UserError(
            f"config.json: model_type is {name!r}; this code reads {', '.join(sorted(KNOWN))}"
        )
    return KNOWN[name]


def model_config_from_hugging_face(config: dict[str, Any]) -> ModelConfig:
    """Return the shape that a config.json describes.

    Raises:
        ValueError: the family or a feature is not supported.
    """
    return family_of(config).from_config(config)


def from_hugging_face(
    tensors: dict[str, Tensor], config: dict[str, Any], dtype: torch.dtype | None = torch.float32
) -> TransformerLM:
    """Build the model with a copy of the weights.

    Args:
        tensors: the tensors by name.
        config: the contents of config.json.
        dtype: dtype of the parameters; None for that of the tensors (the widest, if they differ).

    Raises:
        ValueError: tensors are missing, unknown, of another shape, contain NaN, or are too large
            for `dtype`; the first few are listed, and the others counted.
    """
    family, shape = family_of(config), model_config_from_hugging_face(config)
    if shape.num_layers > len(tensors):
        refuse_all(
            [f"{shape.num_layers:,} layers, but {len(tensors)} tensors"],
            "the checkpoint does not fit its config.json",
        )
    tensors = _with_full_names(tensors, family, shape)
    model = empty_model(shape)
    sources = family.sources(shape)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    check_tensors(tensors, their_shapes(shapes, sources), "config.json")
    if dtype is None:
        dtype = functools.reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()})
    weights = {
        ours: to_our_layout(tensors[source.name], source, shape.head_dim).to(dtype, copy=True)
        for ours, source in sources.items()
    }
    refuse_overflow(weights, sources)
    return with_weights(model, weights)


def _with_full_names(
    tensors: dict[str, Tensor], family: Family, shape: ModelConfig
) -> dict[str, Tensor]:
    """Return the weights by the names in the family's table; raise ValueError if a tied output head
    differs from the embedding.
    """
    found = {name: t for name, t in tensors.items() if not name.endswith(family.ignored)}
    if not any(name.startswith(family.prefix) for name in found):  # a model without its head
        found = {n if n == family.head else family.prefix + n: t for n, t in found.items()}
    if shape.tie_embeddings and family.head in found:
        head, embedding = found.pop(family.head), found.get(family.embedding)
        if embedding is not None and not torch.equal(head, embedding):
            differs = f"{family.head} differs from {family.embedding}, but the two are tied"
            refuse_all([differs], "the checkpoint does not fit its config.json")
    return found


def with_weights(model: TransformerLM, weights: dict[str, Tensor]) -> TransformerLM:
    """Give an `empty_model` its weights, by our names; they become its parameters without a
    copy.
    """
    model.load_state_dict(weights, assign=True)
    if model.rotary is not None and has_no_memory(model.rotary):  # its table is not a weight
        shape = model.config
        model.rotary = RotaryEmbedding(
            shape.head_dim, shape.context_length, shape.rope_theta, shape.rope_scaling
        )
    return model


def load_model(
    folder: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> TransformerLM:
    """Read a checkpoint folder, ours or one from Hugging Face.

    Args:
        folder: contains config.json and model.safetensors (or model.safetensors.index.json and its
            parts).
        device: where the model goes.
        dtype: dtype of the parameters; None for that of the file.

    Raises:
        ValueError: the folder is not a checkpoint, or its tensors do not fit its config.json.
    """
    tensors, config = read_checkpoint(folder)
    try:
        return from_hugging_face(tensors, config, dtype).to(device)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
