"""a6.22 and a6.23, written: predict tokens per second and measure them; choose a block size."""

import latency_oracle as oracle
import pytest

LLAMA = {
    "vocab_size": 128256,
    "context_length": 131072,
    "d_model": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 8,
    "d_ff": 14336,
    "tie_embeddings": False,
}
H100 = 3.35e12, 989e12
MINE = {
    "vocab_size": 16384,
    "context_length": 64,
    "d_model": 1024,
    "num_layers": 6,
    "num_heads": 16,
    "num_kv_heads": 4,
    "d_ff": 2816,
}
SMALL = {
    "vocab_size": 4096,
    "context_length": 2048,
    "d_model": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 1,
    "d_ff": 128,
}
LENGTHS = [17, 1030, 256, 255, 257, 64, 511, 3, 700, 48, 129, 1500]
WITHIN = 0.006  # of a number with three significant digits

on_a_machine = pytest.mark.task("a6.22")
in_blocks = pytest.mark.task("a6.23")


def rate(fields, machine, batch=1, length=4096, bits=(16, 16), **mistakes):
    """Tokens per second at the roofline; the options are mistakes."""
    config = oracle.config_of(fields)
    bandwidth, arithmetic = machine
    weights = oracle.weights(config, **mistakes.get("weights", {})) * bits[0] / 8
    token = oracle.bytes_per_token(config, bits[1], mistakes.get("cache_heads"))
    cache = mistakes.get("caches", batch) * (length + 1) * token
    flops = oracle.flops(config, [1] * batch, [length] * batch)
    times = (weights + cache) / bandwidth, flops / arithmetic
    return batch / (sum(times) if mistakes.get("together") else max(times))


def check_share(a6, answers, key, right, causes):
    """A number with three significant digits; the causes are wrong numbers."""
    found = answers.number(key)
    if abs(found - right) <= WITHIN * right:
        return
    likely = [each for each, wrong in causes.items() if abs(found - wrong) <= WITHIN * abs(wrong)]
    a6.true(False, f"{key}: {found:.10g} is not right" + (f": {likely[0]}" if likely else ""))


@on_a_machine
@pytest.mark.parametrize(
    ("key", "batch", "bits"),
    [
        ("tokens_per_second_of_1", 1, (16, 16)),
        ("tokens_per_second_of_64", 64, (16, 16)),
        ("tokens_per_second_in_4_bits", 1, (4.5, 16)),
    ],
)
def test_predictions(answers, a6, key, batch, bits):
    setting = {"fields": LLAMA, "machine": H100, "batch": batch, "bits": bits}
    right = rate(**setting)
    causes = {
        "the embedding is looked up, not read as a whole": (
            rate(**setting, weights={"embeddings": 1})
        ),
        "the output head is a matrix that is read": rate(**setting, weights={"heads": 0}),
        "the cache has 8 key-value heads, not 32": rate(**setting, cache_heads=32),
        "these are the tokens of one request; a step gives one for each": right / batch,
        "each request reads its own cache": rate(**setting, caches=1),
        "the weights are read once for all 64 requests": rate(**setting) if batch == 1 else rate(
            LLAMA, H100, 1, bits=bits
        ),
        "bits were taken for bytes": rate(**(setting | {"bits": tuple(8 * b for b in bits)})),
        "the larger of the two times counts, not the sum": rate(**setting, together=True),
        "this is without the cache": rate(**setting, caches=0),
        "this is for weights of 16 bits": rate(**(setting | {"bits": (16, 16)})),
        "this is for weights of 4 bits; with their scales they have 4.5": (
            rate(**(setting | {"bits": (4, 16)}))
        ),
        "only the weights have 4.5 bits; the cache keeps 16": rate(
            **(setting | {"bits": (bits[0], bits[0])})
        ),
    }  # fmt: skip
    causes = {each: wrong for each, wrong in causes.items() if abs(wrong - right) > WITHIN * right}
    check_share(a6, answers, key, right, causes)


@on_a_machine
def test_where_the_caches_outweigh_the_weights(answers, a6):
    causes = {
        "with 27, the caches have fewer bytes than the weights": 27,
        "the embedding is looked up, not read as a whole": 30,
        "the output head is a matrix that is read": 26,
        "the cache has 8 key-value heads, not 32": 7,
        "count keys and values": 56,
    }
    key = "requests_whose_caches_outweigh_the_weights"
    a6.check_number(answers, key, 28, causes)


@on_a_machine
def test_where_arithmetic_becomes_the_limit(answers, a6):
    causes = {
        "with 439, the bytes still take longer": 439,
        "the FLOPs of attention count, too": 443,
        "the bytes of the cache count, too": 294,
        "the cache counts, too, with its bytes and with the FLOPs of attention": 296,
    }
    a6.check_number(answers, "smallest_batch_limited_by_arithmetic", 440, causes, within=0.5)


@on_a_machine
def test_the_measured_bandwidth(answers, a6):
    key = "my_gigabytes_per_second"
    found = answers.number(key)
    unit = " (write it in units of 1e9 bytes)" if found > 1e6 else ""
    a6.true(
        0.2 <= found <= 5000,
        f"{key}: {found:.10g} is not the bandwidth of any machine's memory: expected 0.2 to "
        f"5,000{unit}",
    )


@on_a_machine
def test_the_prediction_for_this_machine(answers, a6):
    gigabytes = answers.number("my_gigabytes_per_second")
    setting = {"fields": MINE, "machine": (gigabytes * 1e9, 1e30), "length": 32}
    causes = {
        "weights and cache are float32: 32 bits": rate(**setting),
        "bits were taken for bytes": rate(**setting, bits=(256, 256)),
        "a tied head is read": rate(**setting, bits=(32, 32), weights={"heads": 0}),
        "the embedding is looked up, not read as a whole": rate(
            **setting, bits=(32, 32), weights={"embeddings": 1}
        ),
    }
    key = "my_predicted_tokens_per_second"
    found, right = answers.number(key), rate(**setting, bits=(32, 32))
    likely = [each for each, wrong in causes.items() if abs(found - wrong) <= 0.01 * wrong]
    a6.true(
        abs(found - right) <= 0.01 * right,
        f"{key}: {found:.10g} does not follow from my_gigabytes_per_second = {gigabytes:.10g}"
        + (f": {likely[0]}" if likely else ""),
    )


@on_a_machine
def test_the_measured_share(answers, a6):
    predicted = answers.number("my_predicted_tokens_per_second")
    measured = answers.number("my_measured_tokens_per_second")
    share = answers.number("my_measured_share_of_prediction")
    right = measured / predicted if predicted else 0.0
    likely = ""
    if abs(share - 100 * right) <= 0.02 * 100 * right:
        likely = ": write it as a share, not in percent"
    elif right and abs(share - 1 / right) <= 0.02 / right:
        likely = ": it is measured / predicted, not predicted / measured"
    a6.true(
        abs(share - right) <= 0.02 * right,
        f"my_measured_share_of_prediction: {share:.10g} is not {measured:.10g} / "
        f"{predicted:.10g}{likely}",
    )
    sentence = f"my_measured_share_of_prediction: {share:.10g} is outside 0.03 to 2: "
    if share < 0.03:
        sentence += "is my_measured_tokens_per_second in seconds per token, or was another program "
        sentence += "at work?"
    else:
        sentence += "nobody reads faster than the memory. Were both measured with the same threads?"
    a6.true(0.03 <= share <= 2, sentence)


@in_blocks
def test_the_block_size(answers, a6):
    causes = {
        "that is the best one for a cache of 16 bits; this one has 8": 4,
        "a block of 1 wastes nothing, but the block table has an entry for each token": 1,
        "that is what engines take; for this small model, its waste costs more than its entries "
        "save": 16,
        "the smallest block table is not the smallest sum": 256,
    }
    a6.check_number(answers, "best_block_size", 8, causes)
    causes = {
        "this is with blocks of 4, for 16 bits": 6576,
        "this is the waste alone": 2432,
        "these are the block tables alone": 2404,
        "this is with a cache of 16 bits; this one has 8": 7268,
        "this counts the places without a token, not their bytes": 38 + 2404,
        "an entry of the block table takes 4 bytes": 2432 + 601,
    }
    a6.check_number(answers, "bytes_beyond_the_tokens", 4836, causes, within=0.5)


@in_blocks
def test_the_waste(answers, a6):
    tokens = sum(LENGTHS)
    places = sum(-(-length // 16) * 16 for length in LENGTHS)
    right = 100 * (places - tokens) / places
    causes = {
        "this is the waste relative to the tokens, not to the blocks": (
            100 * (places - tokens) / tokens
        ),
        "write it in percent": right / 100,
        "this is what is not wasted": 100 - right,
    }
    a6.check_number(answers, "wasted_percent_in_blocks_of_16", right, causes, within=0.02)
    reserved = 2048 * len(LENGTHS)
    right = 100 * (reserved - tokens) / reserved
    causes = {
        "write it in percent": right / 100,
        "this is the share that holds tokens": 100 - right,
        "this is the waste relative to the tokens": 100 * (reserved - tokens) / tokens,
    }
    a6.check_number(answers, "wasted_percent_if_reserved", right, causes, within=0.02)
