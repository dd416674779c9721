"""The room of a server's caches in tokens: by default what is useful, and never more than fits.

The models of one server share the free memory.

What this leaves out: the memory of the models themselves, which are loaded before.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lm_core.user_error import UserError
from lm_course.machine_check.memory_fit import computer_memory
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import kv_cache_bytes_per_token

if TYPE_CHECKING:
    from inference.engine.forward_choice import AnyCacheKind, AnyWeightKind
    from transformer_lm.language_model import TransformerLM

SHARE_OF_FREE = 0.8  # the rest is for activations and the system
DEFAULT_CONTEXTS = 4  # contexts of the model that fit into the cache by default
MOST_BY_DEFAULT = 32_768  # tokens


class CachedModel(NamedTuple):
    """Sizes that the memory of a model's cache depends on.

    Attributes:
        config: the shape.
        cache_bits: bits of a number of the keys and values.
        copied_bytes: memory that the engine will take for its form of the weights.
    """

    config: ModelConfig
    cache_bits: float
    copied_bytes: int = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token."""
        return math.ceil(kv_cache_bytes_per_token(self.config, 1) * self.cache_bits / 8)


def cached_model(
    model: "TransformerLM", weights: "AnyWeightKind" = "auto", cache: "AnyCacheKind" = "auto"
) -> CachedModel:
    """Return the sizes of a model in an engine with these forms of weights and cache."""
    from inference.engine.forward_choice import bytes_of_copies, cache_bits

    bits = cache_bits(model, weights, cache)
    return CachedModel(model.config, bits, bytes_of_copies(model, weights))


def cache_tokens(models: Sequence[CachedModel], asked: int | None, block_size: int) -> list[int]:
    """Return the size of each model's cache in tokens.

    Args:
        models: all models of the server.
        asked: for each, by the user; None for the default, which is smaller if memory is short.
        block_size: tokens of a block.

    Raises:
        ValueError: what was asked for does not fit, or not even one block does.
    """
    free = computer_memory().free
    copies = sum(model.copied_bytes for model in models)
    # None: the system does not tell
    room = None if free is None else max(0, int(SHARE_OF_FREE * (free - copies)))
    if asked is None:
        wanted = [min(DEFAULT_CONTEXTS * m.config.context_length, MOST_BY_DEFAULT) for m in models]
        sizes = wanted if room is None else _within(room, models, wanted)
    else:
        sizes = wanted = [asked] * len(models)
        per_token = sum(model.bytes_per_token for model in models)
        if room is not None and asked * per_token > room:
            fits = room // per_token
            of_each = "" if len(models) == 1 else f" in each of {len(models)} caches"
            raise UserError(
                f"--cache-tokens {asked}: keys and values of {asked:,} tokens{of_each} take "
                f"{asked * per_token / 1e9:.1f} GB ({per_token:,} bytes each), but the free memory "
                f"has room for {fits:,} tokens; ask for at most {fits // block_size * block_size}"
            )
    for size, intended in zip(sizes, wanted, strict=True):
        if size < block_size:
            more = "give more --cache-tokens" if size == intended else "free some memory"
            raise UserError(
                f"the cache has room for {size:,} tokens, but a block has {block_size:,}: {more}, "
                "or a smaller --block-size"
            )
    return sizes


def _within(room: int, models: Sequence[CachedModel], sizes: Sequence[int]) -> list[int]:
    """Return sizes that fit into so many bytes together, each smaller by the same factor."""
    total = sum(size * m.bytes_per_token for size, m in zip(sizes, models, strict=True))
    return list(sizes) if total <= room else [size * room // total for size in sizes]
