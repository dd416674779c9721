"""The forward pass of the engine on a CPU: weights in float32, bfloat16, int8 or int4, and compiled
loops.

With float weights it computes what `PlainForwardPass` computes from the same weights, to rounding:
activations are float32 throughout. Beside weights that are not float32, keys and values are
rounded to bfloat16. With int8 and int4 weights, the activations that go into a
product are rounded to bytes, in blocks of 32, as llama.cpp does. What this leaves out: the variants
that few models have (`unsupported_variant`), and GPUs.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from inference.batch_generation import rotary_of
from inference.compiled.cache_rows import pages_as_numpy
from inference.compiled.decoder_layers import (
    DecoderShape,
    DecoderWeights,
    attention_inputs,
    decoder_layers,
    layer_outputs,
    layer_room,
)
from inference.compiled.decoder_parts import rms_norm
from inference.compiled.paged_attention import attend, window_size
from inference.compiled.product_kernels import ONE_CALLER
from inference.compiled.step_tables import StepTables, step_tables
from inference.compiled.weight_products import Matrices
from inference.engine.forward_pass import ChunkRows
from inference.paged_attention import PagedKVCache
from inference.quantized_cache import SCALE_BYTES, restore_rows
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

WeightKind = Literal["float32", "bfloat16", "int8", "int4"]
CacheKind = Literal["float32", "bfloat16", "int8"]
# The output head has a third of the weights of a small model, and int4 costs most there. GGUF files
# in four bits keep it in eight, too.
HEAD_KINDS: dict[WeightKind, WeightKind] = {"int4": "int8"}
LONG_CHUNK = 32  # beyond, PyTorch's attention is faster than that over pages


def unsupported_variant(config: ModelConfig) -> str:
    """Return the first setting with which `CompiledForwardPass` cannot compute, such as
    "mlp = gelu"; "" if there is none.

    It computes pre-norm with RMSNorm, SwiGLU without biases, rotary positions or none.
    """
    known: dict[str, tuple[str | bool, ...]] = {
        "norm": ("rmsnorm",),
        "norm_position": ("pre",),
        "mlp": ("swiglu",),
        "biases": (False,),
        "position": ("rotary", "none"),
    }
    for name, values in known.items():
        if getattr(config, name) not in values:
            return f"{name} = {getattr(config, name)}"
    return ""


def default_cache(weights: WeightKind) -> CacheKind:
    """Return the type of keys and values beside weights: bfloat16, unless they are float32."""
    return "float32" if weights == "float32" else "bfloat16"


class CompiledForwardPass:
    """The forward pass of a model on the CPU.

    Args:
        model: the decoder; its weights are copied in the form that `weights` names.
        num_blocks: blocks of the cache.
        block_size: tokens of a block.
        weights: form of the matrices; norms and the embedding of the input stay as they are.
        cache: type of keys and values; by default that of `default_cache`.
    """

    def __init__(
        self,
        model: TransformerLM,
        num_blocks: int,
        block_size: int,
        weights: WeightKind = "float32",
        cache: CacheKind | None = None,
    ) -> None:
        config = model.config
        cache = default_cache(weights) if cache is None else cache
        assert not unsupported_variant(config), f"not supported: {config}"
        self.config, self.block_size = config, block_size
        self.cache = PagedKVCache(
            config.num_layers,
            num_blocks,
            block_size,
            config.num_kv_heads,
            config.head_dim + (SCALE_BYTES if cache == "int8" else 0),
            getattr(torch, cache),
        )
        self._pages = pages_as_numpy(self.cache.keys), pages_as_numpy(self.cache.values)
        self._embedding = model.token_embedding.weight.detach().cpu()
        self._final_norm = _numbers([model.final_norm.weight])[0]
        head = model.token_embedding if config.tie_embeddings else model.output_head
        head_kind = HEAD_KINDS.get(weights, weights)
        self.head = Matrices.of(head_kind, head.weight.detach()[None])
        self.matrices = _layer_matrices(model, weights)
        self._weights = _decoder_weights(model, self.matrices)
        self._shape = DecoderShape(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            d_ff=config.d_ff,
            norm_eps=config.norm_eps,
            window=window_size(config.sliding_window),
            input_columns=self.matrices["query_key_value"].padded_rows,
            model_columns=self.matrices["down"].padded_rows,
            gate_columns=self.matrices["gate_up"].padded_rows,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices, which each step reads once."""
        return self.head.num_bytes + sum(each.num_bytes for each in self.matrices.values())

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.cache.copy_blocks(pairs)

    @torch.no_grad()
    def hidden(self, chunks: Sequence[ChunkRows]) -> Float[Tensor, "tokens d_model"]:
        ids = [token for chunk in chunks for token in chunk.token_ids]
        tables = step_tables(
            [chunk.blocks for chunk in chunks],
            [chunk.first for chunk in chunks],
            [len(chunk.token_ids) for chunk in chunks],
            self.block_size,
        )
        x = self._embedding[ids].float().numpy()  # [tokens, d_model], a copy
        long = [chunk for chunk in chunks if len(chunk.token_ids) > LONG_CHUNK]
        if long:
            short = [i for i, chunk in enumerate(chunks) if len(chunk.token_ids) <= LONG_CHUNK]
            self._layers_with_long_chunks(x, tables, short, long)
        else:
            with ONE_CALLER:
                decoder_layers(x, self._weights, self._shape, tables, *self._pages)
        with ONE_CALLER:
            rms_norm(x, self._final_norm, self.config.norm_eps, x)
        return torch.from_numpy(x)

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        return torch.from_numpy(self.head.product(hidden.contiguous().numpy()))

    def _layers_with_long_chunks(
        self, x: np.ndarray, tables: StepTables, short: list[int], long: list[ChunkRows]
    ) -> None:
        """Run all layers on x, in place; the attention of long chunks is PyTorch's."""
        weights, shape = self._weights, self._shape
        few = tables.of_requests(short)
        room = layer_room(x, shape)
        width = shape.num_heads * shape.head_dim
        for layer in range(self.config.num_layers):
            with ONE_CALLER:
                attention_inputs(x, layer, weights, shape, tables, *self._pages, room)
                pages = self._pages[0][layer], self._pages[1][layer]
                attend(room.heads, shape.num_heads, *pages, few, shape.window, room.attended)
            queries = torch.from_numpy(room.heads[:, :width])
            for chunk in long:
                found = self._attend_long(queries[chunk.rows], layer, chunk)
                room.attended[chunk.rows] = found.numpy()
            with ONE_CALLER:
                layer_outputs(x, layer, weights, shape, room)

    def _attend_long(
        self, queries: Float[Tensor, "queries width"], layer: int, chunk: ChunkRows
    ) -> Float[Tensor, "queries width"]:
        """Return the attention of a chunk, from a copy of its keys and values."""
        blocks = list(chunk.blocks)[: -(-chunk.num_keys // self.block_size)]
        keys, values = (
            _numbers_of(pages[layer, blocks].flatten(0, 1)[: chunk.num_keys]).transpose(0, 1)[None]
            for pages in (self.cache.keys, self.cache.values)
        )
        q = queries.unflatten(1, (-1, self.config.head_dim)).transpose(0, 1)[None]
        mask = None
        if chunk.first or self.config.sliding_window is not None:
            own = torch.arange(chunk.first, chunk.num_keys)[:, None]
            other = torch.arange(chunk.num_keys)
            mask = (other <= own) & (other > own - self._shape.window)
        attended = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return attended[0].transpose(0, 1).flatten(1)


def _numbers_of(rows: Tensor) -> Float[Tensor, "*rows head_dim"]:
    """Return rows of the cache in float32."""
    return restore_rows(rows) if rows.dtype == torch.int8 else rows.float()


def _layer_matrices(model: TransformerLM, kind: WeightKind) -> dict[str, Matrices]:
    """Return the matrices of all layers, by the name that `DecoderWeights` has for them."""
    every = {"query_key_value": [], "output": [], "gate_up": [], "down": []}
    for block in model.blocks:
        attention, forward = block.attention, block.feed_forward
        inward = (attention.query, attention.key, attention.value)
        every["query_key_value"].append(torch.cat([part.weight.detach() for part in inward]))
        every["output"].append(attention.output.weight.detach())
        both = (forward.gate.weight.detach(), forward.up.weight.detach())
        every["gate_up"].append(torch.cat(both))
        every["down"].append(forward.down.weight.detach())
    return {name: Matrices.of(kind, torch.stack(each)) for name, each in every.items()}


def _decoder_weights(model: TransformerLM, matrices: dict[str, Matrices]) -> DecoderWeights:
    blocks, none = model.blocks, np.empty((0, 0), np.float32)
    rotary = rotary_of(model.config)
    cosines, sines = (
        (none, none)
        if rotary is None
        else (_numbers([rotary.cosines])[0], _numbers([rotary.sines])[0])
    )
    query_norm, key_norm = (
        (
            _numbers([block.attention.query_norm.weight for block in blocks]),
            _numbers([block.attention.key_norm.weight for block in blocks]),
        )
        if model.config.qk_norm
        else (none, none)
    )
    return DecoderWeights(
        attention_norm=_numbers([block.attention_norm.weight for block in blocks]),
        feed_forward_norm=_numbers([block.feed_forward_norm.weight for block in blocks]),
        query_norm=query_norm,
        key_norm=key_norm,
        cosines=cosines,
        sines=sines,
        **{name: each.parts for name, each in matrices.items()},
    )


def _numbers(weights: Sequence[Tensor]) -> np.ndarray:
    """Return tensors of the same shape as one array in float32, in the order given."""
    return torch.stack([each.detach().cpu().float() for each in weights]).contiguous().numpy()
