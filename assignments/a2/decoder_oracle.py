"""The decoder in float64, with one typical mistake if a check asks for it, so that the check can
name the likely cause of a wrong result.

What this leaves out: rescaled frequencies other than linear ones, and speed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attention_formulas import attend, frequencies, rms_norm, rotate, visible
from parameter_shapes import Weights
from torch import Tensor, nn

# Mistakes in the attention layer, and the likely causes that a message names.
ATTENTION_MISTAKES = {
    "no mask": "positions see later ones: the causal mask is missing",
    "no scale": "the scores are not divided by sqrt(head_dim)",
    "heads without transpose": "split the width into [seq, heads, head_dim] and then transpose the "
    "two axes; a view to [heads, seq, head_dim] mixes positions",
    "heads joined without transpose": "transpose the heads' results back to [seq, heads, head_dim] "
    "before you join them",
    "key heads tiled": "query head h reads key-value head h // (num_heads / num_kv_heads), so "
    "adjacent query heads share one; yours read them as 0, 1, 0, 1 (h % num_kv_heads)",
    "first key head alone": "every query head reads the first key-value head",
    "no rotary": "queries and keys are not rotated by their positions",
    "rotary on queries alone": "the keys are not rotated",
    "rotary on values": "the values are rotated: rotate only queries and keys",
    "positions from 0": "the given positions are ignored",
    "no head norm": "qk_norm is ignored",
    "head norm after rotary": "apply the norms of queries and keys before the rotation",
    "window one longer": "the window is one too long: w counts the position and w - 1 before it",
    "no window": "sliding_window is ignored",
    "no biases": "the biases are missing",
    "first with first": "the mask aligns the first query with the first key (as PyTorch's "
    "is_causal does); with a cache the last query is at the position of the last key",
}


def norm(config: Any, weights: Weights, name: str, x: Tensor) -> Tensor:
    if config.norm == "none":
        return x
    if config.norm == "rmsnorm":
        return rms_norm(x, weights[f"{name}.weight"], config.norm_eps)
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return nn.functional.layer_norm(x.double(), x.shape[-1:], weight, bias, config.norm_eps)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x.double() @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def heads_of(config: Any, weights: Weights, x: Tensor, mistake: str) -> dict[str, Tensor]:
    """Return queries, keys and values, [batch, heads, seq, head_dim]."""
    batch, seq, _ = x.shape
    heads = {}
    shape = {"query": config.num_heads, "key": config.num_kv_heads, "value": config.num_kv_heads}
    for name, number in shape.items():
        projected = linear(weights, name, x)
        if mistake == "heads without transpose":
            heads[name] = projected.reshape(batch, number, seq, config.head_dim)
        else:
            heads[name] = projected.reshape(batch, seq, number, config.head_dim).transpose(1, 2)
    return heads


def turned_heads(
    config: Any, heads: dict[str, Tensor], positions: Tensor, mistake: str, has_rotary: bool
) -> dict[str, Tensor]:
    """Return the heads, with queries and keys rotated by their positions."""
    turn = ["query", "key"]
    if not has_rotary or mistake == "no rotary":
        turn = []
    elif mistake == "rotary on queries alone":
        turn = ["query"]
    elif mistake == "rotary on values":
        turn = ["query", "key", "value"]
    where = torch.arange(len(positions)) if mistake == "positions from 0" else positions
    turns = frequencies(config.head_dim, config.rope_theta)
    if turn and config.rope_scaling is not None and mistake != "no scaling":
        assert config.rope_scaling.kind == "linear", "no other kind is implemented here"
        turns = turns / config.rope_scaling.factor
    return heads | {name: rotate(heads[name], where, turns) for name in turn}


def normed_heads(config: Any, weights: Weights, heads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the heads, with the norms applied to queries and keys."""
    return heads | {
        name: rms_norm(heads[name], weights[f"{name}_norm.weight"], config.norm_eps)
        for name in ("query", "key")
    }


def serving_heads(config: Any, mistake: str) -> list[int]:
    """Return the key-value head that each query head reads."""
    if mistake == "key heads tiled":
        return [h % config.num_kv_heads for h in range(config.num_heads)]
    if mistake == "first key head alone":
        return [0] * config.num_heads
    group = config.num_heads // config.num_kv_heads
    return [h // group for h in range(config.num_heads)]


def attention_mask(config: Any, seq: int, mistake: str) -> Tensor:
    """Return the mask over whole sequences."""
    window = config.sliding_window
    if mistake == "window one longer" and window is not None:
        window += 1
    return visible(seq, seq, mistake != "no mask", None if mistake == "no window" else window)


def attention(
    config: Any,
    weights: Weights,
    x: Tensor,
    positions: Tensor,
    mistake: str = "",
    has_rotary: bool = True,
    last: int | None = None,
) -> Tensor:
    """Compute the attention layer over whole sequences, or their `last` positions, with or without
    a mistake.
    """
    if mistake == "no biases":
        weights = {name: value for name, value in weights.items() if not name.endswith("bias")}
    batch, seq, _ = x.shape
    heads = heads_of(config, weights, x, mistake)
    has_norm = config.qk_norm and mistake != "no head norm"
    norm_is_late = mistake == "head norm after rotary"
    if has_norm and not norm_is_late:
        heads = normed_heads(config, weights, heads)
    heads = turned_heads(config, heads, positions, mistake, has_rotary)
    if has_norm and norm_is_late:
        heads = normed_heads(config, weights, heads)
    mask = attention_mask(config, seq, mistake)
    if last is not None:
        mask = mask[:last] if mistake == "first with first" else mask[-last:]
        heads["query"], seq = heads["query"][:, :, -last:], last
    serve = serving_heads(config, mistake)
    scale = 1.0 if mistake == "no scale" else None
    attended = attend(heads["query"], heads["key"][:, serve], heads["value"][:, serve], mask, scale)
    if mistake == "heads joined without transpose":
        return linear(weights, "output", attended.reshape(batch, seq, -1))
    return linear(weights, "output", attended.transpose(1, 2).flatten(-2))


def feed_forward(config: Any, weights: Weights, x: Tensor) -> Tensor:
    up = linear(weights, "up", x)
    if config.mlp == "swiglu":
        inner = nn.functional.silu(linear(weights, "gate", x)) * up
    else:
        inner = nn.functional.gelu(up, approximate="tanh")
    return linear(weights, "down", inner)


def part(weights: Weights, prefix: str) -> Weights:
    """Return the weights of a submodule, under their names in it."""
    start = f"{prefix}."
    return {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}


def block(config: Any, weights: Weights, x: Tensor, positions: Tensor, mistake: str = "") -> Tensor:
    """Compute one block over whole sequences."""
    has_rotary = config.position == "rotary"

    def attended(y: Tensor) -> Tensor:
        return attention(config, part(weights, "attention"), y, positions, mistake, has_rotary)

    def fed(y: Tensor) -> Tensor:
        return feed_forward(config, part(weights, "feed_forward"), y)

    def normed(name: str, y: Tensor) -> Tensor:
        return norm(config, weights, f"{name}_norm", y)

    post = config.norm_position == "post"
    if mistake == "other norm position":
        post = not post
    if post:
        x = normed("attention", x + attended(x))
        return normed("feed_forward", x + fed(x))
    if mistake == "norm in the stream":
        x = normed("attention", x)
        x = x + attended(x)
        x = normed("feed_forward", x)
        return x + fed(x)
    if mistake == "side by side":
        return x + attended(normed("attention", x)) + fed(normed("feed_forward", x))
    kept = 0.0 if mistake == "no residual" else 1.0
    if mistake == "norms exchanged":
        x = x + attended(normed("feed_forward", x))
        return x + fed(normed("attention", x))
    x = kept * x + attended(normed("attention", x))
    return kept * x + fed(normed("feed_forward", x))


BLOCK_MISTAKES = {
    "other norm position": "norm_position is ignored: 'pre' normalizes the input of a branch, "
    "'post' the sum",
    "norm in the stream": "add each branch to the residual stream itself, not to its norm",
    "no residual": "the residual is missing: add the input to the result of each branch",
    "side by side": "the feed-forward layer must read the stream after attention was added",
    "norms exchanged": "the two norms are swapped",
}


def decoder(config: Any, weights: Weights, token_ids: Tensor, mistake: str = "") -> Tensor:
    """Compute the logits of whole sequences."""
    positions = torch.arange(token_ids.shape[1])
    x = weights["token_embedding.weight"][token_ids]
    if config.position == "learned" and mistake != "no positions":
        x = x + weights["position_embedding.weight"][positions]
    for layer in range(config.num_layers):
        number = 0 if mistake == "one block" else layer
        x = block(config, part(weights, f"blocks.{number}"), x, positions, mistake)
    if config.norm_position == "pre" and mistake != "no final norm":
        x = norm(config, weights, "final_norm", x)
    if config.tie_embeddings:
        return x @ weights["token_embedding.weight"].T
    return linear(weights, "output_head", x)


MODEL_MISTAKES = {
    "no final norm": "the norm before the output head is missing",
    "one block": "the first block is used for all layers",
    "no positions": "the position embedding is not added",
    "no rotary": ATTENTION_MISTAKES["no rotary"],
    "no scaling": "config.rope_scaling is not passed to RotaryEmbedding",
    "no mask": ATTENTION_MISTAKES["no mask"],
}


def wrong_by(
    oracle: Callable[..., Tensor], mistakes: dict[str, str], names: Sequence[str], *args: Any
) -> dict[str, Tensor]:
    """Return likely cause -> the oracle's result with this mistake."""
    return {mistakes[name]: oracle(*args, mistake=name) for name in names}
