"""a6.3: random numbers by seed and place, and draws that do not depend on the batch."""

import math

import pytest
import torch
from sampling_oracle import GAMMA, mixed, number_of, picked, probabilities, sample_seed

pytestmark = pytest.mark.task("a6.3")
MODULE = "inference.sampling"
LAST = 1 - 2**-53


def check_uniform(implementation, a6, seed, index):
    got = implementation(MODULE).uniform(seed, index)
    causes = {
        "the first number has the factor index + 1": number_of(seed, index - 1),
        "the seed is mixed by itself before the index is added": (
            (mixed(seed + (index + 1) * GAMMA) >> 11) / 2**53
        ),
        "G is added to the seed before it is mixed": (
            (mixed(mixed(seed) + (index + 1) * GAMMA) >> 11) / 2**53
        ),
        "take the upper 53 of the 64 bits, and divide by 2**53": (
            mixed(mixed(seed + GAMMA) + (index + 1) * GAMMA) / 2**64
        ),
        "the index is multiplied by G": (mixed(mixed(seed + GAMMA) + index + 1) >> 11) / 2**53,
        "cut all but 64 bits off after each sum and product: & (2**64 - 1)": lambda got: got >= 1,
    }
    a6.expect(got, number_of(seed, index), f"uniform({seed}, {index})", causes)


def test_uniform(implementation, a6):
    for seed, index in [(0, 0), (0, 1), (1, 0), (7, 5), (2**63 - 1, 10**12)]:
        check_uniform(implementation, a6, seed, index)


def test_no_earlier_number_is_computed(implementation, a6):
    uniform = implementation(MODULE).uniform
    with a6.StepCounter(limit=2000) as counter:
        uniform(3, 1_000_000)
    a6.true(
        not counter.stopped,
        "uniform(3, 1_000_000) takes more than 2,000 steps: compute the number from the seed and "
        "the index alone, without those before",
    )
    a6.true(
        uniform(3, 4) == number_of(3, 4) and uniform(3, 2) == number_of(3, 2),
        "uniform(3, 4) and then uniform(3, 2): a number depends on the seed and the index alone, "
        "not on the calls before",
    )


def check_seed(implementation, a6, seed, number):
    got = implementation(MODULE).seed_of_sample(seed, number)
    causes = {
        "each sample needs a seed of its own": seed,
        "seed + number gives sample 1 of the seed 5 the texts of the seed 6": seed + number,
        "shift the result by one bit: a seed is below 2**63": mixed(mixed(seed + GAMMA) + number),
        "the seed is mixed by itself before the number is added": (
            mixed(seed + GAMMA + number) >> 1
        ),
    }
    what = f"seed_of_sample({seed}, {number})"
    a6.expect(got, sample_seed(seed, number), what, causes)


def test_the_seed_of_a_sample(implementation, a6):
    for seed, number in [(0, 1), (1, 1), (1, 2), (2, 1), (2**63 - 1, 9)]:
        check_seed(implementation, a6, seed, number)


def test_samples_differ_from_their_first_token(implementation, a6):
    module = implementation(MODULE)
    for seed in (0, 5, 2**63 - 1):
        what = f"seed_of_sample({seed}, 0)"
        causes = {"sample 0 keeps the seed": mixed(mixed(seed + GAMMA)) >> 1}
        a6.expect(module.seed_of_sample(seed, 0), seed, what, causes)
    logits = torch.zeros(8, 1000)
    settings = [
        module.SamplingSettings(temperature=1.0, seed=module.seed_of_sample(3, number))
        for number in range(8)
    ]
    got = module.sample(logits, settings, [0] * 8)
    a6.true(
        len(set(got)) > 4,
        f"8 samples of one prompt begin with the tokens {got}, of 1,000 equally likely ones: they "
        "must have seeds of their own",
    )


def check_pick(implementation, a6, shares, number, dtype):
    values = torch.tensor(shares, dtype=dtype)
    got = implementation(MODULE).pick(values, number)
    exact = values.double().tolist()
    right = picked(exact, number)
    sums = torch.cumsum(values.double(), 0)
    causes = {
        "a token of probability 0 must not be returned": lambda got: exact[got] == 0,
        "the cumulative sum must be above the number: at the border, the next token begins": int(
            (sums < number * sums[-1]).sum()
        ),
        "multiply the number by the last cumulative sum: the shares need not add up to 1": int(
            (sums <= number).sum()
        ),
        "the result is an id, not the number of ids left": len(shares) - 1 - right,
        "compute the cumulative sums in float64: in float32, a small share at the end is lost": (
            lambda got: min(x for x in exact if x) < 1e-9
        ),
        "return a Python integer": lambda got: not isinstance(got, int),
    }
    a6.expect(got, right, f"pick of {shares} ({dtype}) for the number {number}", causes)


def test_pick(implementation, a6):
    for shares, number in [
        ([0.0, 0.125, 0.0, 0.5, 0.375, 0.0], 0.0),
        ([0.0, 0.125, 0.0, 0.5, 0.375, 0.0], 0.124),
        ([0.0, 0.125, 0.0, 0.5, 0.375, 0.0], 0.125),
        ([0.0, 0.125, 0.0, 0.5, 0.375, 0.0], 0.624),
        ([0.0, 0.125, 0.0, 0.5, 0.375, 0.0], 0.625),
        ([0.0, 0.125, 0.0, 0.5, 0.375, 0.0], LAST),
        ([0.0, 0.0, 1.0], 0.0),
        ([1.0, 0.0, 0.0], LAST),
        ([0.25, 0.25], 0.75),
        ([3.0, 1.0], 0.7),
        ([0.5, 0.5, 1e-10], 1 - 2**-40),
        ([1.0, 1e-12, 1e-12, 0.0], LAST),
    ]:
        check_pick(implementation, a6, shares, number, torch.float32)
        check_pick(implementation, a6, shares, number, torch.float64)


def check_broken(implementation, a6, shares):
    pick = implementation(MODULE).pick
    a6.raises(ValueError, lambda: pick(torch.tensor(shares), 0.3), f"pick of {shares}", [])


def test_probabilities_that_are_none(implementation, a6):
    for shares in [[0.0, 0.0], [0.5, math.nan], [math.nan, math.nan], [0.5, math.inf]]:
        check_broken(implementation, a6, shares)


def test_draws_have_the_frequencies_of_the_distribution(implementation, a6):
    """Chi-square with 3 degrees of freedom: a right solution always gives the same counts."""
    pick = implementation(MODULE).pick
    shares = torch.tensor([0.1, 0.5, 0.15, 0.25])
    counts = [0] * 4
    for index in range(2000):
        counts[pick(shares, number_of(11, index))] += 1
    expected = [200, 1000, 300, 500]
    distance = sum((a - b) ** 2 / b for a, b in zip(counts, expected, strict=True))
    a6.true(
        distance < 16.3,
        "2,000 draws do not have the frequencies of the probabilities 0.1, 0.5, 0.15, 0.25",
        {"expected about": expected, "got": counts},
    )


def rows(a6):
    return a6.random(5, 40, seed=8) / 2


def each_of(module):
    fields = [
        {"temperature": 1.0, "seed": 4},
        {"temperature": 1.0, "seed": 4},
        {"temperature": 2.0, "seed": 4, "top_k": 12},
        {"temperature": 0.8, "seed": 9, "top_p": 0.83},
        {"temperature": 0.0, "seed": 1},
    ]
    return [module.SamplingSettings(**each) for each in fields], [0, 3, 0, 7, 2]


def test_sample(implementation, a6):
    module = implementation(MODULE)
    settings, indices = each_of(module)
    got = module.sample(rows(a6), settings, indices)

    def drawn(number_for):
        every = [
            {name: getattr(each, name) for name in ("temperature", "top_k", "top_p", "min_p")}
            for each in settings
        ]
        listed = rows(a6).tolist()
        return [
            picked(probabilities(row, fields), number_for(i))
            for i, (row, fields) in enumerate(zip(listed, every, strict=True))
        ]

    causes = {
        "the number depends on indices[i], the tokens of the answer so far": drawn(
            lambda i: number_of(settings[i].seed, 0)
        ),
        "indices[i] is the index as it is: 0 for the first token": drawn(
            lambda i: number_of(settings[i].seed, indices[i] + 1)
        ),
        "the place of a row in the batch must not matter": drawn(
            lambda i: number_of(settings[i].seed, i)
        ),
        "each row has a seed of its own, in its settings": drawn(
            lambda i: number_of(settings[0].seed, indices[i])
        ),
    }
    what = "sample of 5 rows with settings and indices of their own"
    right = drawn(lambda i: number_of(settings[i].seed, indices[i]))
    a6.expect(got, right, what, causes)


def test_a_row_is_drawn_as_if_it_were_alone(implementation, a6):
    module = implementation(MODULE)
    settings, indices = each_of(module)
    logits = rows(a6)
    together = module.sample(logits, settings, indices)
    alone = [module.sample(logits[i : i + 1], settings[i : i + 1], indices[i : i + 1])[0]
             for i in range(5)]  # fmt: skip
    a6.expect(together, alone, "sample of 5 rows, against each row alone")
    backward = module.sample(logits.flip(0), settings[::-1], indices[::-1])
    what = "sample of the same rows in reverse order, reversed"
    a6.expect(backward[::-1], together, what)


def test_an_answer_that_is_resumed(implementation, a6):
    """Token 5 of an answer is the same whether or not the tokens before were drawn."""
    module = implementation(MODULE)
    settings, logits = module.SamplingSettings(temperature=1.0, seed=2), torch.zeros(1, 500)
    whole = [module.sample(logits, [settings], [index])[0] for index in range(8)]
    resumed = [module.sample(logits, [settings], [index])[0] for index in range(5, 8)]
    a6.expect(resumed, whole[5:], "tokens 5 to 7 of an answer that is resumed")
    a6.true(len(set(whole)) > 4, f"the tokens of an answer repeat: {whole} of 500 equal ones")
