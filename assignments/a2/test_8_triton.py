"""a2.20 and a2.21: the Triton kernels, run by Triton's interpreter on the CPU.

The checks call them through transformer_lm/kernels/flash_attention.py, which is given. Its tiles
have 64 rows of queries and 32 of keys.
"""

from unittest import mock

import pytest
import torch

MODULE = "transformer_lm.kernels.flash_attention"
FORWARD = "transformer_lm.flash_attention_forward"
BACKWARD = "transformer_lm.flash_attention_backward"
pytestmark = pytest.mark.usefixtures("triton")

# (queries, keys, heads, kv heads, head_dim, causal, window)
CASES = {
    "one-tile": (64, 32, 1, 1, 16, False, None),
    "causal": (128, 64, 1, 1, 16, True, None),
    "head-dim-80": (40, 40, 1, 1, 80, True, None),
    "grouped": (70, 70, 4, 2, 16, True, None),
}


def inputs_of(a2, case, batch=1):
    queries, keys, heads, kv_heads, width, causal, window = CASES[case]
    q = a2.random(batch, heads, queries, width, seed=1)
    k = a2.random(batch, kv_heads, keys, width, seed=2)
    v = a2.random(batch, kv_heads, keys, width, seed=3)
    return q, k, v, {"is_causal": causal, "key_tile": 32, "sliding_window": window}


def lse_of(a2, q, k, options):
    """Return ln(sum(exp(scores))) of every row; -inf if it sees nothing."""
    group = q.shape[1] // k.shape[1]
    wide = k.double().repeat_interleave(group, 1)
    mask = a2.visible(q.shape[2], k.shape[2], options["is_causal"], options["sliding_window"])
    scores = q.double() @ wide.transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.logsumexp(scores.masked_fill(~mask, float("-inf")), -1)


def settings_of(q, k, options):
    """Return the arguments after the tensors in a call of the operators."""
    lengths = q.shape[2], k.shape[2]
    return None, None, *lengths, options["is_causal"], options["sliding_window"] or 0


# a2.20


def run_forward(implementation, a2, q, k, v, options):
    """Return (o, lse) from the kernel of the module under test. The memory after o must stay
    unwritten: on a GPU it would belong to another tensor, and writing to it may crash or not.
    """
    implementation(FORWARD)
    module = implementation(MODULE)
    behind = []
    exactly = torch.empty_like

    def with_room(like):
        made = exactly(like)
        size = 1 + sum((n - 1) * step for n, step in zip(made.shape, made.stride(), strict=True))
        memory = torch.full((size + 4096,), float("nan"), dtype=like.dtype)
        behind.append(memory[size:])
        return memory.as_strided(made.shape, made.stride())

    with mock.patch.object(torch, "empty_like", with_room):
        result = a2.own_error(lambda: module.forward_operator(q, k, v, *settings_of(q, k, options)))
    if any(not rest.isnan().all() for rest in behind):
        raise a2.GradedFailure(
            "the kernel stored beyond the end of o: mask the columns from head_dim on, and the "
            "rows after the last query"
        )
    return result


@pytest.mark.task("a2.20")
def test_kernel_by_hand(implementation, a2):
    """Scores 0, ln 3 and ln 12, as in the example of a2.17."""
    q, k, v = torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 3, 16), torch.zeros(1, 1, 3, 16)
    q[..., 0] = 4.0
    k[0, 0, :, 0] = torch.tensor([1, 3, 12]).log()
    v[0, 0, :, :2] = torch.tensor([[0.0, 4], [8, 0], [4, 8]])
    options = {"is_causal": False, "key_tile": 32, "sliding_window": None}
    o, lse = run_forward(implementation, a2, q, k, v, options)
    causes = a2.forward_causes(q, k, v, options)
    expected = torch.zeros(1, 1, 1, 16)
    expected[..., :2] = torch.tensor([4.5, 6.25])
    a2.check(o, expected, "o for weights 1/16, 3/16 and 12/16", causes)
    a2.check(
        lse[0, 0], torch.tensor([16.0]).log(), "lse for scores 0, ln 3, ln 12 (it must be ln 16)"
    )


@pytest.mark.task("a2.20")
@pytest.mark.parametrize("case", ["causal", "head-dim-80", "grouped"])
def test_kernel_by_formula(implementation, a2, case):
    q, k, v, options = inputs_of(a2, case)
    o, lse = run_forward(implementation, a2, q, k, v, options)
    if options["sliding_window"] is None:
        del options["sliding_window"]
    expected = a2.expected_of(q, k, v, options)
    causes = a2.forward_causes(q, k, v, options)
    causes["o was not stored, or only in part: every program stores its tile of o"] = lambda x: (
        not bool(x.isfinite().all()) and bool(expected.isfinite().all())
    )
    a2.check(o, expected, f"the forward kernel's o ({case})", causes, rtol=1e-4, atol=1e-5)
    options.setdefault("sliding_window", None)
    right = lse_of(a2, q, k, options)
    causes = {
        "this is the logarithm to base 2: convert it to the natural logarithm (times ln 2)": (
            right / 0.6931471805599453
        ),
        "this is the largest score: add the logarithm of the sum": lambda x: bool(
            (x.double() <= right + 1e-4).all()
        ),
    }
    a2.check(lse, right, f"the forward kernel's lse ({case})", causes, rtol=1e-4, atol=1e-5)


@pytest.mark.task("a2.20")
def test_kernel_with_large_scores(implementation, a2):
    q, k, v, options = inputs_of(a2, "causal")
    q, k = 15 * q, 15 * k
    o, _ = run_forward(implementation, a2, q, k, v, options)
    del options["sliding_window"]
    causes = a2.forward_causes(q, k, v, options)
    hint = "exp overflows: subtract the largest score so far first"
    causes[hint] = lambda x: not bool(x.isfinite().all())
    expected = a2.expected_of(q, k, v, options)
    a2.check(o, expected, "o with scores of 1,000", causes, rtol=1e-3, atol=1e-3)


def differently_laid(a2, width=16):
    q = a2.random(2, 40, 4, width, seed=1).transpose(1, 2)
    k = a2.random(2, 40, 2, width, seed=2).transpose(1, 2)
    v = a2.random(2, 2, 40, width, seed=3)
    return q, k, v, {"is_causal": True, "key_tile": 32, "sliding_window": None}


@pytest.mark.task("a2.20")
@pytest.mark.parametrize("width", [16])
def test_kernel_reads_tensors_as_they_lie(implementation, a2, width):
    """Heads made by a transpose have other strides, and a batch adds a first axis; k and v need not
    have the same strides. The last head of a row is followed in memory by the first head of the
    next row, which was stored before: with 24 columns in a tile of 32, storing too many columns
    overwrites it.
    """
    q, k, v, options = differently_laid(a2, width)
    o, _ = run_forward(implementation, a2, q, k, v, options)
    del options["sliding_window"]
    causes = a2.forward_causes(q, k, v, options)
    hint = "the tensor was read as if it were contiguous: use the given strides"
    if width == 24:
        hint = f"{hint}; or columns from head_dim on were stored too"
    causes[hint] = lambda x: True
    expected = a2.expected_of(q, k, v, options)
    a2.check(o, expected, "o of transposed heads, batch 2", causes, rtol=1e-4, atol=1e-5)


# Rows of each packed sequence: (queries, keys).
PACKED = {
    "as-many-keys": ([10, 70, 1], [10, 70, 1]),
    "more-keys": ([10, 70, 1], [25, 90, 40]),
}


def packed_case(a2, name):
    """Return q, k, v as [1, heads, rows, 16], the boundaries of both, and the longest lengths."""
    counts = PACKED[name]
    q, k, v = (
        a2.random(1, heads, sum(counts[which]), 16, seed=seed)
        for seed, (which, heads) in enumerate([(0, 2), (1, 1), (1, 1)])
    )
    borders = [torch.tensor([0, *x], dtype=torch.int32).cumsum(0).int() for x in counts]
    return q, k, v, borders, [max(x) for x in counts]


def sequence_by_sequence(function, q, k, v, borders):
    """Return function(q, k, v) of each packed sequence, joined along the rows."""
    queries, keys = (x.tolist() for x in borders)
    parts = []
    for number in range(len(queries) - 1):
        rows, key_rows = slice(*queries[number : number + 2]), slice(*keys[number : number + 2])
        parts.append(function(q[:, :, rows], k[:, :, key_rows], v[:, :, key_rows]))
    return torch.cat(parts, 2)


@pytest.mark.task("a2.20")
@pytest.mark.parametrize("name", ["more-keys"])
def test_kernel_on_packed_sequences(implementation, a2, name):
    implementation(FORWARD)
    module = implementation(MODULE)
    q, k, v, borders, longest = packed_case(a2, name)
    rows = [x[0].transpose(0, 1) for x in (q, k, v)]
    got = a2.own_error(
        lambda: module.flash_attention_varlen(*rows, *borders, *longest, is_causal=True)
    )
    expected = sequence_by_sequence(
        lambda *x: a2.expected_of(*x, {"is_causal": True}), q, k, v, borders
    )
    what = f"o of packed sequences of {PACKED[name][0]} queries and {PACKED[name][1]} keys"
    a2.check(got, expected[0].transpose(0, 1), what, rtol=1e-4, atol=1e-5)


# a2.21


@pytest.mark.task("a2.21")
@pytest.mark.parametrize("case", ["one-tile", "grouped"])
def test_gradient_kernels_by_formula(implementation, a2, case):
    q, k, v, options = inputs_of(a2, case)
    settings = settings_of(q, k, options)
    lse = lse_of(a2, q, k, options).float()
    if options["sliding_window"] is None:
        del options["sliding_window"]
    grad = a2.random(*q.shape, seed=4)
    o = a2.expected_of(q, k, v, options).float()
    wide = [x.double() for x in (q, k, v)]
    expected = a2.gradients(lambda *x: a2.expected_of(*x, options), wide, grad.double())
    wrong = a2.wrong_gradients(q, k, v, options, grad)
    implementation(BACKWARD)
    module = implementation(MODULE)
    found = a2.own_error(lambda: module.backward_operator(grad, q, k, v, o, lse, *settings))
    a2.check_gradients(found, expected, wrong, case, rtol=1e-4, atol=1e-4)


@pytest.mark.task("a2.21")
@pytest.mark.parametrize("name", ["as-many-keys"])
def test_gradient_kernels_on_packed_sequences(implementation, a2, name):
    q, k, v, borders, longest = packed_case(a2, name)
    options = {"is_causal": True, "key_tile": 32, "sliding_window": None}

    def attend(*tensors):
        tensors = [x.double() for x in tensors]
        return a2.expected_of(*tensors, {"is_causal": True})

    def whole(*tensors):
        return sequence_by_sequence(attend, *tensors, borders)

    grad = a2.random(*q.shape, seed=4)
    o = whole(q, k, v).float()
    lse = sequence_by_sequence(lambda q, k, v: lse_of(a2, q, k, options), q, k, v, borders).float()
    wide = [x.double() for x in (q, k, v)]
    expected = a2.gradients(whole, wide, grad.double())
    implementation(BACKWARD)
    module = implementation(MODULE)
    settings = *borders, *longest, True, 0
    found = a2.own_error(lambda: module.backward_operator(grad, q, k, v, o, lse, *settings))
    what = f"packed sequences of {PACKED[name][0]} queries and {PACKED[name][1]} keys"
    a2.check_gradients(found, expected, {}, what, rtol=1e-4, atol=1e-4)


@pytest.mark.task("a2.21")
def test_backward_from_end_to_end(implementation, a2):
    """Use the operator that autograd knows, with your forward kernel."""
    implementation(BACKWARD)
    module = implementation(MODULE)
    q, k, v, options = inputs_of(a2, "grouped", batch=2)
    del options["sliding_window"]
    grad = a2.random(*q.shape, seed=4)
    found = a2.own_error(
        lambda: a2.gradients(lambda *x: module.flash_attention(*x, True), (q, k, v), grad)
    )
    wide = [x.double() for x in (q, k, v)]
    expected = a2.gradients(lambda *x: a2.expected_of(*x, options), wide, grad.double())
    wrong = a2.wrong_gradients(q, k, v, options, grad)
    a2.check_gradients(found, expected, wrong, "batch 2, grouped", rtol=1e-4, atol=1e-4)
