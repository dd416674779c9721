"""The GPU kernels against the formula in float64.

The cases run on a GPU where there is one, and everywhere in Triton's interpreter. That has to be
switched on before Triton is imported, so `test_in_the_interpreter` runs this file once more in a
process of its own, where the cases are there for "cpu".
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")

from lm_course.grading.triton_interpreter import load_interpreter
from transformer_lm import attention_cost
from transformer_lm.kernels.flash_attention import (
    backward_operator,
    flash_attention,
    flash_attention_varlen,
    forward_operator,
)
from transformer_lm.kernels.flash_attention_tiles import tuned_forward
from transformer_lm.tiled_attention import VisibleKeys, tiled_attention

interpreter = load_interpreter()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
devices = pytest.mark.parametrize("device", ["cpu"] if INTERPRETED else [ON_GPU])

# How many roundings of the largest value a result may be off. Sums are kept in float32, so that
# type collects the errors of long sums; the narrow types round P, dS, o and the result once each.
ROUNDINGS = {torch.float32: 16, torch.bfloat16: 4, torch.float16: 4}


def attention_in_float64(q, k, v, is_causal, window=None):
    """The formula, with grouped heads written out; a query that sees nothing gives 0."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    queries, keys = scores.shape[-2:]
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
    if is_causal:
        allowed = allowed.tril(keys - queries)
    if window is not None:
        allowed = allowed.triu(keys - queries - window + 1)
    weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), -1)
    return weights.masked_fill(~allowed.any(-1, keepdim=True), 0) @ v


def with_gradients(attention, q, k, v, grad):
    """The result, and the gradients of q, k and v."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    o = attention(*leaves)
    return {
        "o": o.detach(),
        **dict(zip(("dq", "dk", "dv"), torch.autograd.grad(o, leaves, grad), strict=True)),
    }


def assert_all_near(found, expected):
    """Every element of o, dq, dk and dv within ROUNDINGS of the largest of all four."""
    scale = max([1.0, *(x.abs().max().item() for x in expected.values() if x.numel())])
    for what, right in expected.items():
        if not right.numel():
            continue
        got, roundings = found[what], ROUNDINGS[found[what].dtype]
        eps = torch.finfo(got.dtype).eps
        error = (got.double() - right).abs().nan_to_num(math.inf)
        place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
        assert error[place] <= roundings * eps * scale, (
            f"{what}{list(place)}: expected {right[place]:.8g}, got {got[place]:.8g}; off by "
            f"{error[place] / (eps * scale):.3g} roundings of {scale:.3g} (one is {eps:.1g} of "
            f"it), allowed {roundings}"
        )


def inputs(queries, keys, heads, kv_heads, head_dim, dtype, device, batch=1):
    """Heads made by a transpose, as a model makes them: no head's rows lie together."""
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    shapes = [(queries, heads), (keys, kv_heads), (keys, kv_heads), (queries, heads)]
    return [
        torch.randn(batch, rows, h, head_dim, generator=generator).to(device, dtype).transpose(1, 2)
        for rows, h in shapes
    ]


def compare(q, k, v, grad, is_causal, window=None):
    found = with_gradients(lambda *x: flash_attention(*x, is_causal, window), q, k, v, grad)
    expected = with_gradients(
        lambda *x: attention_in_float64(*x, is_causal, window),
        *(x.double() for x in (q, k, v, grad)),
    )
    assert all(x.dtype == q.dtype for x in found.values())
    assert_all_near(found, expected)


@devices
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "kv_heads", "head_dim", "is_causal"),
    [
        (1, 1, 2, 1, 16, True),
        (1, 1, 1, 1, 80, False),
        (17, 17, 2, 1, 64, True),
        (17, 17, 2, 2, 80, False),
        (17, 17, 1, 1, 128, True),
        (64, 64, 2, 1, 80, True),
        (64, 64, 2, 1, 64, False),
        (200, 200, 4, 2, 16, True),
        (200, 200, 2, 1, 16, False),
        (200, 200, 1, 1, 80, True),
        (200, 200, 1, 1, 64, False),
        # the queries are the last positions of the keys; with fewer keys, the first see nothing
        (1, 200, 4, 2, 64, True),
        (17, 200, 2, 1, 16, True),
        (100, 200, 2, 1, 16, False),
        (200, 17, 2, 1, 16, True),
        (200, 90, 2, 1, 16, False),
        (5, 0, 2, 1, 16, False),
        (0, 5, 2, 1, 16, True),
    ],
)
def test_equals_the_formula(queries, keys, heads, kv_heads, head_dim, is_causal, device):
    compare(*inputs(queries, keys, heads, kv_heads, head_dim, torch.float32, device), is_causal)


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("queries", "keys", "head_dim", "is_causal"),
    [(17, 17, 80, True), (64, 64, 16, False), (100, 150, 64, True)],
)
def test_narrow_types(queries, keys, head_dim, is_causal, dtype, device):
    compare(*inputs(queries, keys, 2, 1, head_dim, dtype, device), is_causal)


@devices
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4)])
def test_grouped_heads_of_several_sequences(heads, kv_heads, device):
    compare(*inputs(20, 20, heads, kv_heads, 16, torch.float32, device, batch=2), True)


@devices
@pytest.mark.parametrize(
    ("queries", "keys", "window"),
    [(200, 200, 1), (200, 200, 40), (200, 200, 97), (60, 200, 33), (200, 60, 33)],
)
def test_sliding_windows(queries, keys, window, device):
    compare(*inputs(queries, keys, 2, 1, 16, torch.float32, device), True, window)


@devices
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(
    ("query_lengths", "key_lengths"),
    [((5, 0, 1, 70, 40), (5, 0, 1, 70, 40)), ((1, 33, 0, 4), (50, 33, 7, 0))],
)
def test_packed_sequences(query_lengths, key_lengths, is_causal, device):
    q, k, v, grad = (
        x[0].transpose(0, 1)  # [all rows, heads, head_dim]
        for x in inputs(sum(query_lengths), sum(key_lengths), 4, 2, 16, torch.float32, device)
    )
    q_ends, k_ends = (
        torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
        for lengths in (query_lengths, key_lengths)
    )
    sizes = q_ends, k_ends, max(query_lengths), max(key_lengths)

    def one_by_one(q, k, v):
        parts = zip(*(x.split(n) for x, n in ((q, query_lengths), (k, key_lengths))), strict=True)
        values = v.split(key_lengths)
        rows = [
            attention_in_float64(*(x.transpose(0, 1)[None] for x in (*part, value)), is_causal)
            for part, value in zip(parts, values, strict=True)
        ]
        return torch.cat(rows, dim=2)[0].transpose(0, 1)

    found = with_gradients(lambda *x: flash_attention_varlen(*x, *sizes, is_causal), q, k, v, grad)
    assert_all_near(found, with_gradients(one_by_one, *(x.double() for x in (q, k, v, grad))))


@devices
def test_a_query_that_sees_nothing_gives_zero_and_no_nan(device):
    q, k, v, _ = inputs(70, 3, 2, 1, 16, torch.float32, device)
    o, lse = forward_operator(q, k, v, None, None, 70, 3, True, 0)
    assert o[:, :, :67].count_nonzero() == 0 and (lse[:, :, :67] == -math.inf).all()
    assert o.isfinite().all() and lse[:, :, 67:].isfinite().all()


@devices
def test_the_saved_sum_is_the_natural_logarithm(device):
    q, k, v, _ = inputs(40, 40, 2, 2, 16, torch.float32, device)
    _, lse = forward_operator(q, k, v, None, None, 40, 40, False, 0)
    expected = torch.logsumexp(q.double() @ k.double().mT / 4, -1)
    torch.testing.assert_close(lse.double(), expected, atol=4e-6, rtol=0)


@devices
def test_huge_scores_do_not_overflow(device):
    q = torch.full((1, 1, 40, 16), 1e3, device=device).requires_grad_()
    result = flash_attention(q, q, q, True)
    torch.testing.assert_close(result, q, atol=0, rtol=1e-6)
    result.sum().backward()
    assert q.grad.isfinite().all()


@devices
def test_what_is_kept_for_backward_has_no_table(device):
    kept = []
    q, k, v, _ = inputs(100, 100, 1, 1, 16, torch.float32, device)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        flash_attention(q.requires_grad_(), k, v, True)
    assert sorted(x.numel() for x in kept) == [100, 1600, 1600, 1600, 1600]  # lse; q, k, v, o


@devices
def test_a_gradient_that_is_spread_out_or_transposed(device):
    q, k, v, _ = inputs(20, 20, 2, 1, 16, torch.float32, device)
    grad = torch.ones((), device=device).expand(1, 2, 20, 16)
    compare(q, k, v, grad, True)
    compare(q, k, v, torch.randn(1, 2, 16, 20, device=device).mT, True)


@pytest.mark.usefixtures("unchecked_types")
@devices
def test_autograd_and_the_compiler_see_one_operator(device):
    q, k, v, _ = inputs(5, 5, 2, 1, 16, torch.float32, device)
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(forward_operator, (*leaves, None, None, 5, 5, True, 0), test_utils=checks)
    o, lse = forward_operator(q, k, v, None, None, 5, 5, True, 0)
    torch.library.opcheck(
        backward_operator, (o, q, k, v, o, lse, None, None, 5, 5, True, 0), test_utils=checks
    )
    compiled = torch.compile(flash_attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*leaves, True), flash_attention(*leaves, True))


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_inputs_are_refused():
    q, k, v, _ = inputs(4, 4, 4, 2, 16, torch.float32, "cpu")
    with pytest.raises(ValueError, match="float64"):
        flash_attention(q.double(), k.double(), v.double())
    with pytest.raises(ValueError, match="of one type"):
        flash_attention(q.half(), k, v)
    with pytest.raises(ValueError, match="do not belong together"):
        flash_attention(q, k[..., :8], v)
    with pytest.raises(ValueError, match="3 query heads for 2 key heads"):
        flash_attention(q[:, :3], k, v)
    with pytest.raises(ValueError, match="is_causal=True"):
        flash_attention(q, k, v, sliding_window=3)
    three, two = torch.zeros(3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    with pytest.raises(ValueError, match="2 sequences and cu_seqlens_k of 1"):
        flash_attention_varlen(q[0], k[0], v[0], three, two, 4, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("queries", "keys"), [(1024, 1024), (777, 1531), (1, 4096)])
def test_large_shapes_on_a_gpu(queries, keys, head_dim, dtype):
    compare(*inputs(queries, keys, 8, 2, head_dim, dtype, "cuda", batch=2), True)
    compare(*inputs(queries, keys, 8, 2, head_dim, dtype, "cuda", batch=2), False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_equal_runs_give_equal_bits_on_a_gpu():
    tensors = inputs(1000, 1000, 8, 2, 64, torch.bfloat16, "cuda", batch=2)
    first, second = (with_gradients(lambda *x: flash_attention(*x, True), *tensors) for _ in "ab")
    assert all(torch.equal(first[what], second[what]) for what in first)


@devices
def test_kernels_and_lesson_agree(device):
    q, k, v, _ = inputs(100, 130, 4, 2, 16, torch.float32, device)
    lesson = tiled_attention(q, k, v, True, sliding_window=50)
    kernels = flash_attention(q, k, v, True, sliding_window=50)
    torch.testing.assert_close(kernels, lesson, atol=2e-6, rtol=0)


@pytest.mark.skipif(not INTERPRETED, reason="counts in the interpreter")
@pytest.mark.parametrize(
    ("queries", "keys", "is_causal", "window"),
    [(150, 150, True, None), (100, 150, False, None), (150, 150, True, 40)],
)
def test_kernels_move_the_bytes_that_are_counted(queries, keys, is_causal, window, monkeypatch):
    builder, moved = interpreter.InterpreterBuilder, {"read": 0, "written": 0}
    load, store = builder.create_masked_load, builder.create_masked_store

    def counting_load(self, pointers, mask, *others):
        result = load(self, pointers, mask, *others)
        moved["read"] += int(mask.data.sum()) * result.data.itemsize
        return result

    def counting_store(self, pointers, value, mask, *others):
        moved["written"] += int(mask.data.sum()) * value.data.itemsize
        return store(self, pointers, value, mask, *others)

    q, k, v, grad = inputs(queries, keys, 1, 1, 16, torch.float32, "cpu")
    settings = None, None, queries, keys, is_causal, window or 0
    visible = VisibleKeys(queries, keys, is_causal, window)
    shape = 16, *(tuned_forward.configs[0].kwargs[name] for name in ("QUERY_TILE", "KEY_TILE")), 4
    monkeypatch.setattr(builder, "create_masked_load", counting_load)
    monkeypatch.setattr(builder, "create_masked_store", counting_store)
    o, lse = forward_operator(q, k, v, *settings)
    forward = attention_cost.flash_forward(visible, *shape)
    assert moved == {"read": forward.bytes_read, "written": forward.bytes_written}
    moved.update(read=0, written=0)
    backward_operator(grad, q, k, v, o, lse, *settings)
    backward = attention_cost.flash_backward_in_two_kernels(visible, *shape)
    assert moved == {"read": backward.bytes_read, "written": backward.bytes_written}


@pytest.mark.skipif(INTERPRETED, reason="is in the interpreter already")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-v", "-x", __file__, "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "test_equals_the_formula" in done.stdout, "the cases were not there"


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from transformer_lm.kernels.flash_attention import Launch
from transformer_lm.kernels import flash_attention_tiles as tiles

class NoGpu:  # names a GPU to compile for
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0

triton.runtime.driver.set_active(NoGpu())
q, k = (torch.empty(1, h, 128, 80, dtype=torch.bfloat16) for h in (4, 2))
row = torch.empty(1, 4, 128)
launch = Launch(q, k, None, None, 128, 128, True, 0)
for kernel, tensors, strided, heads in (
    (tiles.tuned_forward, (q, k, k, q, row), (q, k, k, q, row), "HEADS"),
    (tiles.tuned_key_gradient, (q, k, k, q, row, row, k, k), (q, k, k, q, row, k, k), "KV_HEADS"),
    (tiles.tuned_query_gradient, (q, k, k, q, row, row, q), (q, k, k, q, row, q), "HEADS"),
):
    config = kernel.configs[0]
    compiled = kernel.fn.warmup(
        *tensors, launch.strides(*strided), *launch.sizes, grid=(1,),
        **{heads: 4}, **launch.mask, **launch.constants, **config.all_kwargs(),
    )
    assert "mma" in compiled.asm["ptx"], "no tensor units"
    assert "cp.async.cg.shared.global" in compiled.asm["ptx"], "not in pieces of 16 bytes"
    assert compiled.metadata.shared <= tiles.shared_bytes(config, 128 * 2)
"""


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    # The interpreter lets pass much that the compiler refuses.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
