"""a6.4: a key-value cache."""

import pytest
import torch
from cache_operations import CacheOracle, keys_and_values, results_of

pytestmark = pytest.mark.task("a6.4")
MODULE = "inference.kv_cache"
OVERWRITTEN = "the caller's tensors must be copied: it may use their memory for something else"


def column(*numbers):
    """Keys or values of one text, with one head of width 1."""
    return torch.tensor(numbers, dtype=torch.float32)[None, None, :, None]


def appended(a6, cache, layer, keys, values):
    got = cache.append(layer, keys, values)
    a6.true(
        isinstance(got, tuple) and len(got) == 2,
        "append must return a tuple: all keys and all values of the layer",
        {"got": type(got).__name__},
    )
    return got


def test_by_hand(implementation, a6):
    cache = implementation(MODULE).KVCache(1, 1, 1, 3, 1)
    a6.expect(cache.num_bytes, 24, "num_bytes of the handout's example")
    keys, values = appended(a6, cache, 0, column(1, 2), column(10, 20))
    a6.tensor(keys, column(1, 2), "the keys after two tokens")
    a6.expect(cache.length, 2, "length after two tokens")
    keys, values = appended(a6, cache, 0, column(3), column(30))
    causes = {
        "return the old and the new keys, not the new ones alone": column(3),
        "the old keys come first": column(3, 1, 2),
    }
    a6.tensor(keys, column(1, 2, 3), "the keys after the third token", causes)
    causes = {"these are the keys": column(1, 2, 3)}
    a6.tensor(values, column(10, 20, 30), "the values after the third token", causes)
    cache.truncate(1)
    a6.expect(cache.length, 1, "length after truncate(1)")
    keys, values = appended(a6, cache, 0, column(4), column(40))
    causes = {
        "truncate must drop tokens 2 and 3: 4 comes right behind 1": column(1, 2, 3, 4),
        "truncate(1) keeps one token, and drops the others": column(4),
    }
    a6.tensor(keys, column(1, 4), "the keys after truncate(1) and a further token", causes)
    a6.tensor(values, column(10, 40), "the values after truncate(1) and a further token")


def test_each_text_and_head_keeps_its_own(implementation, a6):
    sizes = (2, 3, 2, 6, 4)
    cache, oracle = implementation(MODULE).KVCache(*sizes), CacheOracle(*sizes, torch.float32)
    for seed, new in enumerate((3, 1, 2)):
        for layer in (0, 1):
            given = keys_and_values((3, 2, new, 4), 10 * seed + layer, torch.float32)
            expected = oracle.append(layer, *given)
            got = appended(a6, cache, layer, *given)
            for name, have, right in zip(("keys", "values"), got, expected, strict=True):
                causes = {
                    "every text has the keys of the first one: is the cache made for one text?": (
                        right[:1].expand(right.shape)
                    ),
                    "layer 1 has what layer 0 holds: each layer has memory of its own": (
                        oracle.layers[0][name == "values"]
                    ),
                }
                what = f"the {name} of layer {layer} after {expected[0].shape[2]} tokens"
                a6.tensor(have, right, what, causes)


def test_the_cache_copies(implementation, a6):
    cache = implementation(MODULE).KVCache(1, 1, 1, 8, 1)
    keys, values = column(1, 2), column(10, 20)
    cache.append(0, keys, values)
    keys.fill_(-5)
    values.fill_(-5)
    got, got_values = appended(a6, cache, 0, column(3), column(30))
    a6.tensor(got, column(1, 2, 3), "the keys", {OVERWRITTEN: column(-5, -5, 3)})
    a6.tensor(got_values, column(10, 20, 30), "the values", {OVERWRITTEN: column(-5, -5, 30)})


def test_the_length_during_a_forward_pass(implementation, a6):
    cache = implementation(MODULE).KVCache(3, 1, 1, 8, 1)
    lengths = []
    for new in (column(1, 2, 3, 4), column(5)):
        for layer in range(3):
            cache.append(layer, new, new)
            lengths.append(cache.length)
    causes = {
        "length counts what *every* layer has: during a forward pass, the number before it": (
            [4, 4, 4, 5, 5, 5]
        ),
        "length must grow by the number of new tokens, not by 1": [0, 0, 1, 1, 1, 2],
        "every layer adds to one counter: keep a length for each layer": [4, 8, 12, 13, 14, 15],
    }
    what = "the length behind each append of 4 tokens and of 1 token, in three layers,"
    a6.expect(lengths, [0, 0, 4, 4, 4, 5], what, causes)


def test_truncate_cuts_every_layer(implementation, a6):
    """Also one that has more tokens than the others, because a forward pass was interrupted."""
    sizes = (3, 1, 1, 8, 1)
    for layer in range(3):
        operations = [("pass", 4, 1), ("append", layer, 2, 2), ("truncate", 4), ("pass", 1, 3)]
        got = results_of(implementation(MODULE).KVCache, (*sizes, torch.float32), operations)
        expected = results_of(CacheOracle, (*sizes, torch.float32), operations)
        for number, (have, right) in enumerate(zip(got[-7:-1:2], expected[-7:-1:2], strict=True)):
            what = (
                f"the keys of layer {number} after 4 tokens in each layer, 2 more in layer {layer} "
                "alone, truncate(4), and 1 token in each layer"
            )
            causes = {
                f"truncate did not cut layer {number}: every layer must have 4 tokens after it": (
                    lambda found: found.shape[2] != 5
                )
            }
            a6.tensor(have[0], right[0], what, causes)


def test_repeated_texts(implementation, a6):
    module = implementation(MODULE)
    cache = module.KVCache(2, 2, 1, 4, 1)
    two = torch.cat([column(1, 2), column(3, 4)])
    for layer in (0, 1):
        cache.append(layer, two + 10 * layer, -two)
    made = cache.repeat_texts(2)
    a6.true(isinstance(made, module.KVCache), "repeat_texts must return a KVCache")
    got = [made.length, made.batch_size, made.max_length, cache.batch_size]
    what = "length, batch_size and max_length of the new cache, and batch_size of the old one,"
    a6.expect(got, [2, 4, 4, 2], what)
    four = torch.cat([column(5), column(6), column(7), column(8)])
    keys, _ = appended(a6, made, 1, four, four)
    expected = torch.tensor([[11, 12, 5], [11, 12, 6], [13, 14, 7], [13, 14, 8]])[:, None, :, None]
    tiled = torch.tensor([[11, 12, 5], [13, 14, 6], [11, 12, 7], [13, 14, 8]])[:, None, :, None]
    causes = {"the order is (a, a, b, b), not (a, b, a, b)": tiled}
    a6.tensor(keys, expected, "the keys of layer 1 after repeat_texts(2) of two texts", causes)
    keys, _ = appended(a6, cache, 1, two[:, :, :1], two[:, :, :1])
    causes = {"the new cache must not share memory with the old one": lambda _: True}
    expected = torch.cat([column(11, 12, 1), column(13, 14, 3)])
    a6.tensor(keys, expected, "the keys of the old cache, to which one token was added,", causes)
    keys, _ = appended(a6, made, 0, four, four)
    expected = torch.cat([column(1, 2, 5), column(1, 2, 6), column(3, 4, 7), column(3, 4, 8)])
    a6.tensor(keys, expected, "the keys of layer 0 of the new cache")


def test_memory_is_taken_once(implementation, a6):
    sizes, dtype = (3, 2, 2, 500, 8), torch.bfloat16
    module = implementation(MODULE)
    layers, batch, heads, length, width = sizes
    total = 2 * layers * batch * heads * length * width * dtype.itemsize
    causes = {
        "keys and values are two": total // 2,
        "num_bytes counts what is allocated, used or not": 0,
        "bytes, not numbers: multiply by the size of one": total // dtype.itemsize,
    }
    with a6.watched("KVCache(...)") as counter:
        cache = module.KVCache(*sizes, dtype=dtype)
        made = counter.peak_bytes
        a6.expect(cache.num_bytes, total, f"num_bytes of KVCache{sizes}", causes)
        a6.true(
            total <= made <= total + 4096,
            f"KVCache{sizes} must take its memory at once: for max_length tokens of every layer",
            {"expected": f"{total:,} bytes", "got": f"{made:,} bytes"},
        )
    cache = module.KVCache(*sizes, dtype=dtype)
    new = torch.ones(batch, heads, 1, width, dtype=dtype)
    many = torch.ones(batch, heads, length - 1, width, dtype=dtype)
    for layer in range(layers):
        cache.append(layer, many, many)
    with a6.watched("append") as counter:
        for layer in range(layers):
            cache.append(layer, new, new)
    allowed = 2 * layers * new.numel() * dtype.itemsize + 256
    a6.true(
        counter.peak_bytes <= allowed,
        f"append of one token behind {length - 1} others takes memory for the others, too: write "
        "into the memory of the cache, and return a view of it",
        {"expected": f"at most {allowed:,} bytes", "got": f"{counter.peak_bytes:,} bytes"},
    )


def test_what_has_no_place_is_refused(implementation, a6):
    cache = implementation(MODULE).KVCache(1, 3, 1, 4, 1)
    three = torch.cat([column(1), column(2), column(3)])
    cache.append(0, three.repeat(1, 1, 3, 1), three.repeat(1, 1, 3, 1))
    two = three.repeat(1, 1, 2, 1)
    a6.raises(AssertionError, lambda: cache.append(0, two, two), "append beyond max_length")
    for text in (column(1), three[:2]):
        what = f"append of keys of {len(text)} texts to a cache of 3"
        a6.raises(AssertionError, lambda text=text: cache.append(0, text, text), what)
    a6.raises(AssertionError, lambda: cache.truncate(4), "truncate(4) of 3 tokens")
    a6.raises(AssertionError, lambda: cache.truncate(-1), "truncate(-1)")
    a6.expect(cache.length, 3, "length after these refusals")
    keys, _ = appended(a6, cache, 0, three + 1, three + 1)
    expected = torch.cat([three.repeat(1, 1, 3, 1), three + 1], 2)
    a6.tensor(keys, expected, "the keys after these refusals and one more token")


def test_the_model_computes_the_same(implementation, a6):
    model, batch = a6.tiny_model(seed=2), 3
    ids = torch.randint(11, (batch, 9), generator=torch.Generator().manual_seed(1))
    cache = implementation(MODULE).KVCache.for_model(model.config, batch)
    with torch.no_grad():
        expected = model(ids)
        parts = [model(part, cache=cache) for part in ids.split([4, 1, 1, 3], dim=1)]
    what = f"the logits of {batch} texts that are read in parts of 4, 1, 1 and 3 tokens"
    a6.tensor(torch.cat(parts, 1), expected, what, rtol=1e-3, atol=1e-4)
