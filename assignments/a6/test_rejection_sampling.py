"""a6.16: which drafts are accepted, and what is drawn after them."""

from collections import Counter
from itertools import product

import pytest
import torch
from speculative_oracle import accept, pick, uniform

pytestmark = pytest.mark.task("a6.16")
MODULE = "inference.speculative_decoding"
P, Q, LAST = [0.5, 0.375, 0.125], [0.25, 0.25, 0.5], [0.0, 0.0, 1.0]


def rows(*each):
    return torch.tensor(each, dtype=torch.float32).reshape(len(each), -1)


def test_the_residual_of_the_handout(implementation, a6):
    p, q = rows(P, Q)
    causes = {
        "divide by the sum of what is left, so that the result adds up to 1": (p - q).clamp(min=0),
        "what the draft has too much of must become 0, not stay negative": (p - q) / (p - q).sum(),
        "it is target - draft, not draft - target": torch.tensor([0.0, 0.0, 1.0]),
        "absolute values give probability to tokens that the draft has too much of": (
            (p - q).abs() / (p - q).abs().sum()
        ),
        "this is the target itself, as if no draft had been rejected": p,
        "a softmax gives every token a probability": ((p - q).clamp(min=0)).softmax(-1),
    }
    got = implementation(MODULE).residual(p, q)
    a6.tensor(got, torch.tensor([2 / 3, 1 / 3, 0.0]), "residual of the handout", causes)


def test_the_residual_of_equal_distributions(implementation, a6):
    p = torch.tensor([0.1, 0.2, 0.7])
    module = implementation(MODULE)
    causes = {
        "0 divided by 0 is NaN: if nothing is left, return the target": lambda x: x.isnan().any(),
        "if nothing is left, return the target": torch.zeros(3),
        "if nothing is left, return the target, not equal probabilities": torch.full((3,), 1 / 3),
    }
    for draft, what in ((p.clone(), "equal distributions"), (p * 1.0001, "a draft with p < q")):
        got = module.residual(p, draft)
        a6.tensor(got, p, f"residual of {what}", causes)


def test_the_residual_of_nearly_equal_distributions(implementation, a6):
    p, q = torch.tensor([0.5 + 3e-7, 0.5 - 3e-7, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    causes = {
        "this is the target: it is the result only if no token has p > q. A small sum of the "
        "differences is divided by, too": lambda got: torch.allclose(got, p, atol=1e-3),
    }
    got = implementation(MODULE).residual(p, q)
    what = "residual of p = (0.5 + 3e-7, 0.5 - 3e-7, 0) and q = (0.5, 0.5, 0)"
    a6.tensor(got, torch.tensor([1.0, 0.0, 0.0]), what, causes)


ONE = {
    "drafts are accepted with probability p(x) / q(x): the draft has 0.125 / 0.5 = 0.25": [2, 2],
    "the rejected draft is still in the result": lambda got: got[:1] == [2] and len(got) == 2,
    "after a rejection, one token is drawn from the residual": lambda got: got == [],
    "nothing is drawn after the token that replaces a rejected draft": lambda got: len(got) > 1,
    "after a rejection, draw from the residual with the second number of this place": (
        lambda got: len(got) == 1
    ),
}


LAST_ROW = "all drafts were accepted: one more token comes from the last row"
# Draft, numbers, expected, causes.
ONE_DRAFT = {
    "accepted": [
        (2, [(0.2, 0.9), (0.4, 0.4)], [2, 2], {
            LAST_ROW: [2],
            "0.2 is below p(x) / q(x) = 0.125 / 0.5: accepted": lambda got: len(got) == 1}),
        (0, [(0.999, 0.7), (0.4, 0.4)], [0, 2], {
            LAST_ROW: [0],
            "p / q is 2: such a draft is always accepted": lambda got: len(got) == 1}),
    ],
    "rejected": [
        (2, [(0.9, 0.7), (0.4, 0.4)], [1], ONE),
        (2, [(0.25, 0.5), (0.4, 0.4)], [0], {
            "0.25 is not below p(x) / q(x) = 0.25: rejected": [2, 2], **ONE}),
    ],
    "replaced": [
        (2, [(0.3, 0.6), (0.4, 0.4)], [0], {
            "this draws from the target; after a rejection, draw from the residual": [1], **ONE}),
        (2, [(0.9, 0.1), (0.7, 0.7)], [0], {
            "numbers[i] holds both numbers of place i: the first accepts, the second picks": [1],
            **ONE}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("which", ONE_DRAFT)
def test_one_draft(implementation, a6, which):
    module = implementation(MODULE)
    for draft, numbers, expected, causes in ONE_DRAFT[which]:
        got = module.accept_drafts([draft], rows(Q), rows(P, LAST), numbers)
        a6.expect(got, expected, f"accept_drafts of the draft {draft} with {numbers}", causes)


def test_a_draft_that_the_target_excludes(implementation, a6):
    """Random numbers can be exactly 0.0."""
    got = implementation(MODULE).accept_drafts(
        [0], rows([0.5, 0.5]), rows([0.0, 1.0], [1.0, 0.0]), [(0.0, 0.0), (0.0, 0.0)]
    )
    causes = {
        "the target gives the draft the probability 0: rejected, also with the number 0.0; compare "
        "with <": [0, 0],
    }
    a6.expect(got, [1], "accept_drafts of a draft with p = 0 and the number 0.0", causes)


def test_a_number_just_below_one(implementation, a6):
    half, numbers = rows([0.5, 0.5]), [(1 - 2**-30, 0.9), (0.5, 0.5)]
    targets = rows([0.5, 0.5], [0.0, 1.0])
    got = implementation(MODULE).accept_drafts([0], half, targets, numbers)
    causes = {
        "1 - 2**-30 is below p(x) / q(x) = 1: accepted. In float32 the number is 1: compare Python "
        "floats, not tensors of float32": [1],
        LAST_ROW: [0],
    }
    what = "accept_drafts of the draft 0 with p = q = (0.5, 0.5) and the number 1 - 2**-30"
    a6.expect(got, [0, 1], what, causes)


def test_without_drafts(implementation, a6):
    got = implementation(MODULE).accept_drafts([], torch.zeros(0, 3), rows(P), [(0.1, 0.6)])
    causes = {"without drafts, one token comes from the only row of the target": []}
    a6.expect(got, [1], "accept_drafts without drafts, with the number 0.6 for pick", causes)


DRAFTS = [0, 1, 2, 0]
TARGETS = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6]]
WROTE = [[0.5, 0.3, 0.2], [0.2, 0.4, 0.4], [0.1, 0.3, 0.6], [0.8, 0.1, 0.1]]


@pytest.mark.parametrize("rejected_at", [None, 0, 2, 3])
def test_four_drafts(implementation, a6, rejected_at):
    """One draft is rejected; all others have numbers that accept them."""
    ratios = [TARGETS[i][x] / WROTE[i][x] for i, x in enumerate(DRAFTS)]
    targets = [list(row) for row in TARGETS]
    if rejected_at == 0:  # its ratio is above 1
        x = DRAFTS[rejected_at]
        targets[rejected_at] = [0.05 if token == x else 0.475 for token in range(3)]
        ratios[rejected_at] = 0.05 / WROTE[rejected_at][x]
    numbers = [(min(ratio, 1) * 0.9, 0.83 - place / 10) for place, ratio in enumerate(ratios)]
    numbers.append((0.5, 0.35))
    if rejected_at is not None:
        numbers[rejected_at] = min(1, ratios[rejected_at]) * 1.05, numbers[rejected_at][1]
    expected = accept(DRAFTS, WROTE, targets, numbers)
    kept = len(DRAFTS) if rejected_at is None else rejected_at
    assert len(expected) == kept + 1
    got = implementation(MODULE).accept_drafts(DRAFTS, rows(*WROTE), rows(*targets), numbers)
    causes = {
        "the first rejection was noticed one place too late": (
            lambda got: len(got) == kept + 2 and got[: kept + 1] == DRAFTS[: kept + 1]
        ),
        "drafts after the first rejected one were kept": lambda got: len(got) > kept + 1,
        "all drafts were accepted: one more token comes from the last row": (
            lambda got: got == DRAFTS
        ),
        "a draft was rejected that should have been accepted: is its row that of its place?": (
            lambda got: len(got) <= kept and got[:-1] == DRAFTS[: len(got) - 1]
        ),
        "after a rejection, draw from the residual": [
            *DRAFTS[:kept], pick(targets[kept], numbers[kept][1])
        ],
    }  # fmt: skip
    what = "all accepted" if rejected_at is None else f"draft {rejected_at} rejected"
    a6.expect(got, expected, f"accept_drafts of {DRAFTS}, {what}", causes)


BY_LOOKUP = [
    ([1], [0.6, 0.1], [1, 2], {
        "the draft is right: one more token comes from the last row": [1]}),
    ([1], [0.4, 0.1], [0], {
        "drafts of a look-up are compared with the target's own draw": [1, 2],
        "at the first difference, the target's token is the last one": [0, 2],
        "the target's own token takes the place of the wrong draft": []}),
    ([2], [0.1, 0.1], [0], {
        "a draft is not accepted by `number < p(x)`: the number draws a token, and the draft must "
        "equal it": [2, 2]}),
    ([], [0.6], [1], {"without drafts, the target draws one token": []}),
]  # fmt: skip


def test_drafts_of_a_lookup(implementation, a6):
    module = implementation(MODULE)
    for drafts, numbers, expected, causes in BY_LOOKUP:
        targets = rows(P, LAST)[: len(drafts) + 1]
        got = module.accept_lookup(drafts, targets, numbers)
        a6.expect(got, expected, f"accept_lookup of {drafts} with {numbers}", causes)


def test_three_drafts_of_a_lookup(implementation, a6):
    module = implementation(MODULE)
    targets, numbers = TARGETS[:4], [0.6, 0.5, 0.95, 0.3]
    own = [pick(row, number) for row, number in zip(targets, numbers, strict=True)]
    for right in range(4):
        drafts = [token if place < right else (token + 1) % 3 for place, token in enumerate(own)]
        got = module.accept_lookup(drafts[:3], rows(*targets), numbers)
        causes = {
            "tokens after the first wrong draft continue another text": lambda got, right=right: (
                len(got) > right + 1
            ),
            "each place has its own row and number": lambda got: len(got) > 0,
        }
        a6.expect(got, own[: right + 1], f"accept_lookup with {right} right drafts", causes)


# The distribution of whole answers. Three tokens, answers of three: 27 of them.


def row_after(seed, text):
    weights = [1 + int(19 * uniform(seed + 3 * len(text) + sum(text), token)) for token in range(3)]
    return [weight / sum(weights) for weight in weights]


def probability(text):
    made = 1.0
    for place, token in enumerate(text):
        made *= row_after(1, text[:place])[token]
    return made


def check_distribution(a6, counts, what, causes):
    number = sum(counts.values())
    answers = list(product(range(3), repeat=3))
    square = sum((counts[text] - number * probability(text)) ** 2 / (number * probability(text))
                 for text in answers)  # fmt: skip
    # With 26 degrees of freedom, chance gives more than 70 one time in 170,000.
    worst = max(answers, key=lambda text: abs(counts[text] - number * probability(text)))
    a6.true(
        square < 70,
        f"{what}: the distribution of {number:,} answers is not the target's (chi-square "
        f"{square:.0f}; chance gives 26 +- 7)",
        {
            "for example": f"{worst} occurs {counts[worst]} times, expected "
            f"{number * probability(worst):.1f}",
            "likely": causes,
        },
    )


def test_the_distribution_with_a_draft_model(implementation, a6):
    module = implementation(MODULE)
    counts: Counter = Counter()
    known = {text: (row_after(1, text), row_after(5, text), rows(row_after(1, text)))
             for length in range(3) for text in product(range(3), repeat=length)}  # fmt: skip
    for seed in range(500):
        drafts: list[int] = []
        while len(drafts) < 2:
            drafts.append(pick(known[tuple(drafts)][1], uniform(10_000 + seed, len(drafts))))
        before = [(), (drafts[0],), tuple(drafts)]
        wrote = rows(*(known[text][1] for text in before[:2]))
        targets = torch.cat([known[text][2] for text in before])
        numbers = [(uniform(20_000 + seed, i), uniform(30_000 + seed, i)) for i in range(3)]
        text = tuple(module.accept_drafts(drafts, wrote, targets, numbers))
        while len(text) < 3:
            text += (pick(known[text][0], uniform(40_000 + seed, len(text))),)
        counts[text[:3]] += 1
    check_distribution(
        a6,
        counts,
        "accept_drafts",
        "accept with probability min(1, p(x) / q(x)), and draw from the residual after a rejection",
    )


def test_the_distribution_with_a_lookup(implementation, a6):
    module = implementation(MODULE)
    drafts = [1, 2]
    targets = rows(row_after(1, ()), row_after(1, (1,)), row_after(1, (1, 2)))
    counts: Counter = Counter()
    for seed in range(500):
        numbers = [uniform(50_000 + seed, place) for place in range(3)]
        text = tuple(module.accept_lookup(drafts, targets, numbers))
        while len(text) < 3:
            text += (pick(row_after(1, text), uniform(60_000 + seed, len(text))),)
        counts[text[:3]] += 1
    check_distribution(
        a6, counts, "accept_lookup", "compare the target's own draw with the draft, at each place"
    )
