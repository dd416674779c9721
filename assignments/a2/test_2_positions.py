"""a2.6 to a2.8: rotary frequencies, the rotation, frequencies for longer contexts."""

import math

import pytest
import torch

from lm_course.grading.comparisons import check_raises, check_true
from lm_course.grading.tensor_comparisons import one_rounding

MODULE = "transformer_lm.rotary_embedding"
HALVES = "your pairs are (i, i + head_dim / 2): rotate the adjacent values (2i, 2i + 1)"
OFF_BY_ONE = "the exponent is off by one pair: pair 0 rotates by theta^0 = 1 radian per position"


# a2.6


@pytest.mark.task("a2.6")
def test_frequencies_by_hand(implementation, a2):
    got = implementation(MODULE).rotary_frequencies(8, 10000.0)
    causes = {
        OFF_BY_ONE: torch.tensor([0.1, 0.01, 0.001, 0.0001]),
        "this is theta^(-i / d) for pair i: the exponent is -2i / d": 10.0
        ** -(torch.arange(4) / 2),
        "this is theta^(2i / d): the exponent must be negative": 10.0 ** torch.arange(4),
        "return one frequency for each pair, head_dim / 2 in total": lambda x: x.numel() == 8,
    }
    expected = torch.tensor([1, 0.1, 0.01, 0.001], dtype=torch.float64)
    what = "rotary_frequencies(8, 10000)"
    a2.check(got, expected, what, causes, dtype=torch.float64, atol=0)


@pytest.mark.task("a2.6")
@pytest.mark.parametrize(("head_dim", "theta"), [(128, 500000.0)])
def test_frequencies_by_formula(implementation, a2, head_dim, theta):
    got = implementation(MODULE).rotary_frequencies(head_dim, theta)
    expected = a2.frequencies(head_dim, theta)
    causes = {
        OFF_BY_ONE: expected * theta ** (-2 / head_dim),
        "theta is ignored": a2.frequencies(head_dim, 10000.0),
        "the slowest pair comes first": expected.flip(0),
        "computed in float32: create torch.arange(..., dtype=torch.float64)": expected.float(),
    }
    what = f"rotary_frequencies({head_dim}, {theta:g})"
    a2.check(got, expected, what, causes, dtype=torch.float64, rtol=1e-12, atol=0)


# a2.7


@pytest.mark.task("a2.7")
def test_rotation_by_hand(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(4, 8)
    x = torch.tensor([[1.0, 0, 0, 2]])
    position = torch.tensor([3])
    expected = torch.tensor(
        [[math.cos(3), math.sin(3), -2 * math.sin(0.03), 2 * math.cos(0.03)]], dtype=torch.float64
    )
    causes = {
        HALVES: a2.rotate(x, position, pairs="halves"),
        "rotated in the other direction: (a, b) becomes (a cos - b sin, a sin + b cos)": (
            a2.rotate(x, -position)
        ),
        OFF_BY_ONE: a2.rotate(x, position, a2.frequencies(4) / 100),
        "the given positions are ignored": a2.rotate(x, torch.tensor([0])),
        "rotated by position + 1: positions count from 0": a2.rotate(x, position + 1),
    }
    a2.check(rotary(x, position), expected, "the rotation of [1, 0, 0, 2] at position 3", causes)


@pytest.mark.task("a2.7")
@pytest.mark.parametrize("head_dim", [6])
def test_rotation_by_formula(implementation, a2, head_dim):
    rotary = implementation(MODULE).RotaryEmbedding(head_dim, 50, 1000.0)
    x = a2.random(2, 3, 5, head_dim)
    positions = torch.tensor([7, 0, 49, 7, 12])
    causes = {
        HALVES: a2.rotate(x, positions, 1000.0, pairs="halves"),
        "the given positions are ignored: row i was rotated by i": (
            a2.rotate(x, torch.arange(5), 1000.0)
        ),
        "rotated in the other direction": a2.rotate(x, -positions, 1000.0),
        OFF_BY_ONE: a2.rotate(
            x, positions, a2.frequencies(head_dim, 1000.0) * 1000 ** (-2 / head_dim)
        ),
        "theta is ignored": a2.rotate(x, positions, 10000.0),
        "rotated along the axis of the heads, not of the sequence": lambda got: False,
    }
    what = f"the rotation of vectors of {head_dim} values at positions [7, 0, 49, 7, 12]"
    a2.check(rotary(x, positions), a2.rotate(x, positions, 1000.0), what, causes, atol=1e-5)


@pytest.mark.task("a2.7")
def test_every_sequence_may_have_its_own_positions(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(8, 50)
    x = a2.random(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [30, 31, 40, 41]])[:, None]  # [batch, 1, seq]
    first = a2.rotate(x, positions[:1])
    causes = {"the first sequence's positions are used for all": first}
    what = "the rotation with positions of shape [2, 1, 4] and x of shape [2, 3, 4, 8]"
    a2.check(rotary(x, positions), a2.rotate(x, positions), what, causes, atol=1e-5)


@pytest.mark.task("a2.7")
def test_products_depend_on_the_distance_alone(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(16, 200)
    q, k = a2.random(1, 16), a2.random(1, 16, seed=1)

    def product(at_q, at_k):
        turned = rotary(q, torch.tensor([at_q])) * rotary(k, torch.tensor([at_k]))
        return turned.sum().detach()

    for first, second in (((5, 2), (105, 102)), ((9, 9), (0, 0)), ((0, 60), (139, 199))):
        what = f"q k at positions {second} (equal to that at {first})"
        a2.check(product(*second), product(*first).double(), what, atol=1e-4)
    size = rotary(q, torch.tensor([77])).norm()
    a2.check(size, q.norm().double(), "the length of a rotated vector", atol=1e-5)
    apart = abs(product(5, 2) - product(5, 3))
    check_true(apart > 1e-3, "q k is the same at distances 2 and 3: is anything rotated?")


@pytest.mark.task("a2.7")
def test_far_positions_are_exact(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(8, 131_072)
    positions = torch.tensor([131_071, 100_003, 99_999])
    x = torch.ones(3, 8)
    in_float32 = positions.float()[:, None] * a2.frequencies(8).float()
    cos, sin = in_float32.cos(), in_float32.sin()
    causes = {
        "the angles were computed in float32, which is off by 0.01 radian here: use float64": (
            lambda got: (got[:, 0::2] - (cos - sin)).abs().max() < 0.02
        )
    }
    what = "the rotation of vectors at positions from 99,999 on"
    a2.check(rotary(x, positions), a2.rotate(x, positions), what, causes, atol=2e-6)


@pytest.mark.task("a2.7")
def test_the_type_stays(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(64, 500)
    x = a2.random(2, 200, 64).bfloat16()
    positions = torch.arange(300, 500)
    got = rotary(x, positions)
    what = "RotaryEmbedding of bfloat16, which must be right to one rounding,"
    causes = {
        "computed in bfloat16: rotate x.float(), and convert back to x's type at the end": (
            lambda got: (got.double() - a2.rotate(x, positions)).abs().max() < 0.1
        )
    }
    expected = a2.rotate(x, positions)
    a2.check(
        got,
        expected,
        what,
        causes,
        dtype=torch.bfloat16,
        rtol=one_rounding(expected, torch.bfloat16),
        atol=1e-5,
    )


@pytest.mark.task("a2.7")
def test_a_module_in_bfloat16_keeps_its_tables(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(64, 4096).bfloat16()
    x = a2.random(2, 50, 64)
    positions = torch.arange(4000, 4050)
    what = "the rotation of float32 vectors by a module on which .bfloat16() was called"
    causes = {
        "the tables were rounded to bfloat16 with the module: keep them where .bfloat16() does not "
        "reach, as plain attributes": lambda got: (
            (got.double() - a2.rotate(x, positions)).abs().max() < 0.1
        )
    }
    a2.check(rotary(x, positions), a2.rotate(x, positions), what, causes, atol=2e-6)


@pytest.mark.task("a2.7")
def test_tables_are_neither_parameters_nor_saved(implementation, a2):
    rotary = implementation(MODULE).RotaryEmbedding(8, 16)
    a2.check_parameters(rotary, {}, "RotaryEmbedding")
    saved = ", ".join(rotary.state_dict())
    check_true(not saved, f"state_dict holds {saved}: keep the tables as plain attributes")


@pytest.mark.task("a2.7")
def test_an_odd_width_is_refused(implementation):
    rotary = implementation(MODULE).RotaryEmbedding
    check_raises(ValueError, lambda: rotary(7, 16), "head_dim = 7, which has no pairs,", ["7"])


# a2.8


def scaling_of(implementation, **values):
    return implementation("transformer_lm.model_config").RopeScaling(**values)


def rescaled(turns, kind, theta, factor, original, low_and_high):
    """Rescale the frequencies pair by pair, as in the handout."""
    low, high = low_and_high
    pairs = len(turns)

    def pair_with(number):
        return pairs * math.log(original / (2 * math.pi * number)) / math.log(theta)

    result = []
    for pair, turn in enumerate(turns.tolist()):
        if kind == "llama3":
            kept = (original * turn / (2 * math.pi) - low) / (high - low)
        elif kind == "yarn":
            first = max(math.floor(pair_with(high)), 0)
            last = min(math.ceil(pair_with(low)), 2 * pairs - 1)
            kept = 1 - (pair - first) / max(last - first, 0.001)
        else:
            kept = 0.0
        kept = min(max(kept, 0.0), 1.0)
        result.append(kept * turn + (1 - kept) * turn / factor)
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.task("a2.8")
@pytest.mark.parametrize(
    ("kind", "head_dim", "theta", "factor", "original"),
    [
        ("llama3", 128, 500000.0, 8.0, 8192),
        ("llama3", 16, 10000.0, 4.0, 512),
        ("yarn", 128, 1000000.0, 4.0, 32768),
        ("yarn", 16, 10000.0, 2.5, 64),  # no pair makes 32 turns: first is clipped to 0
        ("yarn", 8, 10.0, 4.0, 512),  # every pair makes over one turn: last is clipped to 7
    ],
)
def test_rescaled_frequencies(implementation, a2, kind, head_dim, theta, factor, original):
    given = {"linear": {}, "llama3": {"low_frequency_factor": 1, "high_frequency_factor": 4}}
    limits = given.get(kind, {"beta_fast": 32, "beta_slow": 1})
    scaling = scaling_of(
        implementation, kind=kind, factor=factor, original_context_length=original, **limits
    )
    got = implementation(MODULE).rotary_frequencies(head_dim, theta, scaling)
    plain = a2.frequencies(head_dim, theta)
    low_high = {"yarn": (1, 32)}.get(kind, (1, 4))
    expected = rescaled(plain, kind, theta, factor, original, low_high)
    inverse = plain + plain / factor - expected
    causes = {
        "`scaling` is ignored": plain,
        "all pairs are slowed: the fast ones must stay": plain / factor,
        "fast and slow are swapped: keep the fast pairs, and slow the slow ones": inverse,
        "multiplied by the factor: divide, because a longer context needs slower rotation": expected
        * factor**2,
    }
    what = f"rotary_frequencies with {kind}, head_dim {head_dim} and factor {factor:g}"
    a2.check(got, expected, what, causes, dtype=torch.float64, rtol=1e-9, atol=0)


@pytest.mark.task("a2.8")
@pytest.mark.parametrize("given", [None, 1.5], ids=["computed", "given"])
def test_yarn_stretches_queries_and_keys(implementation, a2, given):
    scaling = scaling_of(
        implementation,
        kind="yarn",
        factor=4.0,
        original_context_length=512,
        attention_factor=given,
    )
    rotary = implementation(MODULE).RotaryEmbedding(16, 64, 10000.0, scaling)
    x = a2.random(3, 16)
    positions = torch.tensor([1, 40, 63])
    turns = rescaled(a2.frequencies(16), "yarn", 10000.0, 4.0, 512, (1, 32))
    turned = a2.rotate(x, positions, turns)
    factor = 0.1 * math.log(4) + 1 if given is None else given
    causes = {
        "the cosines and sines are not multiplied by the attention factor": turned,
        "multiplied by the square of the attention factor: multiply cosines and sines once": turned
        * factor**2,
        "multiplied by the root of the attention factor": turned * factor**0.5,
        "the given attention factor is ignored": turned * (0.1 * math.log(4) + 1),
    }
    what = "the rotation of vectors with yarn and factor 4"
    a2.check(rotary(x, positions), turned * factor, what, causes, atol=1e-5)


@pytest.mark.task("a2.8")
def test_other_kinds_do_not_stretch(implementation, a2):
    scaling = scaling_of(
        implementation, kind="llama3", factor=8.0, original_context_length=512, attention_factor=2.0
    )
    rotary = implementation(MODULE).RotaryEmbedding(16, 64, 10000.0, scaling)
    x = a2.random(3, 16)
    got = rotary(x, torch.tensor([1, 40, 63])).norm(dim=-1)
    a2.check(got, x.double().norm(dim=-1), "the length of vectors under llama3", atol=1e-5)
