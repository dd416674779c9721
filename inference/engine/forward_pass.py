"""One forward pass over a step of the engine: tokens of many requests in one row, with their keys
and values in blocks.

This is the plain version, made of the lessons: `forward_tokens` for everything but attention, and
`paged_attention` for one request after another. What this leaves out: compiled kernels, quantized
weights and caches.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from inference.batch_generation import forward_tokens, logits_of
from inference.paged_attention import PagedKVCache, paged_attention, places_of
from transformer_lm.language_model import TransformerLM


class ChunkRows(NamedTuple):
    """The tokens of one request in a step.

    Attributes:
        first_row: the row of its first token.
        token_ids: its new tokens.
        first: the position of the first of them.
        blocks: the request's block table.
    """

    first_row: int
    token_ids: Sequence[int]
    first: int
    blocks: Sequence[int]

    @property
    def rows(self) -> slice:
        """The rows of its tokens."""
        return slice(self.first_row, self.first_row + len(self.token_ids))

    @property
    def num_keys(self) -> int:
        """The positions that its last token may look at."""
        return self.first + len(self.token_ids)


@runtime_checkable
class ForwardPass(Protocol):
    """A model together with its cache, as the engine needs it."""

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, target) of the cache, in every layer."""
        ...

    def hidden(self, chunks: Sequence[ChunkRows]) -> Float[Tensor, "tokens d_model"]:
        """Store the keys and values of the tokens, and return their last hidden states."""
        ...

    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        """Return the logits of the next token for some of these states."""
        ...


class PlainForwardPass:
    """The forward pass of the lessons, in the number type of the model's weights.

    Args:
        model: the decoder.
        num_blocks: blocks of the cache.
        block_size: tokens of a block.
    """

    def __init__(self, model: TransformerLM, num_blocks: int, block_size: int) -> None:
        weight = next(model.parameters())
        self.model = model
        self.device = weight.device
        self.cache = PagedKVCache.for_model(
            model.config, num_blocks, block_size, weight.dtype, weight.device
        )
        self.block_size = block_size

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.cache.copy_blocks(pairs)

    @torch.no_grad()
    def hidden(self, chunks: Sequence[ChunkRows]) -> Float[Tensor, "tokens d_model"]:
        ids = [token for chunk in chunks for token in chunk.token_ids]
        positions = [p for chunk in chunks for p in range(chunk.first, chunk.num_keys)]
        places = torch.cat(
            [
                places_of(chunk.blocks, self.block_size, chunk.first, len(chunk.token_ids))
                for chunk in chunks
            ]
        ).to(self.device)
        window = self.model.config.sliding_window

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.cache.write(layer, places, k, v)
            key_blocks, value_blocks = self.cache.keys[layer], self.cache.values[layer]
            attended = [
                paged_attention(
                    q[chunk.rows], key_blocks, value_blocks, chunk.blocks, chunk.num_keys, window
                )
                for chunk in chunks
            ]
            return torch.cat(attended)

        return forward_tokens(
            self.model,
            torch.tensor(ids, device=self.device),
            torch.tensor(positions, device=self.device),
            attend,
        )

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        return logits_of(self.model, hidden)
