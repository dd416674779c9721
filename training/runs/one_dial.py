"""One dial: a whole pretraining run derived from the number of layers, `[pretrain] depth = N`.

The idea is nanochat's (Karpathy, 2025): its `--depth` sets everything else. The rules here:

- Shape. d_model = 64 depth, as in nanochat; heads of width 64, each with its own keys; SwiGLU with
  d_ff = 8/3 d_model (Shazeer, 2020), rounded up to a multiple of 64; an untied output head.
- Learning rates. Those of embeddings and vectors are the same for every width. For the matrices of
  the blocks and the head, AdamW's is divided by d_model / 256, the width at which it was chosen
  (Yang et al., 2022, "Tensor Programs V", table 3; the initialization already has their form, since
  heads keep their width). Muon's is the same for every width: its update has the largest singular
  value 1, whatever the size of the matrix (the spectral condition of Yang et al., 2023).
- Tokens. `tokens_per_parameter` = 20 (Hoffmann et al., 2022), of the parameters in the blocks. As
  in Kaplan et al., 2020, the vocabulary does not count: the recipe is complete before the tokenizer
  exists.
- Batch. 0.292 C^0.3271 tokens, for C = 6 N D FLOPs (Bi et al., 2024, "DeepSeek LLM", equation 4),
  rounded to a power of two of sequences. The rates are not changed for it. A larger batch would
  allow higher ones and a longer run needs lower ones, and both grow with the depth: for depth 4 to
  20, the rate of the matrices is within a factor of 2 of the one that Bi et al. fitted to C.
- Weight decay. learning_rate * weight_decay * steps = 1 / tau with tau = 1.084 R^-0.527, R tokens
  per parameter (Bergsma et al., 2025, "Power Lines"): the weights are a mean over the share tau of
  the updates (Wang and Aitchison, 2024). The optimizer whose matrices it is for decides: with
  Muon, muon_learning_rate stands in this product.
- Warm-up. A tenth of the steps, at most 1,000.

A value that the recipe gives beside `depth` wins, and what is derived from it follows: with d_model
given, the heads and rates are those of that width. Only num_layers must not differ from the depth.

What this leaves out: the context length (256 unless given), the schedule, the choice of optimizer,
and a correction for the depth itself. benchmarks/learning_rate_transfer.py measures the rates.
"""

import math
from collections.abc import Mapping
from typing import Any

import pydantic

from lm_core.settings import Settings, first_problem
from lm_core.user_error import UserError
from training.runs.training_settings import TrainingSettings
from transformer_lm.model_config import ModelConfig, ModelShape
from transformer_lm.model_cost import parameters_by_part

DEEPEST = 200  # a larger depth is a mistake: width 12,800
WIDTH_PER_LAYER = 64
HEAD_DIM = 64
FEED_FORWARD_RATIO = 8 / 3
MULTIPLE = 64  # of d_ff: matrix products are slow for sides that are not
CONTEXT_LENGTH = 256
TOKENS_PER_PARAMETER = 20.0

BASE_WIDTH = 256
# optimizer: its rates at BASE_WIDTH, and the one that the weight decay is for. Chosen with runs of
# 200 steps (docs/one_dial.md), except Muon's, which is the usual one; twice as much was better.
RATES = {
    "adamw": ({"learning_rate": 0.004, "muon_learning_rate": 0.02}, "learning_rate"),
    "muon": ({"learning_rate": 0.008, "muon_learning_rate": 0.02}, "muon_learning_rate"),
}
LONGEST_WARMUP = 1000


def with_dial(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section [pretrain] with everything that its `depth` decides.

    Args:
        values: the section as it is written: `depth`, and whatever else the recipe gives, which
            wins.

    Raises:
        UserError: the depth is not a number from 1 to 200, num_layers is another, or the shape does
            not fit together.
    """
    depth = values["depth"]
    if not _is_positive(depth) or not isinstance(depth, int) or depth > DEEPEST:
        raise UserError(f"depth: expected a whole number from 1 to {DEEPEST}, found {depth!r}")
    model = shape_of(depth, _written(values.get("model", {})))
    training = _written(values.get("training", {}))
    ratio = _number(values, "tokens_per_parameter", TOKENS_PER_PARAMETER)
    return {**values, "model": model, "training": training_of(model, training, ratio)}


def shape_of(depth: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section [pretrain.model] of a depth; what is `given` wins."""
    if given.get("num_layers", depth) != depth:
        raise UserError(
            f"depth = {depth} is the number of layers, but model.num_layers = "
            f"{given['num_layers']!r} is given too; remove one of the two, and with num_layers the "
            "other values that a depth derives (training/runs/one_dial.py)"
        )
    width = _number(given, "d_model", WIDTH_PER_LAYER * depth)
    head_dim = _number(given, "head_dim", HEAD_DIM)
    if "num_heads" not in given and width % head_dim and width > head_dim:
        raise UserError(
            f"model.d_model = {width} is not a multiple of {head_dim}, the width of a head; give "
            "model.num_heads too, or another d_model"
        )
    num_heads = _number(given, "num_heads", max(1, width // head_dim))
    derived = {
        "context_length": CONTEXT_LENGTH,
        "d_model": width,
        "num_layers": depth,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "d_ff": math.ceil(FEED_FORWARD_RATIO * width / MULTIPLE) * MULTIPLE,
        "tie_embeddings": False,
    }
    return {**derived, **given}


def training_of(
    model: Mapping[str, Any], given: Mapping[str, Any], tokens_per_parameter: float
) -> dict[str, Any]:
    """Return the section [pretrain.training] for a shape; what is `given` wins.

    Raises:
        UserError: the shape does not fit together.
    """
    try:
        shape = ModelShape.model_validate(model)
    except pydantic.ValidationError as error:
        raise UserError(f"model: {first_problem(error, ModelShape)}") from None
    parameters = block_parameters(shape)
    tokens = tokens_per_parameter * parameters
    sequences = batch_tokens(parameters, tokens) / shape.context_length
    batch_size = _number(given, "batch_size", 2 ** max(0, round(math.log2(sequences))))
    step_tokens = batch_size * shape.context_length
    steps = _number(given, "steps", math.ceil(tokens / step_tokens))
    rates, name = RATES.get(str(given.get("optimizer")), RATES["adamw"])
    rate = _number(given, name, rates[name])
    derived = {
        "steps": steps,
        "batch_size": batch_size,
        **rates,
        "width_ratio": shape.d_model / BASE_WIDTH,
        "weight_decay": weight_decay(rate, steps, steps * step_tokens / parameters),
        "warmup_steps": min(steps // 10, LONGEST_WARMUP),
    }
    return {**derived, **given}


def block_parameters(shape: ModelShape) -> int:
    """Return the number of parameters in the matrices of the blocks."""
    parts = parameters_by_part(ModelConfig(vocab_size=1, **shape.model_dump()))
    return parts["attention"] + parts["feed-forward"]


def batch_tokens(parameters: float, tokens: float) -> float:
    """Return the tokens of a batch: Bi et al., 2024, equation 4."""
    return 0.2920 * (6 * parameters * tokens) ** 0.3271


def weight_decay(rate: float, steps: int, tokens_per_parameter: float) -> float:
    """Return the weight decay for a highest learning rate: Bergsma et al., 2025."""
    share = 1.084 * tokens_per_parameter**-0.527
    return 1 / (share * rate * steps)


def dial_line(model: ModelShape, training: TrainingSettings, shard_tokens: int) -> str:
    """Return one line with the values that a run with a depth is trained with.

    Args:
        model, training: the sections, complete.
        shard_tokens: number of tokens in the training split.
    """
    parameters = block_parameters(model)
    step_tokens = training.batch_size * model.context_length
    tokens = training.steps * step_tokens
    rates = {
        "adamw": f"learning rate {training.learning_rate:.3g}, of matrices "
        f"{training.learning_rate / training.width_ratio:.3g}",
        "muon": f"learning rate {training.learning_rate:.3g}, of the head "
        f"{training.learning_rate / training.width_ratio:.3g}, of Muon "
        f"{training.muon_learning_rate:.3g}",
    }
    decay = training.weight_decay
    decays = {
        "adamw": f"{decay:.3g}, of matrices {decay * training.width_ratio:.3g}",
        "muon": f"{decay:.3g}, of the head {decay * training.width_ratio:.3g}",
    }
    return (
        f"depth {model.num_layers}: width {model.d_model}, {model.num_heads} heads, d_ff "
        f"{model.d_ff}, {parameters:,} parameters in blocks; {tokens:,} tokens "
        f"({tokens / parameters:.3g} per parameter, {tokens / shard_tokens:.3g} times the training "
        f"text) in {training.steps:,} steps of {training.batch_size} x {model.context_length}; "
        f"{rates[training.optimizer]}, weight decay {decays[training.optimizer]}"
    )


def _written(section: Any) -> dict[str, Any]:
    """Return the values that a section gives, which may already be an object."""
    if isinstance(section, Settings):
        return section.model_dump(exclude_unset=True)
    if isinstance(section, dict):
        return section
    raise UserError(f"expected a section, found {section!r}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _number(given: Mapping[str, Any], name: str, derived: Any) -> Any:
    """Return the given value; the derived one if there is none, or one that its field refuses."""
    return given[name] if _is_positive(given.get(name)) else derived
