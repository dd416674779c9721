"""a6.2: top-k, top-p, min-p, and the probabilities of the next token."""

import math

import pytest
import torch
from sampling_oracle import min_p, probabilities, shares, top_k, top_p

pytestmark = pytest.mark.task("a6.2")
MODULE = "inference.sampling"
SHARES = [0.1, 0.5, 0.15, 0.25]
LOGITS = [math.log(share) for share in SHARES]


def kept(a6, got, what):
    a6.true(isinstance(got, torch.Tensor), f"{what}: expected a tensor, got {a6.shown(got)}")
    row = got.reshape(-1, got.shape[-1])[0]
    return [token for token, x in enumerate(row.tolist()) if x > -math.inf]


def check_kept(a6, function, logits, limit, expected, causes):
    """Call with a row of float64, and compare the ids that stay, and their logits."""
    row = torch.tensor([logits], dtype=torch.float64)
    before = row.clone()
    got = function(row, limit)
    what = f"{function.__name__} of {[round(x, 3) for x in logits]} with {limit}"
    a6.expect(kept(a6, got, what), expected, f"{what}: the ids that stay", causes)
    right = torch.full_like(before, -math.inf)
    right[0, expected] = before[0, expected]
    a6.tensor(got, right, what, {"the logits that stay are as they were": None}, dtype=row.dtype)
    a6.true(torch.equal(row, before), f"{what} changes the logits that it was given")


def check_top_k(implementation, a6, logits, k, expected):
    least = sorted(logits)[-min(k, len(logits))]
    last = sorted(range(len(logits)), key=lambda token: (-logits[token], -token))[:k]
    causes = {
        "exactly k stay, also with ties: the lowest ids of the equal ones": (
            [token for token, x in enumerate(logits) if x >= least]
        ),
        "of equal logits, the lowest ids stay": sorted(last),
        "the k-th largest stays": [token for token, x in enumerate(logits) if x > least],
    }
    check_kept(a6, implementation(MODULE).keep_top_k, logits, k, expected, causes)


def test_top_k(implementation, a6):
    for logits, k, expected in [
        (LOGITS, 2, [1, 3]),
        (LOGITS, 1, [1]),
        (LOGITS, 4, [0, 1, 2, 3]),
        (LOGITS, 99, [0, 1, 2, 3]),
        ([1.0, 2.0, 1.0, 1.0, 0.0], 2, [0, 1]),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 4, [0, 1, 2, 3]),
        ([0.0, 3.0, 5.0, 3.0, 3.0, 9.0], 4, [1, 2, 3, 5]),
    ]:
        check_top_k(implementation, a6, logits, k, expected)


def check_top_p(implementation, a6, logits, p, expected):
    each = shares(logits)
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    sums = [sum(each[token] for token in order[: count + 1]) for count in range(len(order))]
    short = sorted(token for token, total in zip(order, sums, strict=True) if total <= p)
    longer = sorted(token for token, total in zip(order, [0.0, *sums], strict=False) if total <= p)
    causes = {
        "the token that crosses p stays: compare the sum before a token with p": short,
        "a token stays if the sum before it is less than p; if the sum is p, the set is complete": (
            longer
        ),
        "the first token always stays": [],
        "this is every token whose own probability is at least p": (
            [token for token, share in enumerate(each) if share >= p]
        ),
        "of equal logits, the lowest ids come first": lambda got: (
            len(got) == len(expected) and len(set(logits)) == 1
        ),
    }
    check_kept(a6, implementation(MODULE).keep_top_p, logits, p, expected, causes)


def test_top_p(implementation, a6):
    for logits, p, expected in [
        (LOGITS, 0.49, [1]),
        (LOGITS, 0.51, [1, 3]),
        (LOGITS, 0.74, [1, 3]),
        (LOGITS, 0.76, [1, 2, 3]),
        (LOGITS, 0.91, [0, 1, 2, 3]),
        (LOGITS, 1e-9, [1]),
        (LOGITS, 1.0, [0, 1, 2, 3]),
        ([0.0, 0.0, 0.0, 0.0], 0.5, [0, 1]),
        ([0.0, 0.0, 0.0, 0.0], 0.25, [0]),
        ([0.0, 0.0, 0.0, 0.0], 0.3, [0, 1]),
    ]:
        check_top_p(implementation, a6, logits, p, expected)


def test_top_p_of_1_keeps_all(implementation, a6):
    """The sum of the first logits is already 1 when the last ones are added."""
    logits = torch.tensor([40.0, 0.0, -40.0, 20.0])
    got = implementation(MODULE).keep_top_p(logits, 1.0)
    causes = {"with p = 1 all tokens stay, also those that do not change the sum": [0]}
    what = "keep_top_p of [40, 0, -40, 20] with 1.0: the ids that stay"
    a6.expect(kept(a6, got, what), [0, 1, 2, 3], what, causes)


def check_min_p(implementation, a6, p, expected):
    causes = {
        "p is relative to the largest probability of the row, not to 1": (
            [token for token, share in enumerate(SHARES) if share >= p]
        ),
        "these are the tokens to drop": [t for t in range(4) if t not in expected],
        "with p = 0 all stay": lambda got: p == 0,
    }
    check_kept(a6, implementation(MODULE).keep_min_p, LOGITS, p, expected, causes)


def test_min_p(implementation, a6):
    for p, expected in [
        (0.0, [0, 1, 2, 3]),
        (0.19, [0, 1, 2, 3]),
        (0.21, [1, 2, 3]),
        (0.31, [1, 3]),
        (0.51, [1]),
    ]:
        check_min_p(implementation, a6, p, expected)


def test_min_p_of_1_and_of_unlikely_rows(implementation, a6):
    """The most likely token always stays, all of them if there are several."""
    function = implementation(MODULE).keep_min_p
    causes = {"a token stays if its probability is at least p times the largest": []}
    check_kept(a6, function, [1.0, 3.0, 3.0, 2.0], 1.0, [1, 2], causes)
    flat = [0.0] * 200
    causes = {"p is relative to the largest probability of the row: here 0.005": []}
    check_kept(a6, function, flat, 0.1, list(range(200)), causes)


@pytest.mark.parametrize(
    ("name", "limit", "oracle"),
    [("keep_top_k", 2, top_k), ("keep_top_p", 0.7, top_p), ("keep_min_p", 0.3, min_p)],
)
def test_rows_are_independent(implementation, a6, name, limit, oracle):
    logits = a6.random(2, 3, 7, seed=4, dtype=torch.float64) * 2
    got = getattr(implementation(MODULE), name)(logits, limit)
    rows = [oracle(row, limit) for row in logits.reshape(-1, 7).tolist()]
    right = torch.tensor(rows, dtype=torch.float64).view(2, 3, 7)
    a6.tensor(got, right, f"{name} of logits [2, 3, 7] with {limit}", dtype=torch.float64)


def settings_of(module, **fields):
    return module.SamplingSettings(**{"temperature": 1.0, **fields})


def of(logits, **fields):
    every = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | fields
    return torch.tensor([probabilities(logits, every)])


def check_steps(implementation, a6, fields):
    module = implementation(MODULE)
    got = module.next_token_probabilities(torch.tensor([LOGITS]), settings_of(module, **fields))
    limits = {name: value for name, value in fields.items() if name != "temperature"}
    temperature = fields.get("temperature", 1.0)
    warm = of([x * temperature for x in LOGITS], **fields)
    early = of(LOGITS, **limits)[0].log().tolist()
    causes = {
        "divide the logits by the temperature": of(LOGITS, **(limits | {"temperature": 1.0})),
        "the logits are divided by the temperature, not multiplied": of(
            LOGITS, **(limits | {"temperature": 1 / temperature})
        ),
        "the temperature comes first, before the filters": of(early, temperature=temperature),
        "the filters are not applied": of(LOGITS, temperature=temperature),
        "the temperature has no effect": warm,
    }
    if "top_k" in fields and "top_p" in fields:
        late = top_k(top_p([x / temperature for x in LOGITS], fields["top_p"]), fields["top_k"])
        causes["top-k comes before top-p: the sums are over the tokens that top-k has kept"] = of(
            late, **{**fields, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        )
    if "min_p" in fields and "top_p" in fields:
        late = top_p(min_p([x / temperature for x in LOGITS], fields["min_p"]), fields["top_p"])
        late = of(late, **{**fields, "temperature": 1.0, "top_p": 1.0, "min_p": 0.0})
        causes["top-p comes before min-p"] = late
    what = f"next_token_probabilities of the shares {SHARES} with {fields}"
    a6.tensor(got, of(LOGITS, **fields), what, causes)


def test_the_order_of_the_steps(implementation, a6):
    for fields in [
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 2, "top_p": 0.6},
        {"temperature": 0.5, "top_p": 0.7},
        {"temperature": 2.0, "top_p": 0.55},
        {"temperature": 0.5, "min_p": 0.2},
        {"temperature": 2.0, "min_p": 0.35},
        {"top_p": 0.8, "min_p": 0.4},
        {"top_p": 0.6, "min_p": 0.4},
        {"top_k": 3, "min_p": 0.21},
        {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "min_p": 0.1},
    ]:
        check_steps(implementation, a6, fields)


def check_greedy(implementation, a6, temperature):
    module = implementation(MODULE)
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [0.0, -1.0, -3.0, -9.0]])
    got = module.next_token_probabilities(logits, settings_of(module, temperature=temperature))
    causes = {
        "of equal logits, the lowest id gets the probability 1": torch.tensor(
            [[0.0, 0.5, 0.5, 0.0], [1.0, 0, 0, 0]]
        ),
        "of equal logits, the lowest id gets the probability 1, not the highest": torch.tensor(
            [[0.0, 0, 1, 0], [1.0, 0, 0, 0]]
        ),
        "temperature 0 must not be divided by: take the largest logit": lambda got: bool(
            got.isnan().any()
        ),
    }
    right = torch.tensor([[0.0, 1, 0, 0], [1.0, 0, 0, 0]])
    what = f"next_token_probabilities of {logits.tolist()} at temperature {temperature}"
    a6.tensor(got, right, what, causes)


def test_greedy(implementation, a6):
    for temperature in [0.0, 1e-45, 1e-40]:
        check_greedy(implementation, a6, temperature)


def check_no_nan(implementation, a6, logits, temperature):
    module = implementation(MODULE)
    settings = settings_of(module, temperature=temperature, top_k=3, top_p=0.9999, min_p=1e-4)
    got = module.next_token_probabilities(torch.tensor([logits]), settings)
    fields = {"temperature": temperature, "top_k": 3, "top_p": 0.9999, "min_p": 1e-4}
    causes = {
        "infinity less infinity, or divided by it: subtract the largest logit before you divide, "
        "in float64": lambda got: bool(got.isnan().any()),
    }
    what = f"next_token_probabilities of {logits} at temperature {temperature}"
    a6.tensor(got, of(logits, **fields), what, causes)


def test_no_nan(implementation, a6):
    for logits, temperature in [
        ([3e38, -3e38, 0.0, 1e38], 1.0),
        ([3e38, -3e38, 0.0, 1e38], 0.01),
        ([-3e38, -3e38, -3e38, -3e38], 0.5),
        ([1.0, 2.0, 1.5, 0.0], 1e-30),
        ([1.0, 2.0, 2.0, 0.0], 1e-37),
        ([1000.0, 999.0, 0.0, -1000.0], 1.0),
        ([-math.inf, 2.0, 1.0, -math.inf], 1e300),
        ([-math.inf, 2.0, 1.0, -math.inf], 0.5),
        ([1.0, 2.0, 3.0, 3e38], 1e30),
    ]:
        check_no_nan(implementation, a6, logits, temperature)


def test_the_type(implementation, a6):
    """Rows of bfloat16 and float64 give float32, computed in float32 at least."""
    module = implementation(MODULE)
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        logits = (a6.random(2, 40, seed=3) * 2).to(dtype)
        before = logits.clone()
        settings = settings_of(module, temperature=0.7, top_p=0.9)
        fields = {"temperature": 0.7, "top_p": 0.9}
        got = module.next_token_probabilities(logits, settings)
        right = torch.cat([of(row, **fields) for row in logits.double().tolist()])
        what = f"next_token_probabilities of {dtype} logits"
        a6.tensor(got, right, what, rtol=1e-4)
        a6.true(torch.equal(logits, before), f"{what} changes the logits that it was given")


def test_no_penalties(implementation, a6):
    module = implementation(MODULE)
    settings = settings_of(
        module, presence_penalty=2.0, repetition_penalty=2.0, logit_bias={0: 5.0}
    )
    got = module.next_token_probabilities(torch.tensor([LOGITS]), settings)
    what = "next_token_probabilities with a bias, which `penalize` adds before"
    a6.tensor(got, torch.tensor([SHARES]), what)
