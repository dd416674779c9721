"""Our own layout, for shapes that no Hugging Face family supports: post-norm, no positions, and
other shapes for ablations.

The tensors have our names, and config.json contains our `ModelConfig` unchanged, so that every
variant can be trained, saved, resumed and loaded. `transformers` cannot load it, and `lm export`
rejects it.
"""

from typing import Any

from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.config_values import made_from
from transformer_lm.weights.empty_model import empty_model
from transformer_lm.weights.weight_layout import Family, Source


def _sources(config: ModelConfig) -> dict[str, Source]:
    return {name: Source(name) for name, _ in empty_model(config).named_parameters()}


def _to_config(config: ModelConfig) -> dict[str, Any]:
    return {"model_type": OWN.name, "decoder": config.model_dump()}


def _from_config(config: dict[str, Any]) -> ModelConfig:
    values = config.get("decoder")
    if not isinstance(values, dict):
        raise UserError(f"config.json: decoder must be an object, found {values!r}")
    return made_from(ModelConfig, **values)


OWN = Family(
    "lm_course_decoder",
    needs=lambda _: {},
    sources=_sources,
    to_config=_to_config,
    from_config=_from_config,
    embedding="token_embedding.weight",
    head="output_head.weight",
)
