"""a2.17 and a2.18: attention by tiles, forward and backward."""

import math

import pytest
import torch

from lm_course.containment.counted_work import TensorCounter, saved_values, watched
from lm_course.grading.comparisons import check_raises, check_true
from lm_course.grading.tensor_comparisons import one_rounding

MODULE = "transformer_lm.tiled_attention"

pytestmark = pytest.mark.usefixtures("gradients_loaded")

# (queries, keys, heads, kv heads, head_dim, width of v, causal, query tile, key tile, window)
CASES = {
    "causal": (32, 32, 2, 2, 16, 16, True, 16, 16, None),
    "ragged": (37, 37, 1, 1, 8, 8, False, 16, 16, None),
    "more-keys-causal": (9, 40, 1, 1, 8, 8, True, 4, 16, None),
    "head-dim-80": (20, 20, 1, 1, 80, 80, True, 16, 16, None),
    "grouped": (20, 20, 6, 2, 8, 8, True, 16, 16, None),
}
cases = pytest.mark.parametrize("case", CASES)


def inputs_of(a2, case, dtype=torch.float32, batch=2):
    """Return q, k, v, and the other arguments of tiled_attention."""
    queries, keys, heads, kv_heads, width, d_v, causal, *tiles, window = CASES[case]
    q = a2.random(batch, heads, queries, width, seed=1, dtype=dtype)
    k = a2.random(batch, kv_heads, keys, width, seed=2, dtype=dtype)
    v = a2.random(batch, kv_heads, keys, d_v, seed=3, dtype=dtype)
    options = {"is_causal": causal, "query_tile": tiles[0], "key_tile": tiles[1]}
    return q, k, v, options | ({"sliding_window": window} if window else {})


# a2.17


@pytest.mark.task("a2.17")
def test_tiles_by_hand(implementation, a2):
    """Three keys in tiles of one, with growing scores: 0, ln 3, ln 12."""
    q = torch.tensor([2.0, 0, 0, 0]).view(1, 1, 1, 4)
    k = torch.zeros(1, 1, 3, 4)
    k[0, 0, :, 0] = torch.tensor([1, 3, 12]).log()
    v = torch.tensor([[0.0, 4], [8, 0], [4, 8]]).view(1, 1, 3, 2)
    options = {"is_causal": False, "query_tile": 1, "key_tile": 1}
    got = implementation(MODULE).tiled_attention(q, k, v, **options)
    causes = a2.forward_causes(q, k, v, options)
    what = "tiled_attention of three keys with weights 1/16, 3/16, 12/16 (the handout's example)"
    a2.check(got, torch.tensor([[[[4.5, 6.25]]]]), what, causes)


@pytest.mark.task("a2.17")
@cases
def test_tiles_by_formula(implementation, a2, case):
    q, k, v, options = inputs_of(a2, case)
    got = implementation(MODULE).tiled_attention(q, k, v, **options)
    expected = a2.expected_of(q, k, v, options)
    causes = a2.forward_causes(q, k, v, options)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    what = f"tiled_attention of {shapes} with {options}"
    a2.check(got, expected, what, causes, atol=1e-5)


@pytest.mark.task("a2.17")
def test_scores_that_grow_and_fall(implementation, a2):
    q = torch.full((1, 1, 1, 4), 20.0)
    for name, direction in (("grow", 1.0), ("fall", -1.0)):
        k = direction * torch.linspace(-10, 10, 48).view(1, 1, 48, 1).expand(1, 1, 48, 4)
        v = a2.random(1, 1, 48, 4)
        options = {"is_causal": False, "query_tile": 8, "key_tile": 8}
        got = implementation(MODULE).tiled_attention(q, k, v, **options)
        causes = a2.forward_causes(q, k, v, options)
        hint = "exp overflows: subtract the largest score so far first"
        causes[hint] = lambda x: not bool(x.isfinite().all())
        what = f"tiled_attention where scores {name} from tile to tile, to 400"
        a2.check(got, a2.attend(q, k, v), what, causes, rtol=1e-4, atol=1e-5)


@pytest.mark.task("a2.17")
def test_queries_that_see_nothing(implementation, a2):
    q, k, v = a2.random(1, 1, 7, 4), a2.random(1, 1, 3, 4, seed=1), a2.random(1, 1, 3, 4, seed=2)
    got = implementation(MODULE).tiled_attention(q, k, v, is_causal=True, query_tile=2, key_tile=2)
    causes = {
        "-inf - -inf is NaN: subtract 0 while a row has not seen any key": (
            lambda x: bool(x.isnan().any())
        )
    }
    what = "the result of 7 causal queries over 3 keys, where the first 4 see nothing and give 0,"
    a2.check(got, a2.attend(q, k, v, a2.visible(7, 3)), what, causes, atol=1e-5)


def memory_case(a2, length=1024, batch=1):
    return [a2.random(batch, 1, length, 16, seed=seed) for seed in range(3)]


def no_table(rows, what):
    """Fail if the block makes a tensor larger than twice q, whose number of values is `rows`, or
    keeps as much elsewhere. 1,024 by 1,024 scores would be 4 MB.
    """
    hint = ": with these tiles, nothing larger than q, k and v is needed"
    return watched(
        what,
        forbidden=["scaled_dot_product_attention"],
        largest_tensor=2 * rows,
        largest_outside=1 << 19,
        hint=hint,
    )


@pytest.mark.task("a2.17")
@pytest.mark.parametrize(
    ("causal", "tiles"),
    [(False, (64, 64)), (True, (64, 64)), (False, (1024, 16)), (False, (16, 1024))],
    ids=["all", "causal", "tall", "wide"],
)
def test_the_table_is_never_built(implementation, a2, causal, tiles):
    tiled_attention = implementation(MODULE).tiled_attention
    tiled_attention(*memory_case(a2, 8), is_causal=causal)  # loads what it needs
    q, k, v = memory_case(a2)
    with torch.no_grad(), no_table(q.numel(), "tiled_attention of 1,024 tokens") as counter:
        tiled_attention(q, k, v, is_causal=causal, query_tile=tiles[0], key_tile=tiles[1])
    limit = (8 if tiles == (64, 64) else 12) * q.numel() * 4
    check_true(
        counter.peak_bytes <= limit,
        "tiled_attention of 1,024 tokens keeps too many tensors alive at once: drop a tile of "
        "weights after you have added its values",
        {"expected": f"at most {limit:,} bytes", "got": f"{counter.peak_bytes:,} bytes"},
    )


@pytest.mark.task("a2.17")
def test_tiles_that_nobody_sees_are_skipped(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    q, k, v = memory_case(a2, length=512)
    flops = {}
    for causal in (False, True):
        with torch.no_grad(), TensorCounter() as counter:
            tiled_attention(q, k, v, is_causal=causal, query_tile=64, key_tile=64)
        flops[causal] = counter.flops
    share = flops[True] / max(1, flops[False])
    check_true(
        share <= 0.65,
        "causal attention over 8 by 8 tiles needs 36 of the 64 pairs of tiles, 56 % of the "
        "products: skip tiles in which no query sees any key",
        {"expected": "at most 65 %", "got": f"{share:.0%}"},
    )


def check_window_skips(flops):
    """Fail if the window saves too little; `flops` maps a window (None for all) to the FLOPs."""
    share = flops[64] / max(1, flops[None])
    check_true(
        share <= 0.5,
        "a window of 64 leaves 15 of the 36 pairs of tiles of causal attention, 42 %: also skip "
        "tiles that are wholly before the window",
        {"expected": "at most 50 %", "got": f"{share:.0%}"},
    )


@pytest.mark.task("a2.17")
def test_tiles_before_the_window_are_skipped(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    q, k, v = memory_case(a2, length=512)
    flops = {}
    for window in (None, 64):
        with torch.no_grad(), TensorCounter() as counter:
            tiled_attention(q, k, v, True, 64, 64, sliding_window=window)
        flops[window] = counter.flops
    check_window_skips(flops)


@pytest.mark.task("a2.17")
def test_sums_are_kept_in_float32(implementation, a2):
    q, k, v, options = inputs_of(a2, "causal", torch.bfloat16)
    k = a2.random(2, 2, 600, 16, seed=2).bfloat16()
    v = (a2.random(2, 2, 600, 16, seed=3) + 2).bfloat16()
    got = implementation(MODULE).tiled_attention(q, k, v, **options)
    expected = a2.expected_of(q, k, v, options)
    causes = {
        "computed in bfloat16: convert each tile to float32, and round the result once": (
            lambda x: (x.double() - expected).abs().max() < 0.3
        )
    }
    what = "tiled_attention of bfloat16, which must be right to one rounding,"
    tolerance = one_rounding(expected, torch.bfloat16)
    a2.check(got, expected, what, causes, dtype=torch.bfloat16, rtol=tolerance, atol=1e-5)


@pytest.mark.task("a2.17")
def test_arguments_that_cannot_be(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    q, k = a2.random(1, 3, 4, 8), a2.random(1, 2, 4, 8)
    check_raises(
        ValueError, lambda: tiled_attention(q, k, k), "3 query heads for 2 key-value heads"
    )
    q = a2.random(1, 2, 4, 8)
    check_raises(
        ValueError,
        lambda: tiled_attention(q, k, k, is_causal=False, sliding_window=2),
        "sliding_window = 2 with is_causal = False",
    )
    check_raises(
        ValueError,
        lambda: tiled_attention(q, k, k, is_causal=True, sliding_window=0),
        "sliding_window = 0",
    )


# a2.18


@pytest.mark.task("a2.18")
def test_gradients_by_hand(implementation, a2):
    """Weights 1/4 and 3/4, a result of [6, 1], and [1, 0] as its gradient."""
    q = torch.tensor([2.0, 0, 0, 0]).view(1, 1, 1, 4)
    k = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]]).view(1, 1, 2, 4)
    v = torch.tensor([[0.0, 4], [8, 0]]).view(1, 1, 2, 2)
    grad = torch.tensor([1.0, 0]).view(1, 1, 1, 2)
    options = {"is_causal": False, "query_tile": 1, "key_tile": 1}
    tiled_attention = implementation(MODULE).tiled_attention
    found = a2.gradients(lambda *x: tiled_attention(*x, **options), (q, k, v), grad)
    expected = [torch.zeros(x.shape) for x in (q, k, v)]
    expected[0][0, 0, 0, 0] = 1.5 * math.log(3) / 2
    expected[1][0, 0, :, 0] = torch.tensor([-1.5, 1.5])
    expected[2][0, 0, :, 0] = torch.tensor([0.25, 0.75])
    wrong = a2.wrong_gradients(q, k, v, options, grad)
    a2.check_gradients(found, expected, wrong, "the handout's example")


@pytest.mark.task("a2.18")
@cases
def test_gradients_by_formula(implementation, a2, case):
    q, k, v, options = inputs_of(a2, case, torch.float64)
    grad = a2.random(*q.shape[:-1], v.shape[-1], seed=4, dtype=torch.float64)
    tiled_attention = implementation(MODULE).tiled_attention
    found = a2.gradients(lambda *x: tiled_attention(*x, **options), (q, k, v), grad)
    expected = a2.gradients(lambda *x: a2.expected_of(*x, options), (q, k, v), grad)
    wrong = a2.wrong_gradients(q, k, v, options, grad)
    options = {"dtype": torch.float64, "rtol": 1e-8, "atol": 1e-10}
    a2.check_gradients(found, expected, wrong, case, **options)


@pytest.mark.task("a2.18")
def test_what_is_kept_for_the_backward_pass(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    tensors = [x.requires_grad_() for x in memory_case(a2, 512)]
    _, kept = saved_values(lambda: tiled_attention(*tensors, True, 64, 64))
    total = sum(math.prod(shape) * count for shape, count in kept.items())
    rows = tensors[0].numel()
    listed = ", ".join(f"{count} of {shape}" for shape, count in sorted(kept.items())[:6])
    sentence = (
        "the forward pass of 512 tokens keeps too much for the backward pass: q, k, v, the result "
        "and one number for each query are enough"
    )
    if total > 512 * 512 / 2:
        sentence += (
            "; it grows with T x T, because automatic differentiation keeps the weights of every "
            "tile: write a torch.autograd.Function"
        )
    details = {"expected": f"at most {5 * rows:,} values", "got": f"{total:,}: {listed}"}
    check_true(total <= 5 * rows, sentence, details)
    check_true(
        total >= 3 * rows,
        "the forward pass keeps too little for the backward pass: keep q, k and v with "
        "ctx.save_for_backward, so that PyTorch knows them",
        details,
    )


@pytest.mark.task("a2.18")
def test_backward_builds_no_table(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    few = [x.requires_grad_() for x in memory_case(a2, 8)]
    tiled_attention(*few, True).sum().backward()  # loads what it needs
    tensors = [x.requires_grad_() for x in memory_case(a2)]
    rows = tensors[0].numel()
    with no_table(rows, "tiled_attention of 1,024 tokens, with its backward pass,") as counter:
        tiled_attention(*tensors, True, 64, 64).sum().backward()
    limit = 16 * rows * 4
    check_true(
        counter.peak_bytes <= limit,
        "forward and backward of 1,024 tokens keep too many tensors alive at once: drop each tile "
        "after its products",
        {"expected": f"at most {limit:,} bytes", "got": f"{counter.peak_bytes:,} bytes"},
    )


@pytest.mark.task("a2.18")
def test_backward_skips_tiles_too(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    flops = {}
    for causal in (False, True):
        tensors = [x.requires_grad_() for x in memory_case(a2, 512)]
        result = tiled_attention(*tensors, causal, 64, 64)
        with TensorCounter() as counter:
            result.sum().backward()
        flops[causal] = counter.flops
    share = flops[True] / max(1, flops[False])
    check_true(
        share <= 0.65,
        "the causal backward pass needs 36 of 64 pairs of tiles, 56 % of the products: skip tiles "
        "in which no query sees any key",
        {"expected": "at most 65 %", "got": f"{share:.0%}"},
    )


@pytest.mark.task("a2.18")
def test_backward_skips_tiles_before_the_window(implementation, a2):
    tiled_attention = implementation(MODULE).tiled_attention
    flops = {}
    for window in (None, 64):
        tensors = [x.requires_grad_() for x in memory_case(a2, 512)]
        result = tiled_attention(*tensors, True, 64, 64, sliding_window=window)
        with TensorCounter() as counter:
            result.sum().backward()
        flops[window] = counter.flops
    check_window_skips(flops)


@pytest.mark.task("a2.18")
def test_dq_is_summed_in_float32(implementation, a2):
    """512 tiles of one key each add 1/512 to dq. In bfloat16 such a sum of equal parts stops
    growing at 256 of them.
    """
    signs = torch.tensor([1.0, -1]).repeat(256).view(1, 1, 512, 1)
    k = (signs * torch.eye(16)[0]).bfloat16()
    q, grad = torch.zeros(1, 1, 2, 16).bfloat16(), torch.eye(16)[:1].expand(1, 1, 2, 16).bfloat16()
    tiled_attention = implementation(MODULE).tiled_attention
    options = {"is_causal": False, "query_tile": 2, "key_tile": 1}
    found = a2.gradients(lambda *x: tiled_attention(*x, **options), (q, k, k), grad)
    expected = torch.zeros(1, 1, 2, 16)
    expected[..., 0] = 0.25  # 512 times 1/512 of the weight, by 1 / sqrt(16)
    causes = {
        "dq is added up in bfloat16: keep it in float32, and round it once at the end": (
            lambda x: x.double().abs().max() < 0.2
        )
    }
    what = "the gradient of q, a sum over 512 tiles of keys,"
    a2.check(found[0], expected, what, causes, dtype=torch.bfloat16, rtol=0.01, atol=1e-4)
