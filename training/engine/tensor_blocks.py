"""Tensor parallelism over the linear layers of the blocks, by PyTorch's `parallelize_module`.

The inward matrices of attention and of the feed-forward layer are divided by output, the outward
ones by input, as in the lesson (training/tensor_parallel.py). PyTorch's styles accept only its own
`nn.Linear`, whose weight has the same shape and name as ours, so each of our layers is replaced by
one with the same parameters.

What this leaves out: dividing the embedding, the head and the norms, which every rank computes
alike; and norms of queries and keys, whose gradient would have to be added up over the ranks.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from lm_core.user_error import UserError
from transformer_lm.layers import Linear

INWARD = {"attention": ("query", "key", "value"), "feed_forward": ("gate", "up")}
OUTWARD = {"attention": ("output",), "feed_forward": ("down",)}


def divide_blocks(model: nn.Module, mesh: DeviceMesh) -> None:
    """Keep this rank's part of the matrices of all blocks, in place.

    Raises:
        ValueError: the ranks do not divide the key heads or the inner width, or the model
            normalizes queries and keys.
    """
    config, size = model.config, mesh.size()
    for name, value in (("num_kv_heads", config.num_kv_heads), ("d_ff", config.d_ff)):
        if value % size:
            raise UserError(
                f"[parallel] tensor = {size} does not divide {name} = {value}; use a number that "
                "does"
            )
    if config.qk_norm:
        raise UserError(
            f"[parallel] tensor = {size} does not work with qk_norm = true; set one of the two to "
            "its default"
        )
    for block in model.blocks:
        plan: dict[str, ColwiseParallel | RowwiseParallel] = {}
        for styles, style in ((INWARD, ColwiseParallel), (OUTWARD, RowwiseParallel)):
            for part, names in styles.items():
                layer = getattr(block, part)
                for name in names:
                    if hasattr(layer, name):  # only gated layers have `gate`
                        setattr(layer, name, _torch_linear(getattr(layer, name)))
                        plan[f"{part}.{name}"] = style()
        parallelize_module(block, mesh, plan)
        block.attention.num_heads //= size
        block.attention.num_kv_heads //= size


def _torch_linear(layer: Linear) -> nn.Linear:
    """Return PyTorch's layer with the same parameters."""
    d_out, d_in = layer.weight.shape
    result = nn.Linear(d_in, d_out, bias=layer.bias is not None, device="meta")
    result.weight = layer.weight
    result.bias = layer.bias
    return result
