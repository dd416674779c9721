"""Training on many ranks by PyTorch's own engines: DistributedDataParallel, fully_shard (FSDP2),
or a mesh of two axes with tensor parallelism (tensor_blocks.py).

The ranks form a mesh [data, tensor]. Ranks with the same place on the axis "tensor" read different
parts of a batch; the others read the same part. Loss and gradient are those of the *global* batch:
the ranks add up sums of losses and divide once, by the number of counted tokens of all, since the
mean of the ranks' means would be wrong where their numbers differ. Gradients are clipped after
that, by the norm of the whole gradient.

What this leaves out: pipeline parallelism, and Muon with sharded weights, since it needs whole
matrices.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lm_core.formats.metric_log import MetricLog
from lm_core.random_state import capture_random_state, restore_random_state
from lm_core.user_error import UserError
from training.batching import Batch
from training.engine.parallelism import LossOfBatch, ParallelSettings
from training.engine.sharded_checkpoints import ShardedCheckpoints
from training.engine.step_statistics import global_norm, local_part
from training.engine.tensor_blocks import divide_blocks
from training.runs.run_checkpoints import RunCheckpoints

Value = TypeVar("Value")


class SilentLog(MetricLog):
    """The log of the ranks that do not write."""

    def append(self, row: dict[str, Any]) -> None:
        return

    def rewind(self, step: int) -> None:
        return

    def replace_rows(self, rows: list[dict[str, Any]]) -> None:
        return


class ManyRanks:
    """This rank's share of the work. The process group must exist.

    Args:
        settings: the section `[parallel]`.
        device: of this rank.

    Raises:
        ValueError: the settings do not fit the number of ranks.
    """

    saves_before_validation = True

    def __init__(self, settings: ParallelSettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_main = self.rank == 0
        tensor = settings.tensor
        if tensor > 1 and settings.data != "fsdp":
            raise UserError(
                f'tensor = {tensor} needs data = "fsdp" in [parallel]; found "{settings.data}"'
            )
        if self.size % tensor:
            raise UserError(
                f"[parallel] tensor = {tensor} does not divide the {self.size} ranks; start a "
                "multiple of it"
            )
        axes = ("data", "tensor")
        mesh = init_device_mesh(device.type, (self.size // tensor, tensor), mesh_dim_names=axes)
        self.data, self.tensor = mesh["data"], mesh["tensor"]
        self.data_rank, self.data_ranks = self.data.get_local_rank(), self.data.size()
        self.seed_names = (self.data_rank,)
        self.replica: DistributedDataParallel | None = None
        self.heard: Sequence[float] = (0.0, 0.0)

    def check(self, batch_size: int, micro_batches: int, optimizer: str) -> None:
        """Raise UserError if these settings do not fit the number of ranks."""
        if batch_size % (self.data_ranks * micro_batches):
            times = f" x micro_batches = {micro_batches}" if micro_batches > 1 else ""
            raise UserError(
                f"batch_size = {batch_size} cannot be divided among {self.data_ranks} ranks{times}"
                "; use a multiple"
            )
        if optimizer == "muon" and self.settings.data != "ddp":
            raise UserError(
                'optimizer = "muon" needs whole matrices, but data = "fsdp" divides them; set '
                'data = "ddp" in [parallel]'
            )

    def check_agreement(self, described: Any) -> None:
        """Raise UserError on all ranks unless all have the same settings (any JSON value)."""
        text = json.dumps(described, sort_keys=True, default=str)
        own = hashlib.sha256(text.encode()).hexdigest()
        hashes: list[str] = [""] * self.size
        dist.all_gather_object(hashes, own)
        others = [rank for rank, value in enumerate(hashes) if value != hashes[0]]
        if others:
            raise UserError(
                f"the settings or shards of rank {others[0]} differ from those of rank 0 "
                f"({len(others)} of {self.size} ranks differ); give all ranks the same recipe, "
                "options and files"
            )

    def wrap(self, model: nn.Module, precision: str) -> None:
        """Spread the model over the ranks; with "fsdp", in place."""
        if self.settings.data == "ddp":
            on_gpu = [self.device] if self.device.type == "cuda" else None
            self.replica = DistributedDataParallel(model, device_ids=on_gpu)
            return
        if self.tensor.size() > 1:
            divide_blocks(model, self.tensor)
        policy = MixedPrecisionPolicy()
        if precision == "bfloat16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.blocks:
            fully_shard(block, mesh=self.data, mp_policy=policy)
        fully_shard(model, mesh=self.data, mp_policy=policy)

    def autocasts(self) -> bool:
        """With "fsdp", the policy of `wrap` makes the products, not autocast."""
        return self.settings.data == "ddp"

    def warm_up(self, forward_and_backward: Callable[[], object], model: nn.Module) -> None:
        """Let DistributedDataParallel arrange its buckets by the first backward pass.

        It does so in every process's first step. Sums over four ranks depend on a number's place in
        its bucket, so the first step after a resume would be rounded differently.
        """
        if self.replica is None:
            return
        before = capture_random_state()
        forward_and_backward()
        model.zero_grad()
        restore_random_state(before)

    def own_part(self, batch: Batch, step: int) -> Batch:
        """Return this rank's part of the global batch."""
        parts = batch.split(self.data_ranks)
        if len(parts) < self.data_ranks:
            raise UserError(
                f"the batch of step {step} has {len(parts)} documents, but {self.data_ranks} ranks "
                "read one each at least; raise batch_size"
            )
        return parts[self.data_rank]

    def loss_and_gradients(self, model: nn.Module, loss: LossOfBatch, batch: Batch) -> Tensor:
        """Leave the gradient of the global batch's mean loss in the model; return that loss."""
        assert loss.total is not None, "the loop refuses tasks without it"
        computing = self.replica or model
        parts = batch.split(loss.micro_batches)
        sums = torch.zeros(2, dtype=torch.float64 if self.device.type == "cpu" else torch.float32)
        sums = sums.to(self.device)
        for number in range(loss.micro_batches):
            self._synchronize_gradients(model, number == loss.micro_batches - 1)
            with loss.autocast():
                value, count = loss.total(computing, parts[min(number, len(parts) - 1)])
            if number >= len(parts):  # fewer documents than parts: all ranks start the same
                value, count = 0 * value, 0 * count
            value.backward()
            sums[0] += value.detach()
            sums[1] += count
        dist.all_reduce(sums, group=self.data.get_group())
        # The engines divide the sum of the ranks' gradients by their number.
        scale = (self.data_ranks / sums[1]).float()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_([local_part(gradient) for gradient in gradients], scale)
        return (sums[0] / sums[1]).float()

    def _synchronize_gradients(self, model: nn.Module, wanted: bool) -> None:
        if self.replica is not None:
            self.replica.require_backward_grad_sync = wanted
        else:
            model.set_requires_gradient_sync(wanted)

    @torch.no_grad()
    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Scale all gradients to a global norm of at most `max_norm`; return the norm before."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = global_norm(gradients)
        factor = (max_norm / norm).clamp(max=1.0)
        torch._foreach_mul_([local_part(gradient) for gradient in gradients], factor)
        return norm

    def mean(self, figure: Tensor) -> Tensor:
        """Return the mean of a figure over the ranks."""
        total = figure / self.size
        dist.all_reduce(total)
        return total

    def sums(self, figures: list[float]) -> list[float]:
        """Return the sum of each figure over the ranks that read different parts of a batch."""
        totals = torch.tensor(figures, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals, group=self.data.get_group())
        return totals.tolist()

    def votes(self, wants: tuple[bool, bool]) -> tuple[Tensor, ...]:
        """Return how many ranks want to stop, and how many could not save a checkpoint."""
        counts = torch.tensor([float(want) for want in wants], device=self.device)
        dist.all_reduce(counts)
        return counts.unbind()

    def hear(self, votes: Sequence[float]) -> None:
        """Take the votes of a step, once they have arrived from the device."""
        self.heard = votes

    def decided(self, wants: tuple[bool, bool]) -> tuple[bool, bool]:
        """Return the wants of all ranks: on each the same, from the last votes that were heard."""
        stops, failed = self.heard
        return stops > 0, failed > 0

    def agreed(self, value: Value) -> Value:
        """Return rank 0's value on all ranks."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def log_of(self, metric_log: MetricLog) -> MetricLog:
        """Return the log on rank 0, and on the others one that writes nothing."""
        return metric_log if self.is_main else SilentLog(metric_log.path, metric_log.stage)

    def checkpoints_of(self, whole: RunCheckpoints) -> ShardedCheckpoints:
        """Return the sharded checkpoints, which lie beside those of a run in one process."""
        return ShardedCheckpoints(whole, self.is_main, self.seed_names)
