"""The decoder in float64, and with one typical mistake wherever a check asks for it, so that it can
tell what went wrong.

What this leaves out: rescaled frequencies other than linear ones, and speed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attention_formulas import attend, frequencies, rms_norm, rotate, visible
from parameter_shapes import Weights
from torch import Tensor, nn

# What a mistake in the attention layer does, in words.
ATTENTION_MISTAKES = {
    "no mask": "positions look ahead: no causal mask",
    "no scale": "the scores are not divided by sqrt(head_dim)",
    "heads without transpose": "the width is cut into [seq, heads, head_dim] and only then are the "
    "two axes exchanged; a view to [heads, seq, head_dim] mixes positions",
    "heads joined without transpose": "the heads' results go back to [seq, heads, head_dim] before "
    "they are joined",
    "key heads tiled": "query head h reads key head h // (num_heads / num_kv_heads): neighbours "
    "share; yours repeats the key heads as 0, 1, 0, 1 (h % num_kv_heads)",
    "first key head alone": "every query head reads the first key head",
    "no rotary": "queries and keys are not turned by their positions",
    "rotary on queries alone": "the keys are not turned",
    "rotary on values": "values are not turned, only queries and keys",
    "positions from 0": "the positions that are given are ignored",
    "no head norm": "qk_norm is ignored",
    "head norm after rotary": "the norms of queries and keys come before the rotation",
    "window one longer": "a window of w is the position itself and w - 1 before it",
    "no window": "sliding_window is ignored",
    "no biases": "the biases are missing",
    "first with first": "the mask lines up the first query with the first key (as PyTorch's "
    "is_causal does); with a cache the last query stands at the last key",
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
    """Queries, keys and values, [batch, heads, seq, head_dim]."""
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
    """Those that positions turn, turned."""
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
        assert config.rope_scaling.kind == "linear", "no other kind is worked out here"
        turns = turns / config.rope_scaling.factor
    return heads | {name: rotate(heads[name], where, turns) for name in turn}


def normed_heads(config: Any, weights: Weights, heads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries and keys after their norms."""
    return heads | {
        name: rms_norm(heads[name], weights[f"{name}_norm.weight"], config.norm_eps)
        for name in ("query", "key")
    }


def serving_heads(config: Any, mistake: str) -> list[int]:
    """The key head that each query head reads."""
    if mistake == "key heads tiled":
        return [h % config.num_kv_heads for h in range(config.num_heads)]
    if mistake == "first key head alone":
        return [0] * config.num_heads
    group = config.num_heads // config.num_kv_heads
    return [h // group for h in range(config.num_heads)]


def attention_mask(config: Any, seq: int, mistake: str) -> Tensor:
    """Over whole sequences."""
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
    """The attention layer over whole sequences, or its `last` positions, with or without a
    mistake.
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
    """The weights of a submodule, under their names there."""
    start = f"{prefix}."
    return {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}


def block(config: Any, weights: Weights, x: Tensor, positions: Tensor, mistake: str = "") -> Tensor:
    """One block over whole sequences."""
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
    "other norm position": "norm_position is ignored: pre normalises what a branch reads, post the "
    "sum",
    "norm in the stream": "what is added to must be the stream itself, not its norm",
    "no residual": "the input is not added to what each branch gives",
    "side by side": "the feed-forward must read the stream after the attention was added",
    "norms exchanged": "the two norms are exchanged",
}


def decoder(config: Any, weights: Weights, token_ids: Tensor, mistake: str = "") -> Tensor:
    """Logits over whole sequences."""
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
    "no final norm": "the norm in front of the output head is missing",
    "one block": "the first block is used for all layers",
    "no positions": "the position embedding is not added",
    "no rotary": ATTENTION_MISTAKES["no rotary"],
    "no scaling": "config.rope_scaling is not given to RotaryEmbedding",
    "no mask": ATTENTION_MISTAKES["no mask"],
}


def wrong_by(
    oracle: Callable[..., Tensor], mistakes: dict[str, str], names: Sequence[str], *args: Any
) -> dict[str, Tensor]:
    """likely cause -> what the oracle gives with this mistake."""
    return {mistakes[name]: oracle(*args, mistake=name) for name in names}
