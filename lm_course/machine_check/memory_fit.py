"""The memory and disk that a training run needs, predicted from its settings, and what there is.

Weights, gradients and the optimizer's means are counted (`training/collectives/bytes_moved.py`).
Activations are counted as a careful implementation keeps them (`transformer_lm/model_cost.py`),
times what our readable layers keep: 1.7 to 2.5 times as much in float32 and 3.0 to 4.0 times in
bfloat16, which also keeps float32 copies. Measured as the peak of a CPU process in runs of 5 and 30
million parameters, with and without `activation_checkpointing`; the prediction takes the upper
figures.

What this leaves out: memory of several ranks, `compile = true`, and fragmentation on a GPU.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from training.collectives.bytes_moved import block_parameters, held_bytes
from training.runs.pretraining import PretrainSettings
from training.runs.training_settings import TrainingSettings
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import (
    activation_bytes_by_part,
    checkpointed_activation_bytes,
    count_parameters,
)

ACTIVATIONS = {"float32": 2.5, "bfloat16": 4.0}  # measured; see above
VALUE_BYTES = {"float32": 4, "bfloat16": 2}
SAVED_BYTES = 12  # of a parameter in a checkpoint of AdamW: the weight and two means, in float32
MOST_BYTES = 1 << 60  # a cgroup without a limit says a number above it
MODEL_OF_12M = {  # of benchmarks/model_step.py
    "vocab_size": 8192,
    "context_length": 256,
    "num_layers": 8,
    "d_model": 320,
    "num_heads": 5,
    "num_kv_heads": 5,
    "d_ff": 864,
}
GPT2 = {
    "vocab_size": 50_257,
    "context_length": 1024,
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu",
    "biases": True,
}
# GPT-2's sizes (Radford et al., 2019, table 2), by layers, width and heads.
GPT2_SIZES = {"124M": (12, 768, 12), "350M": (24, 1024, 16), "774M": (36, 1280, 20)}
GPT2_SIZES |= {"1558M": (48, 1600, 25)}
STANDARD_SHAPES = ("12M", *GPT2_SIZES)


class Memory(NamedTuple):
    """Bytes of a device, or of this process's share of the computer; None if unknown."""

    total: int | None
    free: int | None


def standard_shape(name: str) -> ModelConfig:
    """Return one of STANDARD_SHAPES."""
    if name not in GPT2_SIZES:
        return ModelConfig(**MODEL_OF_12M)
    layers, width, heads = GPT2_SIZES[name]
    return ModelConfig(
        **GPT2,
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        num_kv_heads=heads,
        d_ff=4 * width,
    )


def optimizer_and_weights_bytes(config: ModelConfig, optimizer: str = "adamw") -> int:
    """Return the bytes of weights, gradients and means in float32.

    Muon keeps one mean of a hidden matrix, where AdamW keeps two.
    """
    saved = {"adamw": 0, "muon": 4 * config.num_layers * block_parameters(config)}
    return int(held_bytes(config, 1, "data_parallel")) - saved[optimizer]


def training_bytes(
    config: ModelConfig,
    batch_size: int,
    precision: str,
    recomputes: bool = False,
    optimizer: str = "adamw",
) -> int:
    """Return the bytes that training takes at its peak.

    Args:
        config: the shape.
        batch_size: sequences that go through the model at once.
        precision: "float32" or "bfloat16".
        recomputes: whether `activation_checkpointing` is on.
        optimizer: "adamw" or "muon".
    """
    count = checkpointed_activation_bytes if recomputes else activation_bytes_by_part
    parts = count(config, batch_size, config.context_length, VALUE_BYTES[precision])
    kept = ACTIVATIONS[precision] * sum(parts.values())
    return optimizer_and_weights_bytes(config, optimizer) + round(kept)


def bytes_of_recipe(settings: PretrainSettings, config: ModelConfig, precision: str) -> int:
    """Return the bytes that a recipe's section [pretrain] takes at its peak."""
    training = settings.training
    rows = -(-training.batch_size // training.micro_batches)
    recomputes, optimizer = training.activation_checkpointing, training.optimizer
    return training_bytes(config, rows, precision, recomputes, optimizer)


def checkpoint_bytes(config: ModelConfig, training: TrainingSettings) -> int:
    """Return the bytes of the checkpoints on the disk: those that are kept, step 0, and the next
    one, which is written before the oldest is removed.
    """
    return SAVED_BYTES * count_parameters(config) * (training.keep_checkpoints + 2)


def device_memory(device: torch.device) -> Memory:
    """Return the memory of a device; for the CPU, that which this process may use."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return Memory(total, total - torch.mps.driver_allocated_memory())
    return computer_memory()


def computer_memory(system: Path = Path("/")) -> Memory:
    """Return the memory of the computer, or of the container, if that has less.

    Args:
        system: the folder that holds proc/ and sys/.
    """
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return Memory(_physical_memory(), None)
    kilobytes = {key: int(rest.split()[0]) for key, _, rest in (x.partition(":") for x in lines)}
    total, free = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    limit, used = _container(system)
    if limit is not None and limit < total:
        return Memory(limit, min(free, max(0, limit - used)))
    return Memory(total, free)


def _container(system: Path) -> tuple[int | None, int]:
    """Return the limit of a container in bytes, None without one, and what is in use.

    Pages of files that were read earlier count as in use, but are given up when memory is needed.
    """
    for folder, limit, used, files in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            "sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            most = (system / folder / limit).read_text().strip()
            now = int((system / folder / used).read_text())
        except (OSError, ValueError):
            continue
        if most.isdigit() and int(most) < MOST_BYTES:
            return int(most), max(0, now - _statistic(system / folder / "memory.stat", files))
    return None, 0


def _statistic(path: Path, name: str) -> int:
    """Return a figure of a file with a name and a number in each line; 0 if it has none."""
    try:
        pairs = (line.split() for line in path.read_text().splitlines())
        return int(dict(pairs).get(name, 0))
    except (OSError, ValueError):
        return 0


def _physical_memory() -> int | None:
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that holds a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
