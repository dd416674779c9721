"""The forward pass of the engine on a CPU: weights in float32, bfloat16, int8 or int4, and compiled
loops.

It computes what `PlainForwardPass` computes from the same weights, to rounding: activations are
float32 throughout. What this leaves out: the variants that few models have (`is_supported`), and
GPUs.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inference.batch_generation import rotary_of
from inference.compiled.decoder_parts import norm_heads, rms_norm, rotate, swiglu
from inference.compiled.paged_attention import attend_step
from inference.compiled.step_tables import step_tables
from inference.compiled.weight_products import MATRICES, Matrix, product
from inference.engine.forward_pass import ChunkRows
from inference.paged_attention import PagedKVCache
from transformer_lm.language_model import TransformerBlock, TransformerLM
from transformer_lm.model_config import ModelConfig

WeightKind = Literal["float32", "bfloat16", "int8", "int4"]
CacheKind = Literal["float32", "bfloat16"]


class _Layer(NamedTuple):
    attention_norm: np.ndarray
    query_key_value: Matrix
    query_norm: np.ndarray | None
    key_norm: np.ndarray | None
    output: Matrix
    feed_forward_norm: np.ndarray
    gate_up: Matrix
    down: Matrix


def is_supported(config: ModelConfig, weights: WeightKind) -> bool:
    """Return whether `CompiledForwardPass` computes this model: pre-norm with RMSNorm, SwiGLU
    without biases, rotary positions or none; for int4, widths of whole blocks of 32.
    """
    widths = (config.d_model, config.d_ff, config.num_heads * config.head_dim)
    return (
        config.norm == "rmsnorm"
        and config.norm_position == "pre"
        and config.mlp == "swiglu"
        and not config.biases
        and config.position in ("rotary", "none")
        and (weights != "int4" or all(width % 32 == 0 for width in widths))
    )


class CompiledForwardPass:
    """The forward pass of a model on the CPU.

    Args:
        model: the decoder; its weights are copied in the form that `weights` names.
        num_blocks: blocks of the cache.
        block_size: tokens of a block.
        weights: form of the matrices; norms and the embedding of the input stay as they are.
        cache: type of keys and values.
    """

    def __init__(
        self,
        model: TransformerLM,
        num_blocks: int,
        block_size: int,
        weights: WeightKind = "float32",
        cache: CacheKind = "float32",
    ) -> None:
        config = model.config
        assert is_supported(config, weights), f"not supported: {config}"
        self.config, self.block_size = config, block_size
        self.cache = PagedKVCache.for_model(config, num_blocks, block_size, getattr(torch, cache))
        self._make = MATRICES[weights].of
        self._layers = [self._layer(block) for block in model.blocks]
        self._embedding = model.token_embedding.weight.detach().cpu()
        self._final_norm = _numbers(model.final_norm.weight)
        head = model.token_embedding if config.tie_embeddings else model.output_head
        self._head: Matrix = self._make(head.weight)
        rotary = rotary_of(config)
        self._angles = (
            None if rotary is None else (_numbers(rotary.cosines), _numbers(rotary.sines))
        )

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.cache.copy_blocks(pairs)

    @torch.no_grad()
    def hidden(self, chunks: Sequence[ChunkRows]) -> Float[Tensor, "tokens d_model"]:
        config = self.config
        ids = [token for chunk in chunks for token in chunk.token_ids]
        positions = np.array(
            [p for chunk in chunks for p in range(chunk.first, chunk.num_keys)], np.int64
        )
        tables = step_tables(
            [chunk.blocks for chunk in chunks],
            [chunk.first for chunk in chunks],
            [len(chunk.token_ids) for chunk in chunks],
            self.block_size,
        )
        places = torch.from_numpy(tables.places)
        x = self._embedding[ids].float().numpy()  # [tokens, d_model]
        normed = np.empty_like(x)
        eps = config.norm_eps
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        for number, layer in enumerate(self._layers):
            rms_norm(x, layer.attention_norm, eps, normed)
            qkv = product(layer.query_key_value, normed)
            self._prepare_heads(layer, qkv, positions)
            q, k, v = torch.from_numpy(qkv).split([queries, keys, keys], dim=1)
            heads = (-1, config.head_dim)
            self.cache.write(number, places, k.unflatten(1, heads), v.unflatten(1, heads))
            attended = attend_step(
                q.unflatten(1, heads),
                self.cache.keys[number],
                self.cache.values[number],
                tables,
                config.sliding_window,
            )
            x += product(layer.output, attended.flatten(1).numpy())
            rms_norm(x, layer.feed_forward_norm, eps, normed)
            gate_up = product(layer.gate_up, normed)
            gated = np.empty((len(x), config.d_ff), np.float32)
            swiglu(gate_up, gated)
            x += product(layer.down, gated)
        rms_norm(x, self._final_norm, eps, normed)
        return torch.from_numpy(normed)

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        return torch.from_numpy(product(self._head, hidden.contiguous().numpy()))

    def _layer(self, block: TransformerBlock) -> _Layer:
        attention, forward = block.attention, block.feed_forward
        inward = (attention.query, attention.key, attention.value)
        return _Layer(
            _numbers(block.attention_norm.weight),
            self._make(torch.cat([part.weight for part in inward])),
            _numbers(attention.query_norm.weight) if self.config.qk_norm else None,
            _numbers(attention.key_norm.weight) if self.config.qk_norm else None,
            self._make(attention.output.weight),
            _numbers(block.feed_forward_norm.weight),
            self._make(torch.cat([forward.gate.weight, forward.up.weight])),
            self._make(forward.down.weight),
        )

    def _prepare_heads(self, layer: _Layer, qkv: np.ndarray, positions: np.ndarray) -> None:
        """Norm and rotate queries and keys, in place; the values behind them stay."""
        config = self.config
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim
        if layer.query_norm is not None:
            norm_heads(qkv, 0, heads, size, layer.query_norm, config.norm_eps)
            norm_heads(qkv, heads, kv_heads, size, layer.key_norm, config.norm_eps)
        if self._angles is not None:
            rotate(qkv, heads + kv_heads, size, positions, *self._angles)


def _numbers(weight: Tensor) -> np.ndarray:
    return weight.detach().cpu().float().contiguous().numpy()
