"""Launch the paged attention kernel, with the block tables of a step on the GPU.

Importing this module needs Triton. For tests, with TRITON_INTERPRET=1 in the environment before the
import, the kernel runs on a CPU. What this leaves out: a search for the fastest tiles.
"""

import math
from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from inference.compiled.step_tables import StepTables
from inference.kernels.paged_attention_kernel import paged_attention_kernel
from lm_core.user_error import UserError

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32)
LEAST_ROWS, MOST_ROWS = 16, 64  # of a tile; 16 is the least that tensor cores multiply
LARGEST_HEAD_DIM = 256


@dataclass(frozen=True)
class DeviceTables:
    """`StepTables` in the memory of a device, copied once per step and read by every layer.

    Attributes:
        most_queries: new tokens of the request that has most; on the CPU, for the launch.
    """

    blocks: Int[Tensor, "requests most_blocks"]
    first_rows: Int[Tensor, " requests"]
    num_queries: Int[Tensor, " requests"]
    num_keys: Int[Tensor, " requests"]
    places: Int[Tensor, " tokens"]
    most_queries: int


def tables_on(tables: StepTables, device: torch.device | str) -> DeviceTables:
    """Return the tables on a device."""
    arrays = (
        tables.blocks, tables.first_rows, tables.num_queries, tables.num_keys, tables.places
    )  # fmt: skip
    each = [torch.from_numpy(array).to(device) for array in arrays]
    return DeviceTables(*each, most_queries=int(tables.num_queries.max(initial=0)))


def attend_step_on_gpu(
    q: Float[Tensor, "tokens heads head_dim"],
    key_blocks: Float[Tensor, "blocks block_size kv_heads head_dim"],
    value_blocks: Float[Tensor, "blocks block_size kv_heads head_dim"],
    tables: DeviceTables,
    sliding_window: int | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Return `paged_attention` of every request of a step, in the type of q.

    Args:
        q: the new tokens of all requests, in the order of the tables. The blocks are converted to
            its type, tile by tile, and sums are kept in float32.
        key_blocks, value_blocks: one layer of the pool, contiguous; the keys and values of the new
            tokens are already in it.
        tables: of the step, on the same device.
        sliding_window: see `paged_attention`.

    Raises:
        UserError: a type or a head width that the kernel does not support.
    """
    num_heads, head_dim = q.shape[1:]
    block_size, num_kv_heads = key_blocks.shape[1:3]
    if q.dtype not in FLOAT_TYPES or key_blocks.dtype not in FLOAT_TYPES:
        raise UserError(
            f"q is {q.dtype} and the blocks are {key_blocks.dtype}; expected float16, bfloat16 or "
            "float32"
        )
    if head_dim > LARGEST_HEAD_DIM:
        raise UserError(f"heads of width {head_dim}; the kernel takes at most {LARGEST_HEAD_DIM}")
    assert key_blocks.is_contiguous() and value_blocks.is_contiguous(), "a layer is contiguous"
    q = q.contiguous()
    result = torch.empty_like(q)
    if not q.shape[0]:
        return result
    group = num_heads // num_kv_heads
    rows = tables.most_queries * group
    row_tile = min(max(LEAST_ROWS, triton.next_power_of_2(rows)), MOST_ROWS)
    with torch.cuda.device_of(q):  # Triton launches on the current device, not on q's
        paged_attention_kernel[(len(tables.num_keys), num_kv_heads, triton.cdiv(rows, row_tile))](
            *(q, key_blocks, value_blocks, result),
            *(tables.blocks, tables.first_rows, tables.num_queries, tables.num_keys),
            tables.blocks.shape[1],
            num_kv_heads * head_dim,
            1 / math.sqrt(head_dim),
            KV_HEADS=num_kv_heads,
            GROUP=group,
            WINDOW=sliding_window or 0,
            BLOCK_SIZE=block_size,
            HEAD_DIM=head_dim,
            BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
            ROW_TILE=row_tile,
            KEY_TILE=32 if q.dtype == torch.float32 else 64,
        )
    return result
