"""The tile sizes, warps and pipeline stages that are tried for the kernels.

On a GPU, the first call with a new head dimension, type, mask or class of lengths times every
choice that fits and keeps the fastest. That takes seconds to minutes, mostly for compiling, so warm
up before you measure and before you capture a CUDA graph. What this leaves out: keeping the choice
for the next process (TRITON_CACHE_AUTOTUNING=1 does that), and a list measured on a GPU: this one
comes from compiling for compute capability 9.0 and leaving out the choices that spill registers.
"""

from typing import Any

import torch
import triton

from transformer_lm.flash_attention_backward import key_gradient_kernel, query_gradient_kernel
from transformer_lm.flash_attention_forward import INTERPRETED, forward_kernel

SHORTEST_WORTH_TUNING = 256  # rows; a shorter call takes what fits first
# For GPUs with little shared memory, and for float32: its products, at full precision, do not run
# on tensor cores, and with tiles of 64 x 64 the compiler spills 8 KB per thread.
SMALL_TILES = (32, 32, 4, 1), (16, 16, 4, 1)


def tile_choices(*choices: tuple[int, int, int, int]) -> list[triton.Config]:
    """Return the configurations of (query tile, key tile, warps, stages).

    The interpreter has neither warps nor stages; its one choice has tiles of different sizes, so
    that tests can tell queries from keys.
    """
    if INTERPRETED.value:
        return [triton.Config({"QUERY_TILE": 64, "KEY_TILE": 32})]
    return [
        triton.Config({"QUERY_TILE": queries, "KEY_TILE": keys}, num_warps=warps, num_stages=stages)
        for queries, keys, warps, stages in (*choices, *SMALL_TILES)
    ]


def shared_bytes(config: triton.Config, row_bytes: int) -> int:
    """Return an upper bound of the shared memory of a block.

    Two tiles stay there (k and v, or q and the gradient; in the forward pass only q), `num_stages`
    pairs of the smaller tiles are in flight, and each row has a few numbers.
    """
    small, large = sorted((config.kwargs["QUERY_TILE"], config.kwargs["KEY_TILE"]))
    tile_rows = 2 * (large + max(config.num_stages, 2) * small)
    return tile_rows * row_bytes + 16 * (large + small)


def tiles_that_fit(
    configs: list[triton.Config], arguments: dict[str, Any], **constants: Any
) -> list[triton.Config]:
    """Return the choices that fit into the shared memory of a block, or else the smallest."""
    q = arguments["q"]
    limit = torch.cuda.get_device_properties(q.device).shared_memory_per_block_optin
    row_bytes = constants["BLOCK_D"] * q.element_size()
    small = configs[-len(SMALL_TILES) :]
    tried = small if q.dtype == torch.float32 else configs[: -len(SMALL_TILES)]
    fitting = [config for config in tried if shared_bytes(config, row_bytes) <= limit]
    fitting = fitting or small[-1:]
    return fitting if arguments["length_class"] > SHORTEST_WORTH_TUNING else fitting[:1]


def tuned(kernel: Any, *choices: tuple[int, int, int, int]) -> Any:
    return triton.autotune(
        tile_choices(*choices),
        key=["length_class", "HEAD_DIM", "GROUP", "IS_CAUSAL", "WINDOW"],
        prune_configs_by={"early_config_prune": tiles_that_fit},
    )(kernel)


tuned_forward = tuned(
    forward_kernel,
    (64, 64, 4, 2),
    (128, 64, 4, 3),
    (128, 64, 8, 3),
    (128, 128, 8, 2),
    (64, 32, 4, 3),
)
tuned_key_gradient = tuned(
    key_gradient_kernel,
    (32, 64, 4, 2),
    (64, 64, 8, 2),
    (32, 128, 8, 2),
    (64, 128, 8, 2),
    (64, 128, 8, 3),
)
tuned_query_gradient = tuned(
    query_gradient_kernel,
    (64, 64, 4, 2),
    (64, 32, 4, 2),
    (128, 32, 8, 3),
    (128, 64, 8, 2),
    (128, 64, 8, 3),
)
