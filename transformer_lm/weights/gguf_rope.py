"""How a GGUF file says that its rotary frequencies are rescaled for longer contexts.

There are three ways. The keys `rope.scaling.*`; the older `rope.scale_linear`, which the
specification asks every reader to support; and, for Llama 3, a tensor with what each frequency is
divided by. Where a key is missing, llama.cpp's own default is taken: the type is "linear", the
factor 1, the original length the context's. What this leaves out, refused by name: "longrope", and
combinations of these.

Source: llama.cpp, `load_hparams` in llama-model.cpp and the constructor in llama-context.cpp.
"""

import math
from typing import Any

import numpy as np

from lm_core.formats.gguf_container import GGUFFile
from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.rotary_embedding import attention_factor, rotary_frequencies
from transformer_lm.weights.config_values import SettingsType, made_from
from transformer_lm.weights.gguf_blocks import PACKINGS, dequantized

ROPE_FACTORS = "rope_freqs.weight"
# Of Llama 3.1 to 3.3, whose files have the finished divisors and not these numbers.
LLAMA3_LENGTH = 8192


def made(kind: type[SettingsType], /, **values: Any) -> SettingsType:
    """A settings object of these values; ValueError where the metadata is not one."""
    try:
        return made_from(kind, **values)
    except UserError as error:
        raise UserError(str(error).replace("config.json", "the metadata")) from None


def decimal(file: GGUFFile, key: str, default: float | None = None) -> float:
    """1e-05 for 9.999999747378752e-06: the file has float32, of which this is the short form."""
    value = file.named(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{key} is {value!r}, expected a number")
    return float(str(np.float32(value)))


def rope_scaling(file: GGUFFile, architecture: str, shape: ModelConfig) -> RopeScaling | None:
    """The rescaling, None where there is none.

    Raises:
        ValueError: it is one that this code does not compute, or the file says two things at once.
    """
    prefix = f"{architecture}.rope"
    kind = file.metadata.get(f"{prefix}.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise UserError(f"{prefix}.scaling.type is {kind!r}, this code computes none, linear, yarn")
    factor = 1.0 if kind == "none" else _factor(file, prefix)
    if kind != "yarn":
        _check_no_yarn(file, prefix, kind)
    if ROPE_FACTORS in file.tensors:
        if kind == "yarn" or factor != 1:
            raise UserError(
                f"{ROPE_FACTORS} is there, and {prefix}.scaling says {kind} by {factor:g}: this "
                "code computes one rescaling"
            )
        return _from_divisors(file, shape.head_dim, shape.rope_theta)
    if kind == "yarn":
        return _yarn(file, prefix, shape, factor)
    if factor == 1:
        return None
    original = _original_length(file, prefix, shape)
    return made(RopeScaling, kind=kind, factor=factor, original_context_length=original)


def _factor(file: GGUFFile, prefix: str) -> float:
    """By either key; where both stand, they must agree."""
    keys = (f"{prefix}.scaling.factor", f"{prefix}.scale_linear")
    given = {key: decimal(file, key) for key in keys if key in file.metadata}
    for key, factor in given.items():
        if factor < 1:
            raise UserError(f"{key} is {factor:g}, expected a number from 1")
    factors = {factor for factor in given.values() if factor != 1}
    if len(factors) > 1:
        said = " and ".join(f"{key} is {factor:g}" for key, factor in given.items())
        raise UserError(f"{said}: this code computes one rescaling")
    return factors.pop() if factors else 1.0


def _original_length(file: GGUFFile, prefix: str, shape: ModelConfig) -> Any:
    return file.metadata.get(f"{prefix}.scaling.original_context_length") or shape.context_length


def _check_no_yarn(file: GGUFFile, prefix: str, kind: str) -> None:
    """What would make a linear rescaling, or none, into something else."""
    neutral = {"attn_factor": (1,), "yarn_attn_factor": (1,), "yarn_ext_factor": (0, -1)}
    for name, values in neutral.items():
        _refuse_other(file, f"{prefix}.scaling.{name}", values, kind)


def _refuse_other(file: GGUFFile, key: str, neutral: tuple[float, ...], kind: str) -> None:
    """Raise ValueError where a key is there with another value than one of these."""
    if key in file.metadata:
        value = decimal(file, key)
        if not any(math.isclose(value, each, rel_tol=1e-6) for each in neutral):
            raise UserError(
                f"{key} is {value:g}, with {kind} this code computes {neutral[0]:g} only: it would "
                "give other logits"
            )


def _yarn(file: GGUFFile, prefix: str, shape: ModelConfig, factor: float) -> RopeScaling:
    """llama.cpp multiplies the usual attention factor by its own key. `yarn_attn_factor` is the
    whole factor to the converter and is overlooked by llama.cpp, so only the usual one is read.
    """
    scaling = made(
        RopeScaling,
        kind="yarn",
        factor=factor,
        original_context_length=_original_length(file, prefix, shape),
        beta_fast=decimal(file, f"{prefix}.scaling.yarn_beta_fast", 32.0),
        beta_slow=decimal(file, f"{prefix}.scaling.yarn_beta_slow", 1.0),
    )
    usual = attention_factor(scaling)
    _refuse_other(file, f"{prefix}.scaling.yarn_ext_factor", (1, -1), "yarn")
    _refuse_other(file, f"{prefix}.scaling.yarn_attn_factor", (usual,), "yarn")
    own = decimal(file, f"{prefix}.scaling.attn_factor", 1.0)
    if own == 1:
        return scaling
    return made(RopeScaling, **scaling.model_dump() | {"attention_factor": usual * own})


def _from_divisors(file: GGUFFile, head_dim: int, theta: float) -> RopeScaling:
    """llama3's rescaling, of which the file has only what every frequency is divided by: the
    largest is the factor; that the others follow is checked.
    """
    packed = file.tensors[ROPE_FACTORS]
    if packed.type not in PACKINGS:
        raise UserError(f"{ROPE_FACTORS} is of type {packed.type}, expected F32")
    divisors = dequantized(packed.data, packed.type, packed.shape)
    if not divisors.size or not np.isfinite(divisors).all():
        raise UserError(f"{ROPE_FACTORS} is empty, or holds NaN or infinity")
    factor = float(str(divisors.max()))
    scaling = made(
        RopeScaling,
        kind="llama3",
        factor=max(factor, 1.0),
        original_context_length=LLAMA3_LENGTH,
    )
    before, after = (rotary_frequencies(head_dim, theta, each).numpy() for each in (None, scaling))
    if divisors.shape != before.shape or not np.allclose(before / after, divisors, rtol=1e-4):
        raise UserError(
            f"{ROPE_FACTORS} is not what Llama 3's rescaling by {factor} gives; this code computes "
            "no other that comes as finished divisors"
        )
    return scaling
