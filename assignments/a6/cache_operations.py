"""A KVCache from its handout, in the obvious way, and sequences of calls for it and for the code
under test.

Nothing here imports the code under test. What this leaves out: memory, which has checks of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Operation = tuple[Any, ...]


class CacheOracle:
    """One tensor for each layer, which grows by torch.cat."""

    def __init__(self, num_layers, batch_size, num_kv_heads, max_length, head_dim, dtype):
        shape = (batch_size, num_kv_heads, 0, head_dim)
        self.layers = [(torch.zeros(shape, dtype=dtype),) * 2 for _ in range(num_layers)]
        self.batch_size, self.max_length = batch_size, max_length
        element = torch.zeros(0, dtype=dtype).element_size()
        self.num_bytes = 2 * num_layers * batch_size * num_kv_heads * max_length * head_dim
        self.num_bytes *= element

    @property
    def length(self) -> int:
        return min(keys.shape[2] for keys, _ in self.layers)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        old = self.layers[layer]
        assert keys.shape[0] == self.batch_size, "another number of texts"
        assert old[0].shape[2] + keys.shape[2] <= self.max_length, "no room"
        new = (keys, values)
        self.layers[layer] = tuple(
            torch.cat([x, more.to(x.dtype)], 2) for x, more in zip(old, new, strict=True)
        )
        return self.layers[layer]

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length, "not so many tokens"
        self.layers = [(keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers]

    def repeat_texts(self, times: int) -> "CacheOracle":
        made = object.__new__(CacheOracle)
        made.__dict__.update(self.__dict__)
        made.batch_size, made.num_bytes = self.batch_size * times, self.num_bytes * times
        made.layers = [
            tuple(torch.cat([text[None] for text in x for _ in range(times)]) for x in pair)
            for pair in self.layers
        ]
        return made


def keys_and_values(shape: Sequence[int], seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return random keys and values as a layer splits them into heads: not contiguous."""
    batch, heads, new, width = shape
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(2, batch, new, heads, width, generator=generator).to(dtype)
    keys, values = made.transpose(2, 3)
    return keys, values


def results_of(
    make: Callable[..., Any], sizes: Sequence[Any], operations: Sequence[Operation]
) -> list[Any]:
    """Make a cache, and return what each operation gives, with the length behind it.

    ("append", layer, number of tokens, seed), ("pass", number of tokens, seed) for all layers,
    ("texts", batch size, seed) with keys of another number of texts, ("truncate", length),
    ("repeat", times), after which the operations continue with the new cache and, at the end, with
    the old one. The tensors that were appended are overwritten at once.
    """
    num_layers, _, num_kv_heads, _, head_dim, dtype = sizes
    cache = make(*sizes)
    results: list[Any] = [(cache.length, cache.max_length, cache.batch_size, cache.num_bytes)]
    earlier = []

    def append(layer: int, new: int, seed: int, batch: int) -> Any:
        keys, values = keys_and_values((batch, num_kv_heads, new, head_dim), seed, dtype)
        try:
            returned = cache.append(layer, keys, values)
        except AssertionError:
            return "refused"
        kept = [x.clone() for x in returned]
        keys.fill_(77.0)
        values.fill_(77.0)
        return [*kept, *(torch.equal(x, y) for x, y in zip(returned, kept, strict=True))]

    for name, *given in operations:
        match name:
            case "append":
                results.append(append(*given, cache.batch_size))
            case "pass":
                for layer in range(num_layers):
                    results.append(append(layer, *given, cache.batch_size))
                    results.append(cache.length)
            case "texts":
                batch, seed = given
                results.append(append(0, 1, seed, batch))
            case "truncate":
                try:
                    cache.truncate(*given)
                    results.append("cut")
                except AssertionError:
                    results.append("refused")
            case "repeat":
                earlier.append(cache)
                cache = cache.repeat_texts(*given)
                results.append((cache.max_length, cache.batch_size, cache.num_bytes))
        results.append(cache.length)
    for cache in earlier:
        results += [append(layer, 1, 5, cache.batch_size) for layer in range(num_layers)]
    return results
