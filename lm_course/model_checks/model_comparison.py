"""The comparison of two models in every number type and with every attention backend.

What this leaves out: the table that a person reads (compare_command.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lm_core.user_error import UserError
from lm_course.model_checks.compared_models import ComparedModels
from lm_course.model_checks.gradient_errors import gradient_errors, loss_error
from lm_course.model_checks.layer_errors import (
    LayerError,
    Reference,
    layer_errors,
    with_weights_in,
)
from lm_course.model_checks.paired_modules import check_names, paired_modules
from transformer_lm.kernels.attention_backend import why_triton_is_unusable
from transformer_lm.kernels.fast_attention import KERNELS
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BACKENDS = ("eager", *KERNELS)
OWN = "own"  # the attention of a learner's module without a choice of backends
TOKENS = 37  # no model has so many heads or so wide ones, so no axis is mistaken for another
LONGEST_WINDOW = 512  # tokens that are enough to see a sliding window, unless more are asked for
GRADIENT_TYPES = ("float32",)


@dataclass(frozen=True)
class Comparison:
    """The result for one number type and one attention backend.

    Attributes:
        dtype, backend: their names.
        layers: errors of the layers, in order, and of the loss.
        parts: of the first layer that is wrong: the errors of its parts.
        gradients: in the order of the backward pass; empty if they were not compared.
    """

    dtype: str
    backend: str
    layers: list[LayerError]
    parts: list[LayerError] = field(default_factory=list)
    gradients: list[LayerError] = field(default_factory=list)

    @property
    def first(self) -> LayerError | None:
        """The first layer that is wrong, or else the first in which only the sum of rounding errors
        is too large, or else the first wrong gradient; None if the models are equal.
        """
        for rows, verdict in (
            (self.layers, "wrong"),
            (self.layers, "inherited"),
            (self.gradients, "wrong"),
        ):
            found = next((row for row in rows if row.verdict == verdict), None)
            if found is not None:
                return found
        return None

    @property
    def in_gradients(self) -> bool:
        """Return whether only the gradients differ."""
        return self.first is not None and self.first in self.gradients

    @property
    def overflow(self) -> str | None:
        """The first layer of `transformers` whose values the type cannot hold."""
        return next((row.name for row in self.layers if row.verdict == "overflow"), None)

    def as_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "dtype": self.dtype,
            "backend": self.backend,
            "first": None if self.first is None else self.first.name,
            **{
                name: [row.as_json() for row in getattr(self, name)]
                for name in ("layers", "parts", "gradients")
            },
        }


def default_tokens(config: ModelConfig) -> int:
    """Return how many tokens to compare: enough to see a sliding window, if it is short."""
    window = config.sliding_window or 0
    wanted = window + TOKENS if window <= LONGEST_WINDOW else TOKENS
    return min(wanted, config.context_length)


def random_tokens(config: ModelConfig, length: int) -> Tensor:
    """Return two sequences of fixed random tokens, [2, length]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (2, length), generator=generator)


def backends_here(ours: TransformerLM, device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the attention backends that this model has and that run on this device."""
    if not _has_backends(ours):
        return (OWN,)
    triton = why_triton_is_unusable(str(device), dtype) is None
    return tuple(name for name in BACKENDS if name != "triton" or triton)


def _has_backends(ours: TransformerLM) -> bool:
    return all(hasattr(block.attention, "attention_backend") for block in ours.blocks)


def _check_backends(
    ours: TransformerLM, device: torch.device, dtypes: Sequence[str], named: Sequence[str]
) -> None:
    """Raise UserError if another code than that of a named backend would compute attention."""
    if named and not _has_backends(ours):
        raise UserError(
            f"--backend {named[0]}: the model's attention has no backends (no attribute "
            "attention_backend), so it computes in one way; remove the option"
        )
    for name in dtypes if "triton" in named else ():
        why = why_triton_is_unusable(str(device), DTYPES[name])
        if why is not None:
            raise UserError(
                f"--backend triton: not usable on {device} in {name} ({why}); name another"
            )


def comparisons(
    models: ComparedModels,
    token_ids: Tensor,
    device: torch.device,
    dtypes: Sequence[str],
    backends: Sequence[str] | None = None,
    with_gradients: bool = False,
) -> Iterator[Comparison]:
    """Compare in each type and with each backend, one after another.

    Args:
        models: from `load_both`.
        token_ids: [batch, seq].
        device: where ours runs; `transformers` runs on the CPU.
        dtypes: names in DTYPES.
        backends: names in BACKENDS; None for all that run here.
        with_gradients: whether to compare gradients too, in float32 and if the layers are equal.

    Raises:
        UserError: a named backend does not run here, or the model's attention has none.
    """
    config, sources = models.ours.config, models.family.sources(models.ours.config)
    pairs = paired_modules(sources)
    check_names(pairs, models.ours, models.theirs)
    _check_backends(models.ours, device, dtypes, backends or ())
    for dtype_name in dtypes:
        dtype = DTYPES[dtype_name]
        reference = Reference(models.theirs, pairs, config, dtype, token_ids)
        ours = with_weights_in(models.ours, dtype, dtype).to(device)
        for backend in backends or backends_here(ours, device, dtype):
            if backend != OWN:
                for block in ours.blocks:
                    block.attention.attention_backend = backend
            found = Comparison(dtype_name, backend, _layers(ours, reference))
            if found.first is not None:
                parts = layer_errors(ours, reference, parts=True)
                inside = [row for row in parts if row.name.startswith(f"{found.first.name}.")]
                found.parts.extend(inside)
            elif with_gradients and dtype_name in GRADIENT_TYPES:
                found.gradients.extend(gradient_errors(ours, reference, sources))
            yield found


def _layers(ours: TransformerLM, reference: Reference) -> list[LayerError]:
    loss = loss_error(ours, reference)
    return layer_errors(ours, reference, parts=False) + ([] if loss is None else [loss])
