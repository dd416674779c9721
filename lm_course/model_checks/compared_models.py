"""The two models that `lm compare` compares: ours and that of `transformers`. Each reads a folder
by its own code; from a GGUF file, both have the weights that our code reads.

What this leaves out: files that only one of the two can read.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.weights.empty_model import empty_model
from transformer_lm.weights.gguf_file import load_gguf
from transformer_lm.weights.pretrained import (
    family_of,
    hugging_face_family,
    load_model,
    to_hugging_face,
)
from transformer_lm.weights.weight_layout import Family, to_our_layout, to_their_layout

INSTALL = "pip install 'transformers>=5.0'"
ATTENTION = "sdpa"  # in float64, the other implementation still takes softmax in float32


class ComparedModels(NamedTuple):
    """The two models in float32, on the CPU.

    Attributes:
        ours, theirs: the models.
        family: the layout that they share.
        wrong_weights: our parameters whose values differ after loading, with the largest difference
            relative to the tensor's scale. Theirs then has ours: layers are compared with equal
            weights.
    """

    ours: TransformerLM
    theirs: nn.Module
    family: Family
    wrong_weights: dict[str, float]


def load_both(source: Path) -> ComparedModels:
    """Read a checkpoint folder, a Hugging Face folder or a GGUF file twice.

    Raises:
        UserError: `transformers` is not installed or cannot read the files, has no family of this
            shape, or our model lacks one of the parameters.
    """
    transformers = _transformers()
    ours, family = _ours(source)
    _check_parameters(ours, family)
    theirs = _theirs(transformers, source, ours)
    return ComparedModels(ours, theirs, family, _give_our_weights(ours, theirs, family))


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError(
            f"lm compare needs transformers, but {error.name} is not installed: {INSTALL}"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _ours(source: Path) -> tuple[TransformerLM, Family]:
    try:
        if source.is_file():
            ours = load_gguf(source)
            return ours, hugging_face_family(ours.config)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        family = family_of(config)
        shape = family.from_config(config)
        hugging_face_family(shape)  # refuses shapes that only we can compute
        _check_parameters(empty_model(shape), family)
        return load_model(source), family
    except UserError as error:
        raise UserError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: config.json is not JSON: {error}") from None


def _check_parameters(ours: TransformerLM, family: Family) -> None:
    """Raise UserError if our model, a learner's perhaps, has other parameters than the files."""
    found = {name for name, _ in ours.named_parameters()}
    expected = set(family.sources(ours.config))
    if found != expected:
        lacking, more = sorted(expected - found), sorted(found - expected)
        what = f"lacks {', '.join(lacking[:3])}" if lacking else f"also has {', '.join(more[:3])}"
        raise UserError(
            f"TransformerLM {what}: the model needs the parameters of the handout, by their names"
        )


def _theirs(transformers: Any, source: Path, ours: TransformerLM) -> nn.Module:
    if source.is_file():
        return _from_ours(transformers, ours)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source.absolute()),
            dtype=torch.float32,
            attn_implementation=ATTENTION,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: transformers cannot read it: {first}") from None
    return model.eval()


def _from_ours(transformers: Any, ours: TransformerLM) -> nn.Module:
    """Return the model of `transformers` with our weights, in our shape.

    For GGUF files, which `transformers` reads only with one more package and slowly.
    """
    tensors, values = to_hugging_face(ours)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=ATTENTION
    )
    named = dict(model.named_parameters())
    for name, value in tensors.items():
        named[name].data = value
    return model.eval()


def _give_our_weights(ours: TransformerLM, theirs: nn.Module, family: Family) -> dict[str, float]:
    """Return which of our weights differ from theirs, and copy ours into theirs."""
    config, named = ours.config, dict(theirs.named_parameters())
    wrong, sources = {}, family.sources(config)
    unknown = sorted({source.name for source in sources.values()} - named.keys())
    if unknown:
        raise UserError(
            f"transformers' model has no parameter {', '.join(unknown[:3])}, which the tables in "
            "transformer_lm/weights name"
        )
    for name, parameter in ours.named_parameters():
        value = to_our_layout(named[sources[name].name].detach(), sources[name], config.head_dim)
        scale = value.abs().max().item() or 1.0
        difference = (parameter.detach() - value).abs().max().item() / scale
        if difference != 0:  # NaN is a difference, too
            wrong[name] = difference
    _copy(ours, named, family)
    return wrong


def _copy(ours: TransformerLM, theirs: dict[str, nn.Parameter], family: Family) -> None:
    values = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    layout = to_their_layout(values, family.sources(ours.config), ours.config.head_dim)
    for name, value in layout.items():
        theirs[name].data = value.clone()
