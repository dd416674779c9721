"""Keep the keys and values of the tokens already seen, so that a new token costs one position.

Attention at position t needs the keys and values of positions 0..t; those of the past never change.
The memory is taken once, for the longest text allowed, and written in place: 2 (keys and values) x
layers x batch x key-value heads x length x head_dim numbers. With grouped heads (Ainslie et al.
2023, arXiv 2305.13245) only the key-value heads are stored, not one copy for each query head.

This class fulfils `KeyValueCache`, the protocol beside the model's attention; the model never
imports it. Left out: rows of different lengths in one batch, and sharing memory between requests
(pages).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from transformer_lm.model_config import ModelConfig


class KVCache:
    """Keys and values of every layer, for a batch of texts that have equally many tokens."""

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
        """A cache of the model's shape; `max_length` defaults to its context."""
        return cls(
            config.num_layers,
            batch_size,
            config.num_kv_heads,
            max_length or config.context_length,
            config.head_dim,
            dtype,
            device,
        )

    @property
    def length(self) -> int:
        """Tokens stored in *every* layer: during a forward pass still the number before it."""
        return self._layer_lengths[-1]

    @property
    def max_length(self) -> int:
        """Tokens there is room for."""
        return self._keys.shape[3]

    @property
    def batch_size(self) -> int:
        """Texts in the batch."""
        return self._keys.shape[1]

    @property
    def num_bytes(self) -> int:
        """Memory taken, full or not."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def append(
        self,
        layer: int,
        keys: Float[Tensor, "batch kv_heads new head_dim"],
        values: Float[Tensor, "batch kv_heads new head_dim"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads all head_dim"], Float[Tensor, "batch kv_heads all head_dim"]
    ]:
        """Store one layer's new keys and values; returns all of that layer's, old and new.

        What is returned is a view: valid until the next `append` or `truncate`.
        """
        start = self._layer_lengths[layer]
        end = start + keys.shape[2]
        assert end <= self.max_length, (
            f"the cache has room for {self.max_length} tokens, {end} were to be stored"
        )
        assert keys.shape[0] == self.batch_size, (
            f"the cache holds {self.batch_size} texts, keys of {keys.shape[0]} were given"
        )
        self._keys[layer, :, :, start:end] = keys
        self._values[layer, :, :, start:end] = values
        self._layer_lengths[layer] = end
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on; what follows is written over."""
        assert 0 <= length <= self.length, f"cannot cut {self.length} cached tokens to {length}"
        self._layer_lengths = [length] * len(self._layer_lengths)

    def repeat_texts(self, times: int) -> "KVCache":
        """A new cache in which each text stands `times` times in a row: (a, b) -> (a, a, b, b).

        One prefill of a prompt then serves several continuations.
        """
        repeated = object.__new__(KVCache)
        repeated._keys = self._keys.repeat_interleave(times, dim=1)
        repeated._values = self._values.repeat_interleave(times, dim=1)
        repeated._layer_lengths = list(self._layer_lengths)
        return repeated
