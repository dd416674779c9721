"""The bytes that one rank sends in a training step and those that it holds, by the model's shape.

In a ring of N ranks, a buffer of B bytes is passed on in N parts. A reduce-scatter and an
all-gather each send N - 1 of them, B (N - 1) / N bytes a rank. An all-reduce is the one followed by
the other. No other order of sends needs fewer bytes (Patarasuk and Yuan, 2009).

What this leaves out: padding, a few bytes of flags, and latency, which decides for small buffers.

Memory: Rajbhandari et al., 2020 (ZeRO), section 5. Tensor parallelism: Shoeybi et al., 2019,
section 3.
"""

from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters, parameters_by_part

IN_BLOCKS = ("attention", "feed-forward")


def all_gather_bytes(whole: int, ranks: int) -> float:
    """Return the bytes that each rank sends until all have the whole; `whole` in bytes."""
    return whole * (ranks - 1) / ranks


def reduce_scatter_bytes(whole: int, ranks: int) -> float:
    """Return the bytes that each rank sends until each has its part of the sum."""
    return whole * (ranks - 1) / ranks


def all_reduce_bytes(whole: int, ranks: int) -> float:
    """Return the bytes that each rank sends until all have the sum."""
    return reduce_scatter_bytes(whole, ranks) + all_gather_bytes(whole, ranks)


def data_parallel_bytes(config: ModelConfig, ranks: int, bytes_per_value: int = 4) -> float:
    """Return the bytes of DataParallel: one all-reduce of all gradients."""
    return all_reduce_bytes(count_parameters(config) * bytes_per_value, ranks)


def sharded_optimizer_bytes(config: ModelConfig, ranks: int, bytes_per_value: int = 4) -> float:
    """Return the bytes of DataParallel with ShardedOptimizer, which also passes on each rank's
    updated parameters; on average over the ranks.

    Gradients could instead be reduced only to the owner of each parameter (ZeRO-2); the sum would
    then equal that of DataParallel alone.
    """
    whole = count_parameters(config) * bytes_per_value
    return all_reduce_bytes(whole, ranks) + all_gather_bytes(whole, ranks)


def fully_sharded_bytes(
    config: ModelConfig, ranks: int, weight_bytes: int = 4, gradient_bytes: int = 4
) -> float:
    """Return the bytes of FullySharded, whose units are the blocks and the rest.

    Forward gathers all; backward gathers again all blocks but the last, and reduce-scatters all
    gradients.

    Args:
        config: the shape.
        ranks: number of processes.
        weight_bytes: size of a gathered value: 2 for bfloat16.
        gradient_bytes: size of a value of the gradient that is reduced: 4, for float32.
    """
    parameters, block = count_parameters(config), block_parameters(config)
    gathered_twice = (config.num_layers - 1) * block
    gathers = all_gather_bytes((parameters + gathered_twice) * weight_bytes, ranks)
    return gathers + reduce_scatter_bytes(parameters * gradient_bytes, ranks)


def tensor_parallel_bytes(
    config: ModelConfig, ranks: int, tokens: int, bytes_per_value: int = 4
) -> float:
    """Return the bytes of the blocks under tensor parallelism: one all-reduce of the activations
    [tokens, d_model] in each attention and each feed-forward layer, forward and again backward.

    They grow with the batch and not with the parameters. The embedding and the loss need
    1 and 1 more, and 3 numbers for each token.
    """
    activations = tokens * config.d_model * bytes_per_value
    return 2 * 2 * config.num_layers * all_reduce_bytes(activations, ranks)


def block_parameters(config: ModelConfig) -> int:
    """Return the parameters of one block, norms included."""
    parts = parameters_by_part(config)
    norm_size = {"rmsnorm": 1, "layernorm": 2, "none": 0}[config.norm] * config.d_model
    last_norm = norm_size * (config.norm_position == "pre")
    return (sum(parts[p] for p in IN_BLOCKS) + parts["norms"] - last_norm) // config.num_layers


def held_bytes(config: ModelConfig, ranks: int, scheme: str) -> float:
    """Return the bytes of parameters, gradients and AdamW's two means on one rank, in float32.

    Args:
        config: the shape.
        ranks: number of processes.
        scheme: "data_parallel", "sharded_optimizer" or "fully_sharded". While a block of
            `FullySharded` is used, the whole block comes in addition.
    """
    whole = 4 * count_parameters(config)
    match scheme:
        case "data_parallel":
            return 4 * whole
        case "sharded_optimizer":
            return 2 * whole + 2 * whole / ranks
        case "fully_sharded":
            return 4 * whole / ranks
        case unknown:
            raise AssertionError(f"no scheme {unknown!r}")
