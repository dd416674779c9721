"""The attention of one head over a text: how much each token takes from each token before it.

    weights = softmax(q k^T / sqrt(head_dim)), where a token sees itself and what is before it

The model runs as always. In the layer that was asked for, the queries and keys are read on their
way to attention, after the norms of `qk_norm` and the rotation.

What this leaves out: the values, which these weights are applied to (transformer_lm/attention.py),
and weights in int8 or int4: the model computes here with the numbers of its file.

Vaswani et al., 2017, equation 1. Grouped query heads: Ainslie et al., 2023, section 2.2.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inference.batch_generation import RaggedKVCache, forward_tokens
from transformer_lm.attention import causal_mask
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig


@torch.no_grad()
def attention_weights(
    model: TransformerLM, token_ids: Sequence[int], layer: int, head: int
) -> Float[Tensor, "tokens tokens"]:
    """Return the weights of one head, in float32: row i is what token i takes from token j.

    Rows add up to 1. What a token cannot see, behind it or before its sliding window, is 0.

    Args:
        model: the decoder.
        token_ids: of the text, at least one and at most the context length; not checked.
        layer, head: numbers of the block and of the query head, from 0; not checked.
    """
    weight, count = model.token_embedding.weight, len(token_ids)
    cache = RaggedKVCache.for_model(model.config, 1, count, weight.dtype, weight.device)
    attend = cache.attend([0], [count], model.config.sliding_window)
    found: list[Tensor] = []

    def look(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if number == layer:
            found.append(head_weights(model.config, q, k, head))
        return attend(number, q, k, v)

    ids = torch.tensor(list(token_ids), device=weight.device)
    forward_tokens(model, ids, cache.positions([0], [count]), look)
    return found[0]


def head_weights(
    config: ModelConfig,
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens kv_heads head_dim"],
    head: int,
) -> Float[Tensor, "tokens tokens"]:
    """Return softmax(q k^T / sqrt(head_dim)) of one query head and the key head that it reads."""
    queries = q[:, head].float()
    keys = k[:, head // (config.num_heads // config.num_kv_heads)].float()
    scores = queries @ keys.T / math.sqrt(config.head_dim)  # [tokens, tokens]
    seen = causal_mask(len(queries), len(keys), queries.device, config.sliding_window)
    return scores.masked_fill(~seen, -math.inf).softmax(dim=-1)
