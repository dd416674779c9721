"""Paged attention is attention: the same as the formula, and as the cache of one text."""

import random

import pytest
import torch

from inference.kv_cache import KVCache
from inference.paged_attention import PagedKVCache, paged_attention, places_of
from transformer_lm.attention import causal_mask, scaled_dot_product_attention
from transformer_lm.model_config import ModelConfig


@pytest.mark.parametrize("seed", range(40))
def test_the_formula_in_float64(seed: int) -> None:
    draw = random.Random(seed)
    size, kv_heads, group = draw.randint(1, 5), draw.randint(1, 3), draw.randint(1, 3)
    num_keys, head_dim = draw.randint(1, 14), draw.choice([1, 2, 5, 8])
    queries, window = draw.randint(1, num_keys), draw.choice([None, 1, 2, 3, 20])
    cache = PagedKVCache(2, 20, size, kv_heads, head_dim)
    for pool in (cache.keys, cache.values):
        pool.fill_(float("nan"))
    blocks = draw.sample(range(20), -(-num_keys // size) + draw.randint(0, 2))
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, num_keys, kv_heads, head_dim, generator=generator)
    q = 3 * torch.randn(queries, kv_heads * group, head_dim, generator=generator)
    cache.write(1, places_of(blocks, size, 0, num_keys), k, v)
    if window is not None:  # what no query sees has no effect
        unseen = max(0, num_keys - queries - window + 1)
        for pool in (cache.keys, cache.values):
            pool[1].flatten(0, 1)[places_of(blocks, size, 0, unseen)] = float("nan")
    got = paged_attention(q, cache.keys[1], cache.values[1], blocks, num_keys, window)
    each = q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    mask = causal_mask(queries, num_keys, q.device, window)
    expected = scaled_dot_product_attention(*(x.double().transpose(0, 1) for x in each), mask)
    torch.testing.assert_close(got.double(), expected.transpose(0, 1), rtol=1e-5, atol=1e-5)
    assert cache.keys[0].isnan().all(), "the other layer was written, too"


def test_a_fork_continues_with_the_same_text() -> None:
    """After copy_blocks, two requests write different tokens behind a shared beginning."""
    generator = torch.Generator().manual_seed(3)
    cache = PagedKVCache(3, 6, 4, 1, 4)
    k, v = torch.randn(2, 3, 7, 1, 4, generator=generator)
    for layer in range(3):
        cache.write(layer, places_of([2, 5], 4, 0, 6), k[layer, :6], v[layer, :6])
    cache.copy_blocks([(5, 1)])
    for layer in range(3):
        cache.write(layer, places_of([2, 1], 4, 6, 1), k[layer, 6:], v[layer, 6:])
        cache.write(layer, places_of([2, 5], 4, 6, 1), -k[layer, 6:], -v[layer, 6:])
    q = torch.randn(1, 2, 4, generator=generator)
    for layer in range(3):
        fresh = PagedKVCache(1, 2, 4, 1, 4)
        fresh.write(0, torch.arange(7), k[layer], v[layer])
        expected = paged_attention(q, fresh.keys[0], fresh.values[0], [0, 1], 7)
        got = paged_attention(q, cache.keys[layer], cache.values[layer], [2, 1], 7)
        assert torch.equal(got, expected)


def test_memory() -> None:
    shape = {"d_model": 8, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "d_ff": 16}
    config = ModelConfig(vocab_size=11, context_length=32, **shape)
    paged = PagedKVCache.for_model(config, 8, 4, torch.bfloat16)
    assert paged.keys.shape == (3, 8, 4, 2, 2)
    assert paged.num_bytes == KVCache.for_model(config, 1, dtype=torch.bfloat16).num_bytes


def test_our_own_mistakes() -> None:
    with pytest.raises(AssertionError, match="no place for position 8"):
        places_of([3, 1], 4, 5, 4)
    pool = torch.zeros(2, 4, 1, 2)
    with pytest.raises(AssertionError, match="3 queries for 2 keys"):
        paged_attention(torch.zeros(3, 1, 2), pool, pool, [0], 2)
