"""Plan of a recipe's pretraining on this machine: precision, attention, memory and disk.

The choices are made by the functions that training calls, on a model of the recipe's shape with
random tokens.

What this leaves out: `compile = true`, which is not used for the measurement here.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch

from lm_core.formats.metric_log import MetricLog
from lm_core.formats.token_shards import MANIFEST, TokenShards
from lm_course.data_steps.tokenizer import TokenizerStepSettings
from lm_course.machine_check.memory_fit import (
    Memory,
    bytes_of_recipe,
    checkpoint_bytes,
    device_memory,
    free_disk,
)
from training.activation_checkpointing import checkpoint_blocks
from training.batching import Batch
from training.engine.fused_optimizer import why_fused_is_unusable
from training.engine.step_statistics import PRECISIONS, product_flops_per_second
from training.runs.pretraining import PretrainSettings, losses_of
from training.runs.training_run import TrainingRun
from training.training_loop import choose_precision
from transformer_lm.kernels.attention_backend import choose_backend, why_triton_is_unusable
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import flops_per_token
from transformer_lm.weights.empty_model import empty_model

PASSES = 4  # of `faster_dtype` in each type
SLOWER = 2.0  # than its products alone: a pass took 1.7 to 2.3 times as long (2 cores, 4 recipes)
CHARACTERS = 256  # assumed, if nothing has counted those of the text yet
LONGEST_MEASUREMENT = 10.0  # seconds


class TrainingPlan(NamedTuple):
    """Choices and needs of a recipe's pretraining.

    Attributes:
        config: shape of the model.
        precision: "float32" or "bfloat16"; None if it is not measured here.
        reason: how the precision was chosen, or why it is not known.
        backend: which code computes attention; for each type, if the precision is not known.
        triton: why the Triton kernels do not run here; None if they do.
        optimizer: which code updates the weights.
        bytes_needed, memory: at the peak, and what the device has.
        disk_needed, disk_free: bytes of the checkpoints, and of their disk.
    """

    config: ModelConfig
    precision: str | None
    reason: str
    backend: str
    triton: str | None
    optimizer: str
    bytes_needed: int
    memory: Memory
    disk_needed: int
    disk_free: int

    @property
    def fits_memory(self) -> bool:
        """Return whether the device has the memory; True if that is unknown."""
        has = self.memory.free if self.memory.free is not None else self.memory.total
        return has is None or self.bytes_needed <= has

    @property
    def fits_disk(self) -> bool:
        """Return whether the disk has room for the checkpoints."""
        return self.disk_needed <= self.disk_free


def vocabulary(settings: TokenizerStepSettings, shards: Path) -> tuple[int, str]:
    """Return the size of the vocabulary, and a remark if it is an assumption.

    Args:
        settings: the recipe's section [tokenizer].
        shards: the folder of the recipe's shards, which may not exist yet.
    """
    if settings.kind == "bpe":
        return settings.vocab_size, ""
    if (shards / MANIFEST).is_file():
        return TokenShards.open(shards, "train").vocab_size, ""
    return CHARACTERS, f"if the text has {CHARACTERS} different characters"


def training_plan(
    settings: PretrainSettings,
    vocab_size: int,
    device: torch.device,
    folder: Path,
    usable: Collection[str] = tuple(PRECISIONS),
) -> TrainingPlan:
    """Find out what `lm pretrain` would do.

    Args:
        settings: the recipe's section.
        vocab_size: of the recipe's tokenizer.
        device: where to train.
        folder: where the checkpoints go.
        usable: the precisions that run on the device and can be trusted there.
    """
    config = ModelConfig(vocab_size=vocab_size, **settings.model.model_dump())
    needed, memory = bytes_of_recipe(settings, config, "float32"), device_memory(device)
    plan = TrainingPlan(
        config=config,
        precision=None,
        reason="",
        backend="",
        triton=None,
        optimizer=optimizer_code(settings, device),
        bytes_needed=needed,
        memory=memory,
        disk_needed=checkpoint_bytes(config, settings.training),
        disk_free=free_disk(folder),
    )
    precision, reason = _precision(settings, config, device, plan.fits_memory, usable)
    dtype = PRECISIONS[precision or "float32"]
    needed = bytes_of_recipe(settings, config, precision or "float32")
    return plan._replace(
        precision=precision,
        reason=reason,
        backend=_backends(config, device, usable if precision is None else [precision]),
        triton=why_triton_is_unusable(str(device), dtype),
        bytes_needed=needed,
    )


def _precision(
    settings: PretrainSettings,
    config: ModelConfig,
    device: torch.device,
    fits: bool,
    usable: Collection[str],
) -> tuple[str | None, str]:
    if settings.training.precision != "auto":
        return settings.training.precision, "set in the recipe"
    missing = [name for name in PRECISIONS if name not in usable]
    if missing:
        return None, f"not measured, because {' and '.join(missing)} cannot be used here"
    if not fits:
        return None, "not measured, because the recipe does not fit"
    training = settings.training
    rows = -(-training.batch_size // training.micro_batches)
    flops = rows * config.context_length * flops_per_token(config, config.context_length)
    rates = [product_flops_per_second(device, dtype) for dtype in PRECISIONS.values()]
    seconds = SLOWER * PASSES * sum(flops / rate for rate in rates)
    if seconds > LONGEST_MEASUREMENT:
        return None, f"lm pretrain measures it, in about {seconds:,.0f} seconds"
    state = choose_precision(_run(settings, config, device))
    return state.precision, f"bfloat16 is {state.bfloat16_advantage:.2f} times as fast"


def _run(settings: PretrainSettings, config: ModelConfig, device: torch.device) -> TrainingRun:
    """Return a run on random tokens, which is never trained and writes nothing."""
    with torch.random.fork_rng():
        model = TransformerLM(config).to(device).train()
        shape = settings.training.batch_size, config.context_length + 1
        ids = torch.randint(0, config.vocab_size, shape)
    if settings.training.activation_checkpointing:
        checkpoint_blocks(model)
    batch = Batch({"token_ids": ids[:, :-1], "targets": ids[:, 1:]}, ids[:, 1:].numel())
    return TrainingRun(
        model=model,
        loss_of_batch=losses_of(settings)["loss_of_batch"],
        batch_at=lambda _: batch,
        validate=None,
        settings=settings.training,
        checkpoint_folder=Path(),
        metric_log=MetricLog(Path("metrics.jsonl"), "doctor"),
        fingerprint="",
        device=device,
    )


def _backends(config: ModelConfig, device: torch.device, precisions: Collection[str]) -> str:
    found = {name: attention_backend(config, device, PRECISIONS[name]) for name in precisions}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{backend} in {name}" for name, backend in found.items())


def attention_backend(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Return the code that computes the model's attention in training."""
    wanted = empty_model(config).blocks[0].attention.attention_backend
    q, k = (
        torch.empty(1, heads, config.context_length, config.head_dim, device=device, dtype=dtype)
        for heads in (config.num_heads, config.num_kv_heads)
    )
    return choose_backend(wanted, q, k)


def optimizer_code(settings: PretrainSettings, device: torch.device) -> str:
    """Return the code that updates the weights, which are float32 in every precision."""
    reason = why_fused_is_unusable(device.type, torch.float32)
    code = "PyTorch's fused kernel" if reason is None else f"the lesson's formula ({reason})"
    return f"Muon; AdamW by {code}" if settings.training.optimizer == "muon" else f"AdamW by {code}"
