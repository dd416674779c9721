"""a3_data.10: a Bloom filter."""

import numpy as np
import pytest
from exact_oracle import BitFilter

pytestmark = pytest.mark.task("a3_data.10")
MODULE = "data_pipeline.exact_dedup"


def keys(*numbers):
    return np.array(numbers, dtype=np.uint64)


@pytest.mark.parametrize(
    ("capacity", "rate", "num_bits", "num_hashes"),
    [
        (1000, 0.01, 9586, 7),
        (1000, 0.001, 14378, 10),
        (10, 0.5, 15, 1),
        (1, 0.2, 4, 2),
        (7, 0.9, 2, 1),
        (100_000, 1e-6, 2_875_518, 20),
    ],
)
def test_the_size(implementation, a3_data, capacity, rate, num_bits, num_hashes):
    made = implementation(MODULE).BloomFilter(capacity, rate)
    what = f"of a filter for {capacity:,} hashes and a rate of {rate}"
    ideal = num_bits / np.log(2) ** 2
    causes = {
        "log is the natural logarithm (math.log), not the decimal": lambda got: (
            abs(got - num_bits * 0.4343 / 0.0906 * 0.4805) < 0.02 * got + 2
        ),
        "divide by the square of ln 2": lambda got: (
            abs(got - num_bits * np.log(2)) <= 2 or abs(got - ideal) <= 2
        ),
        "round the number of bits up": num_bits - 1,
    }
    a3_data.expect(int(made.num_bits), num_bits, f"num_bits {what}", causes)
    causes = {
        "at least one bit is set": 0,
        "round to the nearest whole number, from the number of bits before it was rounded up": (
            lambda got: abs(got - num_hashes) == 1
        ),
    }
    a3_data.expect(int(made.num_hashes), num_hashes, f"num_hashes {what}", causes)
    bits = a3_data.array(made.bits, "bits")
    a3_data.true(
        bits.dtype == np.uint8 and bits.shape == (-(-num_bits // 8),) and not bits.any(),
        f"bits {what}: expected {-(-num_bits // 8):,} zeros of uint8, got {bits.dtype} "
        f"{bits.shape}",
    )


@pytest.mark.parametrize(
    ("capacity", "rate"),
    [(0, 0.1), (-5, 0.1), (10, 0.0), (10, 1.0), (10, -0.1), (10, 2.0), (10, float("nan"))],
)
def test_impossible_filters(implementation, a3_data, capacity, rate):
    module = implementation(MODULE)
    what = f"BloomFilter({capacity}, {rate})"
    a3_data.raises(ValueError, lambda: module.BloomFilter(capacity, rate), what, [str(rate)])


@pytest.mark.parametrize("key", [1, 2**32, 0x0123456789ABCDEF, 2**64 - 1])
def test_the_bits_of_one_hash(implementation, a3_data, key):
    made = implementation(MODULE).BloomFilter(100, 0.01)
    oracle = BitFilter(100, 0.01)
    made.add(key)
    oracle.add_all([key])
    got = {i * 8 + bit for i, byte in enumerate(made.bits.tolist()) for bit in range(8)
           if byte >> bit & 1}  # fmt: skip
    reversed_bits = {position ^ 7 for position in oracle.positions}
    step = (key >> 32 | (key << 32) % 2**64) | 1
    same_order = {(key + i * step) % oracle.num_bits for i in range(oracle.num_hashes)}
    causes = {
        "position p is bit p % 8 of byte p // 8, counted from the lowest bit": reversed_bits,
        "a + i b wraps modulo 2^64 before it is taken modulo m": same_order,
        "each hash sets k bits, for i from 0 to k - 1": lambda found: found < oracle.positions,
        "i begins at 0": lambda found: len(found - oracle.positions) == 1,
    }
    a3_data.expect(got, oracle.positions, f"the positions of the hash {key:#x}", causes)


def test_what_was_added_is_found(implementation, a3_data):
    made = implementation(MODULE).BloomFilter(500, 0.01)
    rng = np.random.default_rng(1)
    inside, outside = rng.integers(0, 2**64, (2, 500), dtype=np.uint64)
    made.add_all(inside)
    missing = sum(int(key) not in made for key in inside)
    a3_data.true(missing == 0, f"{missing} of 500 hashes that were added are not found")
    wrong = sum(int(key) in made for key in outside)
    a3_data.true(
        wrong <= 20,
        f"{wrong} of 500 hashes that were not added are found; for a rate of 0.01 these are about "
        "5: does each hash set k bits, and does a hash count as found only if all are set?",
    )


def test_added_before(implementation, a3_data):
    made = implementation(MODULE).BloomFilter(1000, 1e-6)
    causes = {
        "add returns whether the hash was there before it was added": [True] * 4,
        "add returned None; return whether the hash was there before": [None] * 4,
    }
    got = [made.add(key) for key in (5, 7, 5, 7)]
    a3_data.expect(got, [False, False, True, True], "add of 5, 7, 5, 7", causes)
    got = a3_data.array(made.add_all(keys(9, 5, 9, 11, 9)), "add_all")
    a3_data.true(got.dtype == np.bool_, f"add_all: expected an array of bool, got {got.dtype}")
    causes = {
        "a hash that occurs twice in one call was there at its second place": (
            [False, True, False, False, False]
        ),
        "the answer is about the time before each hash was added": [True] * 5,
        "the first place of a hash in a call is new": [True, True, True, False, True],
    }
    expected = [False, True, True, False, True]
    a3_data.expect(got.tolist(), expected, "add_all of 9, 5, 9, 11, 9", causes)
    a3_data.expect(11 in made, True, "11 in the filter")
    a3_data.expect(13 in made, False, "13 in the filter")


def test_bits_of_one_byte(implementation, a3_data):
    """Many hashes share a byte: `bits[where] |= bit` would keep one of them."""
    made = implementation(MODULE).BloomFilter(20, 0.01)
    oracle = BitFilter(20, 0.01)
    numbers = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 30)]
    made.add_all(keys(*numbers))
    oracle.add_all(numbers)
    causes = {
        "some bits are missing: of several bits of one byte, `bits[where] |= bit` sets one; use "
        "np.bitwise_or.at": lambda got: sum(got) < sum(oracle.bits()),
    }
    a3_data.expect(made.bits.tolist(), oracle.bits(), "the bits after 29 hashes", causes)


def test_no_hashes(implementation, a3_data):
    made = implementation(MODULE).BloomFilter(20, 0.01)
    got = a3_data.array(made.add_all(keys()), "add_all")
    a3_data.expect(got.tolist(), [], "add_all of no hashes")
    a3_data.expect(int(made.bits.sum()), 0, "the bits after add_all of no hashes")
