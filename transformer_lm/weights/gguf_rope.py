"""The rescaling of rotary frequencies for longer contexts in a GGUF file.

There are three forms: the keys `rope.scaling.*`; the older `rope.scale_linear`, which the
specification requires every reader to support; and, for Llama 3, a tensor with the divisor of each
frequency. If a key is missing, llama.cpp's default is used: the type "linear", the factor 1, and
the context length as the original length.

What this leaves out: "longrope", and combinations of these. Each is rejected by name.

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
# Those of Llama 3.1 to 3.3, whose files have the computed divisors and not these numbers.
LLAMA3_LENGTH = 8192


def made(kind: type[SettingsType], /, **values: Any) -> SettingsType:
    """Return a settings object of these values; raise ValueError if the metadata do not fit."""
    try:
        return made_from(kind, **values)
    except UserError as error:
        raise UserError(str(error).replace("config.json", "the metadata")) from None


def decimal(file: GGUFFile, key: str, default: float | None = None) -> float:
    """Return 1e-05 for 9.999999747378752e-06, the shortest form of the file's float32."""
    value = file.named(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{key} is {value!r}, expected a number")
    return float(str(np.float32(value)))


def rope_scaling(file: GGUFFile, architecture: str, shape: ModelConfig) -> RopeScaling | None:
    """Return the rescaling, None if there is none.

    Raises:
        ValueError: it is not supported, or the file contains two contradictory ones.
    """
    prefix = f"{architecture}.rope"
    kind = file.metadata.get(f"{prefix}.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise UserError(f"{prefix}.scaling.type is {kind!r}; supported are none, linear, yarn")
    factor = 1.0 if kind == "none" else _factor(file, prefix)
    if kind != "yarn":
        _check_no_yarn(file, prefix, kind)
    if ROPE_FACTORS in file.tensors:
        if kind == "yarn" or factor != 1:
            raise UserError(
                f"the file has {ROPE_FACTORS}, and {prefix}.scaling is {kind} by {factor:g}: only "
                "one rescaling is supported"
            )
        return _from_divisors(file, shape.head_dim, shape.rope_theta)
    if kind == "yarn":
        return _yarn(file, prefix, shape, factor)
    if factor == 1:
        return None
    original = _original_length(file, prefix, shape)
    return made(RopeScaling, kind=kind, factor=factor, original_context_length=original)


def _factor(file: GGUFFile, prefix: str) -> float:
    """Return the factor from either key; if both exist, they must agree."""
    keys = (f"{prefix}.scaling.factor", f"{prefix}.scale_linear")
    given = {key: decimal(file, key) for key in keys if key in file.metadata}
    for key, factor in given.items():
        if factor < 1:
            raise UserError(f"{key} is {factor:g}, expected a number from 1")
    factors = {factor for factor in given.values() if factor != 1}
    if len(factors) > 1:
        said = " and ".join(f"{key} is {factor:g}" for key, factor in given.items())
        raise UserError(f"{said}: only one rescaling is supported")
    return factors.pop() if factors else 1.0


def _original_length(file: GGUFFile, prefix: str, shape: ModelConfig) -> Any:
    return file.metadata.get(f"{prefix}.scaling.original_context_length") or shape.context_length


def _check_no_yarn(file: GGUFFile, prefix: str, kind: str) -> None:
    """Raise ValueError for keys that would change a linear rescaling, or none."""
    neutral = {"attn_factor": (1,), "yarn_attn_factor": (1,), "yarn_ext_factor": (0, -1)}
    for name, values in neutral.items():
        _refuse_other(file, f"{prefix}.scaling.{name}", values, kind)


def _refuse_other(file: GGUFFile, key: str, neutral: tuple[float, ...], kind: str) -> None:
    """Raise ValueError if a key exists with a value other than these."""
    if key in file.metadata:
        value = decimal(file, key)
        if not any(math.isclose(value, each, rel_tol=1e-6) for each in neutral):
            raise UserError(
                f"{key} is {value:g}, but with {kind} only {neutral[0]:g} is supported: the "
                "logits would differ"
            )


def _yarn(file: GGUFFile, prefix: str, shape: ModelConfig, factor: float) -> RopeScaling:
    """Return yarn's rescaling.

    llama.cpp multiplies the usual attention factor by its own key. `yarn_attn_factor` is the whole
    factor for the converter but is ignored by llama.cpp, so only the usual one is read.
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
    """Return llama3's rescaling from the divisors of the frequencies.

    The file has only these divisors. The largest is the factor, and the others are checked against
    it.
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
            f"{ROPE_FACTORS} differs from Llama 3's rescaling by {factor}; no other rescaling is "
            "supported as a tensor of divisors"
        )
    return scaling
