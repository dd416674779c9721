"""The room of a server's cache in tokens: by default what is useful, and never more than fits.

What this leaves out: the memory of the weights, which are loaded before.
"""

from lm_core.user_error import UserError
from lm_course.machine_check.memory_fit import computer_memory
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import kv_cache_bytes_per_token

SHARE_OF_FREE = 0.8  # the rest is for activations and the system
DEFAULT_CONTEXTS = 4  # contexts of the model that fit into the cache by default
MOST_BY_DEFAULT = 32_768  # tokens


def tokens_that_fit(config: ModelConfig, bytes_per_value: int, free: int | None) -> int | None:
    """Return how many tokens fit into the free memory; None if the system does not tell."""
    if free is None:
        return None
    return int(SHARE_OF_FREE * free) // kv_cache_bytes_per_token(config, bytes_per_value)


def cache_tokens(
    config: ModelConfig, asked: int | None, bytes_per_value: int, block_size: int
) -> int:
    """Return the size of the cache in tokens, in whole blocks.

    Args:
        config: the model's shape.
        asked: by the user; None for the default, which is smaller if memory is short.
        bytes_per_value: of a key or value.
        block_size: tokens of a block.

    Raises:
        ValueError: what was asked for does not fit, or not even one block does.
    """
    fits = tokens_that_fit(config, bytes_per_value, computer_memory().free)
    if asked is None:
        asked = min(DEFAULT_CONTEXTS * config.context_length, MOST_BY_DEFAULT)
        asked = asked if fits is None else min(asked, fits)
    elif fits is not None and asked > fits:
        per_token = kv_cache_bytes_per_token(config, bytes_per_value)
        raise UserError(
            f"--cache-tokens {asked}: keys and values of {asked:,} tokens take "
            f"{asked * per_token / 1e9:.1f} GB ({per_token:,} bytes each), but the free memory has "
            f"room for {fits:,} tokens; ask for at most {fits // block_size * block_size}"
        )
    if asked < block_size:
        raise UserError(
            f"the cache has room for {asked} tokens, but a block has {block_size}: free some "
            "memory, or choose a smaller --block-size"
        )
    return asked
