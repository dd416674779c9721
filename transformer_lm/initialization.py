"""Initialization of a new model's weights, in one table by the role of a parameter in the model.

It follows from three requirements. The initial loss must be ln(vocab_size) for every width and
depth, because a new model knows nothing. The residual stream must carry its own token, so the
initial output of a branch is small in comparison. And a tied head must not predict the token that
was just read as the next one. Small embeddings hide that fault but let the branches drown the
token; a small gain in the last norm hides it too, but is learned slowly. Signs in that norm remove
it, in weights that every program can read: `transformers` computes the same logits.

What this leaves out: learning rates that depend on the width (Yang et al., 2022), and
data-dependent initialization.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transformer_lm.model_config import ModelConfig

LOGIT_STD = 0.5  # of a new model's logits: the initial loss is ln(vocab_size) + LOGIT_STD^2 / 2


@dataclass(frozen=True)
class Start:
    """A row of the table: the initialization of a parameter.

    Attributes:
        std: standard deviation of a normal distribution with mean 0, truncated at three standard
            deviations, computed from the config and the matrix's shape (d_out, d_in); None for
            `value`.
        value: the constant for every entry, if nothing is drawn.
        every_second_negative: entries 1, 3, 5, ... have the other sign.
    """

    std: Callable[[ModelConfig, int, int], float] | None = None
    value: float = 0.0
    every_second_negative: bool = False


def tied_embedding_std(d_model: int) -> float:
    """Return the standard deviation of a tied embedding: 0.018 for GPT-2's 768, where GPT-2 has
    0.02.

    A logit is a sum of d_model products of a row and a normalized stream, so its standard deviation
    is the row's times sqrt(d_model).
    """
    return LOGIT_STD / math.sqrt(d_model)


def linear_std(d_in: int, d_out: int) -> float:
    """Return the standard deviation of a linear layer's weights.

    The variance is between 1 / d_in, which preserves the variance of the values in the forward
    pass, and 1 / d_out, which preserves that of the gradients in the backward pass (Glorot and
    Bengio, 2010, equation 12).
    """
    return math.sqrt(2 / (d_in + d_out))


def embedding_std(config: ModelConfig) -> float:
    """Return the standard deviation of an embedding.

    Untied, the embedding is only the stream, which a norm would scale to 1.
    """
    return tied_embedding_std(config.d_model) if config.tie_embeddings else 1.0


def branch_end_std(config: ModelConfig, d_out: int, d_in: int) -> float:
    """Return the standard deviation of a branch's last matrix.

    2 num_layers branches are added to one stream. Divided by their number, their sum is no larger
    than the stream for any depth, even if they agree: the embedding's size, or 1 after a norm
    (post-norm). It is above 0, so that a new model reads its context.
    """
    behind_a_norm = config.norm_position == "post" and config.norm != "none"
    stream = 1.0 if behind_a_norm else embedding_std(config)
    return stream * linear_std(d_in, d_out) / (2 * config.num_layers)


# role: initialization
STARTS = {
    # Tied, the same table is the output head, whose logits decide its size.
    "embedding": Start(std=lambda config, rows, width: embedding_std(config)),
    # The output head of an untied model.
    "head": Start(std=lambda config, rows, width: tied_embedding_std(width)),
    # attention.output and feed_forward.down, whose results are added to the stream.
    "branch end": Start(std=branch_end_std),
    # All other matrices: queries, keys, values, gate, up.
    "linear": Start(std=lambda config, d_out, d_in: linear_std(d_in, d_out)),
    "bias": Start(value=0.0),
    "norm": Start(value=1.0),
    # The norm before a tied head. With all ones, the logit of the token that was just read would be
    # the sum of its row's squares over their root mean square, std * d_model: 8 at width 256 and 23
    # at 2,048, where all others are about 0.5. With as many -1 as 1, it is like the others.
    "norm before a tied head": Start(value=1.0, every_second_negative=True),
}


def role_of(name: str, config: ModelConfig) -> str:
    """Return the role of a parameter, by its name in `TransformerLM`."""
    after_last_block = f"blocks.{config.num_layers - 1}.feed_forward_norm"
    last = "final_norm" if config.norm_position == "pre" else after_last_block
    if name.endswith(".bias"):
        return "bias"
    if name == f"{last}.weight" and config.tie_embeddings:
        return "norm before a tied head"
    part = name.removesuffix(".weight")
    if part.endswith("_norm"):
        return "norm"
    if part.endswith("_embedding"):
        return "embedding"
    if part == "output_head":
        return "head"
    return "branch end" if part.endswith(("attention.output", "feed_forward.down")) else "linear"


def draw_normal(weight: Tensor, std: float) -> None:
    """Draw from a normal distribution with mean 0, truncated at three standard deviations, in
    place.

    A weight without memory ("meta") is skipped, because loaded weights will replace it.
    """
    if not weight.is_meta:  # PyTorch would spend 1 s on imports to draw nothing
        nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


@torch.no_grad()
def initialize(parameters: Iterable[tuple[str, nn.Parameter]], config: ModelConfig) -> None:
    """Initialize all parameters of a model by the table, in place; they are given with their
    names.
    """
    for name, parameter in parameters:
        role = role_of(name, config)
        if role == "linear" or parameter.is_meta:
            continue  # `Linear` has drawn it by the same formula, or weights will be loaded
        start = STARTS[role]
        if start.std is not None:
            draw_normal(parameter, start.std(config, *parameter.shape))
            continue
        parameter.fill_(start.value)
        if start.every_second_negative:
            parameter[1::2].neg_()
