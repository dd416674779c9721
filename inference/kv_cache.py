"""A key-value cache: with the keys and values of earlier tokens stored, a new token costs one
position.

Attention at position t needs the keys and values of positions 0..t, and those of earlier positions
never change. The memory is allocated once, for the longest text allowed, and written in place: 2
(keys and values) x layers x batch x key-value heads x length x head_dim numbers. With grouped heads
(Ainslie et al. 2023, arXiv 2305.13245) only the key-value heads are stored, not one copy for each
query head.

This class implements `KeyValueCache`, the protocol defined next to the model's attention; the model
never imports it.

What this leaves out: rows of different lengths in one batch (batch_generation.py), and memory that
requests share (block_pool.py, paged_attention.py).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from transformer_lm.model_config import ModelConfig


class KVCache:
    """Keys and values of every layer, for a batch of texts with the same number of tokens."""

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, max_length, head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self._layer_lengths = [0] * num_layers

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        batch_size: int,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "KVCache":
        """Return a cache of the model's shape; `max_length` defaults to its context length."""
        return cls(
            config.num_layers,
            batch_size,
            config.num_kv_heads,
            config.context_length if max_length is None else max_length,
            config.head_dim,
            dtype,
            device,
        )

    @property
    def length(self) -> int:
        """Number of tokens stored in *every* layer; during a forward pass, the number before it."""
        return min(self._layer_lengths)

    @property
    def max_length(self) -> int:
        """Number of tokens that fit into the cache."""
        return self._keys.shape[3]

    @property
    def batch_size(self) -> int:
        """Number of texts in the batch."""
        return self._keys.shape[1]

    @property
    def num_bytes(self) -> int:
        """Allocated memory, whether used or not."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def append(
        self,
        layer: int,
        keys: Float[Tensor, "batch kv_heads new head_dim"],
        values: Float[Tensor, "batch kv_heads new head_dim"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads all head_dim"], Float[Tensor, "batch kv_heads all head_dim"]
    ]:
        """Store one layer's new keys and values, and return all of that layer's, old and new.

        The result is a view, valid until the next `append` or `truncate`. Tokens for which there is
        no room, and another number of texts, are refused before anything is stored.
        """
        start = self._layer_lengths[layer]
        end = start + keys.shape[2]
        assert end <= self.max_length, (
            f"the cache has room for {self.max_length} tokens, not for {end}"
        )
        assert keys.shape[0] == self.batch_size, (
            f"the cache holds {self.batch_size} texts, got keys of {keys.shape[0]}"
        )
        self._keys[layer, :, :, start:end] = keys
        self._values[layer, :, :, start:end] = values
        self._layer_lengths[layer] = end
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def truncate(self, length: int) -> None:
        """Drop every token from position `length`; later ones overwrite them."""
        assert 0 <= length <= self.length, f"cannot cut {self.length} cached tokens to {length}"
        self._layer_lengths = [length] * len(self._layer_lengths)

    def repeat_texts(self, times: int) -> "KVCache":
        """Return a new cache in which each text is repeated `times` times: (a, b) -> (a, a, b, b).

        One prefill of a prompt can then be used for several continuations.
        """
        repeated = object.__new__(KVCache)
        repeated._keys = self._keys.repeat_interleave(times, dim=1)
        repeated._values = self._values.repeat_interleave(times, dim=1)
        repeated._layer_lengths = list(self._layer_lengths)
        return repeated
