"""Independent solution of a6.4, written from the handout alone.

All keys and values lie in *one* tensor, [layers, 2, batch, kv_heads, max_length, head_dim], whose
second axis is 0 for keys and 1 for values. The properties read its shape, and the only other state
is the number of tokens of each layer.
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
        shape = (num_layers, 2, batch_size, num_kv_heads, max_length, head_dim)
        self._memory = torch.empty(shape, dtype=dtype, device=device)
        self._filled = [0] * num_layers  # tokens in each layer

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
        return min(self._filled)

    @property
    def max_length(self) -> int:
        """Number of tokens that fit into the cache."""
        return self._memory.shape[4]

    @property
    def batch_size(self) -> int:
        """Number of texts in the batch."""
        return self._memory.shape[2]

    @property
    def num_bytes(self) -> int:
        """Allocated memory, whether used or not."""
        return self._memory.nbytes

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
        _, _, texts, kv_heads, room, width = self._memory.shape
        first = self._filled[layer]
        end = first + keys.shape[2]
        expected = (texts, kv_heads, end - first, width)
        assert keys.shape == values.shape == expected, (
            f"keys {list(keys.shape)} and values {list(values.shape)} must both be {list(expected)}"
        )
        assert end <= room, f"{end} tokens in layer {layer}, but there is room for {room}"
        for place, new in zip(self._memory[layer], (keys, values), strict=True):
            place[:, :, first:end] = new.detach()
        self._filled[layer] = end
        all_keys, all_values = self._memory[layer, :, :, :, :end]
        return all_keys, all_values

    def truncate(self, length: int) -> None:
        """Drop every token from position `length`; later ones overwrite them."""
        assert 0 <= length <= self.length, (
            f"cannot truncate to {length} tokens: the cache has {self.length}"
        )
        self._filled = [length] * len(self._filled)

    def repeat_texts(self, times: int) -> "KVCache":
        """Return a new cache in which each text is repeated `times` times: (a, b) -> (a, a, b, b).

        One prefill of a prompt can then be used for several continuations.
        """
        layers, _, texts, kv_heads, room, width = self._memory.shape
        dtype, device = self._memory.dtype, self._memory.device
        repeated = KVCache(layers, texts * times, kv_heads, room, width, dtype, device)
        stored = max(self._filled)
        by_text = repeated._memory.unflatten(2, (texts, times))
        by_text[..., :stored, :] = self._memory[..., :stored, :].unsqueeze(3)
        repeated._filled = list(self._filled)
        return repeated
