"""The model computes the same with and without the cache, for any batch and any truncation."""

import pytest
import torch

from inference.kv_cache import KVCache


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 6], [12], [3, 3, 3, 3]])
def test_logits_with_the_cache_equal_logits_without(model, batch_size: int, cuts) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (batch_size, 12), generator=generator)
    # In float64, where the order of a sum does not matter; rotary angles are float32 in both.
    model.double()
    cache = KVCache.for_model(model.config, batch_size, dtype=torch.float64)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-6, rtol=0)
    assert cache.length == 12


def test_the_length_counts_what_every_layer_has(model) -> None:
    cache = KVCache.for_model(model.config, batch_size=1)
    new = torch.zeros(1, 2, 5, 8)  # [batch, key-value heads, tokens, head width]
    lengths = []
    for layer in range(model.config.num_layers):
        cache.append(layer, new, new)
        lengths.append(cache.length)
    assert lengths == [0, 5]


def test_truncating_goes_back_in_time(model) -> None:
    ids = torch.arange(10)[None]
    other = torch.tensor([[50, 51]])
    cache = KVCache.for_model(model.config, 1)
    with torch.no_grad():
        model(ids, cache=cache)
        cache.truncate(6)
        assert cache.length == 6
        again = model(other, cache=cache)[:, -1]
        expected = model(torch.cat([ids[:, :6], other], dim=1))[:, -1]
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)


def test_repeating_texts_keeps_their_order(model) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    cache = KVCache.for_model(model.config, 2)
    new = torch.tensor([[7], [8], [9], [10]])
    with torch.no_grad():
        model(ids, cache=cache)
        got = model(new, cache=cache.repeat_texts(2))[:, -1]
        expected = model(torch.cat([ids.repeat_interleave(2, 0), new], dim=1))[:, -1]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_bytes_by_hand_and_only_the_key_value_heads_are_stored(model) -> None:
    cache = KVCache.for_model(model.config, batch_size=3, max_length=10)
    # keys and values x layers x texts x key-value heads x positions x head width x 4 bytes
    assert cache.num_bytes == 2 * 2 * 3 * 2 * 10 * 8 * 4


def test_too_many_tokens_or_texts_are_our_own_mistake(model) -> None:
    cache = KVCache.for_model(model.config, batch_size=1, max_length=4)
    with pytest.raises(AssertionError, match="room for 4 tokens, not for 5"):
        model(torch.zeros(1, 5, dtype=torch.int64), cache=cache)
    with pytest.raises(AssertionError, match="holds 1 texts, got keys of 2"):
        model(torch.zeros(2, 1, dtype=torch.int64), cache=cache)
