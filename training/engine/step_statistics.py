"""Figures about a step that show where training is slow or unhealthy, for some rows of the log.

- `mfu`: the FLOPs of the model (transformer_lm/model_cost.py) per second and device, divided by
  those of one large matrix product, measured on this device before the first such row. A data
  sheet's peak would be for another clock, another type and another memory.
- `peak_memory_bytes`: the most that this process has held; on CUDA, of the device's memory.
- `grad_norm/KIND`: norm of the gradient of all parameters of a kind, such as attention.query.
- `residual_rms/LAYER`: root mean square of the residual stream after each block.

Nothing here waits for a GPU.

What this leaves out: histograms, and figures of single layers' gradients.
"""

import functools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lm_core.device import synchronize
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import flops_per_token

PRODUCT_SIZES = {"cpu": 1024, "mps": 4096, "cuda": 8192}  # large enough to reach the peak
REPEATS = 5
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def utilization(
    config: ModelConfig, tokens_per_second: float, device: torch.device, precision: str
) -> dict[str, float]:
    """Return `mfu` and `peak_memory_bytes` of this process.

    Args:
        config: shape of the model.
        tokens_per_second: of one device.
        device: of this process.
        precision: "float32" or "bfloat16".
    """
    flops = tokens_per_second * flops_per_token(config, config.context_length)
    peak = product_flops_per_second(device, PRECISIONS[precision])
    return {"mfu": flops / peak, "peak_memory_bytes": peak_memory_bytes(device)}


@functools.cache
def product_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of a product of two square matrices, the best of a few."""
    size = PRODUCT_SIZES[device.type]
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(REPEATS):
        synchronize(device)
        started = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held so far, of the device or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def watched_blocks(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Collect the mean square of what each block returns, once for each call, while inside."""
    found: list[list[Tensor]] = [[] for _ in model.blocks]

    def watch(squares: list[Tensor]) -> Any:
        def hook(block: nn.Module, inputs: Any, output: Tensor) -> None:
            squares.append(output.detach().float().square().mean())

        return hook

    handles = [
        block.register_forward_hook(watch(squares))
        for block, squares in zip(model.blocks, found, strict=True)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def residual_sizes(
    squares: list[list[Tensor]], mean_over_ranks: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the root mean square after each block, from what `watched_blocks` collected."""
    return {
        f"residual_rms/{layer}": mean_over_ranks(torch.stack(found).mean()).sqrt()
        for layer, found in enumerate(squares)
    }


def gradient_norms(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Return the norm of the gradient of each kind of parameter, over all layers."""
    kinds: dict[str, list[Tensor]] = {}
    for name, parameter in named:
        if parameter.grad is not None:
            kind = re.sub(r"^blocks\.\d+\.", "", name).removesuffix(".weight")
            kinds.setdefault(f"grad_norm/{kind}", []).append(parameter.grad)
    return {kind: global_norm(gradients) for kind, gradients in kinds.items()}


def global_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients as one vector; sharded ones are added up over their ranks.

    Gradients that lie on their ranks in the same way need one all-reduce for each axis.
    """
    groups: dict[Any, list[Tensor]] = {}
    for gradient in gradients:
        kind = None
        if is_sharded(gradient):
            kind = gradient.device_mesh, gradient.placements
        groups.setdefault(kind, []).append(local_part(gradient))
    total = torch.zeros(())
    for kind, tensors in groups.items():
        square = torch.stack(torch._foreach_norm(tensors)).square().sum()
        if kind is not None:
            mesh, placements = kind
            for axis, placement in enumerate(placements):
                if not placement.is_replicate():
                    dist.all_reduce(square, group=mesh.get_group(axis))
        total = total.to(square) + square
    return total.sqrt()


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, or a tensor that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this is a DTensor. Importing its class takes a second."""
    return hasattr(tensor, "to_local")
