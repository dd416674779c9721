"""The GPU kernel against the lesson in float64.

The cases run on a GPU where there is one, and everywhere in Triton's interpreter, in a process of
its own: `test_in_the_interpreter` runs this file once more there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")

from inference.compiled.step_tables import step_tables
from inference.kernels.paged_attention_launch import attend_step_on_gpu, tables_on
from inference.paged_attention import paged_attention
from lm_core.user_error import UserError
from lm_course.grading.triton_interpreter import load_interpreter

load_interpreter()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
devices = pytest.mark.parametrize("device", ["cpu"] if INTERPRETED else [ON_GPU])

SIZE, BLOCKS = 4, 40
TABLES = [[5, 0, 9], [17], [3, 2, 1, 8, 11], [20, 4], [7, 23], list(range(39, 23, -1))]
CACHED, NEW = [8, 0, 19, 3, 0, 60], [1, 3, 1, 5, 8, 2]
# The worst error, of values around 1: the narrow types round the weights and the result once each.
WITHIN = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def check(device, heads, kv_heads, head_dim, window, dtype, pool_dtype, tables):
    blocks, cached, new = tables
    step = step_tables(blocks, cached, new, SIZE)
    generator = torch.Generator().manual_seed(1)
    pool = torch.randn(2, BLOCKS, SIZE, kv_heads, head_dim, generator=generator)
    written = torch.zeros(BLOCKS * SIZE, dtype=torch.bool)
    for table, num_keys in zip(blocks, step.num_keys.tolist(), strict=True):
        for position in range(num_keys):
            written[table[position // SIZE] * SIZE + position % SIZE] = True
    pool.flatten(1, 2)[:, ~written] = float("nan")
    pool = pool.to(device, pool_dtype)
    q = torch.randn(sum(new), heads, head_dim, generator=generator).to(device, dtype)
    got = attend_step_on_gpu(q, pool[0], pool[1], tables_on(step, device), window)
    assert got.dtype == dtype
    rounded, row = pool.to(dtype), 0
    for table, before, count in zip(blocks, cached, new, strict=True):
        rows = slice(row, row + count)
        expected = paged_attention(q[rows].double(), *rounded, table, before + count, window)
        error = (got[rows].double() - expected).abs().max()
        assert error < WITHIN[dtype], f"request with {before} + {count} tokens: {error}"
        row += count


@devices
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window"),
    [(4, 2, 8, None), (6, 1, 20, 3), (3, 3, 16, 1), (4, 2, 8, 40)],
)
def test_equal_to_the_lesson(device, heads, kv_heads, head_dim, window):
    tables = TABLES, CACHED, NEW
    check(device, heads, kv_heads, head_dim, window, torch.float32, torch.float32, tables)


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool_dtype", [torch.bfloat16, torch.float32])
def test_types(device, dtype, pool_dtype):
    check(device, 4, 2, 16, None, dtype, pool_dtype, (TABLES, CACHED, NEW))


@devices
def test_decoding_only(device):
    check(device, 8, 2, 16, None, torch.float32, torch.float32, (TABLES, CACHED, [1] * 6))


@devices
def test_a_chunk_of_several_tiles(device):
    """40 queries x 2 heads of a group are more rows than a tile has."""
    tables = [list(range(25, 0, -1)), [30]], [55, 2], [40, 1]
    check(device, 4, 2, 16, 7, torch.float32, torch.float32, tables)
    check(device, 4, 2, 16, None, torch.float32, torch.float32, tables)


@devices
def test_refused(device):
    tables = tables_on(step_tables([[0]], [0], [1], SIZE), device)
    pool = torch.zeros(1, SIZE, 1, 300, device=device)
    with pytest.raises(UserError, match="300"):
        attend_step_on_gpu(torch.zeros(1, 1, 300, device=device), pool, pool, tables)
    with pytest.raises(UserError, match="float64"):
        q = torch.zeros(1, 1, 300, device=device, dtype=torch.float64)
        attend_step_on_gpu(q, pool, pool, tables)


@pytest.mark.skipif(INTERPRETED, reason="is in the interpreter already")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-v", "-x", __file__, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-n", "0"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "test_equal_to_the_lesson" in done.stdout, "the cases were not there"


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from inference.kernels.paged_attention_kernel import paged_attention_kernel

class NoGpu:  # names a GPU to compile for
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0

triton.runtime.driver.set_active(NoGpu())
q, numbers = torch.empty(4, 8, 64, dtype=torch.bfloat16), torch.empty(4, dtype=torch.int32)
compiled = paged_attention_kernel.warmup(
    q, q, q, q, numbers, numbers, numbers, numbers, 4, 128, 0.125, grid=(1,),
    KV_HEADS=2, GROUP=4, WINDOW=100, BLOCK_SIZE=16, HEAD_DIM=64, BLOCK_D=64,
    ROW_TILE=16, KEY_TILE=64,
)
assert "mma" in compiled.asm["ptx"], "no tensor units"
"""


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_the_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
