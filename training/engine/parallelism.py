"""How the work of a training run is spread: the settings, and the case of one process.

The loop (training/training_loop.py) is the same for one process and for many. It asks an object for
everything that differs: which part of a batch is this rank's, the gradient of the whole batch, its
norm, the checkpoints, and whether to stop. `OneProcess` does what a loop without ranks would do.

What this leaves out: several processes (training/engine/many_ranks.py).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import pydantic
from torch import Tensor, nn

from lm_core.formats.metric_log import MetricLog
from lm_core.settings import Settings
from training.batching import Batch
from training.gradient_accumulation import accumulate_gradients
from training.optimizers import clip_gradients
from training.runs.run_checkpoints import RunCheckpoints

Value = TypeVar("Value")


@dataclass(frozen=True)
class LossOfBatch:
    """How the loss of a batch is computed.

    Attributes:
        mean: (model, batch) -> the mean loss.
        total: (model, batch) -> the sum of the losses of the counted tokens, and their number; None
            if a batch of this task cannot be split.
        micro_batches: number of parts that go through the model one after another.
        autocast: makes the context in which the model computes.
    """

    mean: Callable[[Any, Batch], Tensor]
    total: Callable[[Any, Batch], tuple[Tensor, Tensor | int]] | None
    micro_batches: int = 1
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext


class ParallelSettings(Settings):
    """The `[parallel]` section of a recipe: how `torchrun -m training.engine RECIPE` spreads the
    work. One process ignores it.

    Attributes:
        data: "ddp" has all weights on every rank; "fsdp" has 1/N of weights, gradients and
            optimizer state on each.
        tensor: number of ranks that divide the matrices of each block among them, with
            data = "fsdp"; the other ranks divide the batch.
        timeout: seconds that a rank waits for the others before the run ends.
    """

    data: Literal["ddp", "fsdp"] = "ddp"
    tensor: int = pydantic.Field(default=1, gt=0)
    timeout: float = pydantic.Field(default=600.0, gt=0)


@runtime_checkable
class Parallelism(Protocol):
    """The questions of the training loop to `OneProcess` and `ManyRanks`."""

    is_main: bool
    size: int  # number of ranks
    data_rank: int  # which part of a batch this rank reads
    data_ranks: int  # number of parts
    saves_before_validation: bool
    seed_names: tuple[int, ...]  # so that ranks with different parts of a batch draw other numbers

    def check(self, batch_size: int, micro_batches: int, optimizer: str) -> None:
        """Raise UserError if these settings do not fit the number of ranks."""

    def wrap(self, model: nn.Module, precision: str) -> None:
        """Spread the model; its parameters may be replaced, their names stay."""

    def autocasts(self) -> bool:
        """Return whether the loop's autocast chooses the type of matrix products."""

    def warm_up(self, forward_and_backward: Callable[[], object], model: nn.Module) -> None:
        """Do one step that leaves no trace, if later steps would otherwise differ from the first
        of a resumed run.
        """

    def own_part(self, batch: Batch, step: int) -> Batch:
        """Return this rank's part of the global batch."""

    def loss_and_gradients(self, model: nn.Module, loss: LossOfBatch, batch: Batch) -> Tensor:
        """Leave the gradient of the global batch's mean loss in the model; return that loss."""

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Scale all gradients to a global norm of at most `max_norm`; return the norm before."""

    def mean(self, figure: Tensor) -> Tensor:
        """Return the mean of a figure over the ranks."""

    def sums(self, figures: list[float]) -> list[float]:
        """Return the sum of each figure over the ranks that read different parts of a batch."""

    def votes(self, wants: tuple[bool, bool]) -> tuple[Tensor, ...]:
        """Return how many ranks want to stop, and how many could not save a checkpoint; nothing in
        one process.
        """

    def hear(self, votes: Sequence[float]) -> None:
        """Take the votes of a step, once they have arrived from the device."""

    def decided(self, wants: tuple[bool, bool]) -> tuple[bool, bool]:
        """Return the wants of all ranks: on each the same, from the last votes that were heard."""

    def agreed(self, value: Value) -> Value:
        """Return rank 0's value on all ranks; any JSON value."""

    def log_of(self, metric_log: MetricLog) -> MetricLog:
        """Return the log on rank 0, and on the others one that writes nothing."""

    def checkpoints_of(self, whole: RunCheckpoints) -> Any:
        """Return the checkpoints of the run, given those of a run in one process."""


class OneProcess:
    """One process: the whole batch, and nothing to agree on."""

    is_main = True
    size = 1
    data_rank = 0
    data_ranks = 1
    saves_before_validation = False
    seed_names = ()

    def check(self, batch_size: int, micro_batches: int, optimizer: str) -> None:
        return

    def wrap(self, model: nn.Module, precision: str) -> None:
        return

    def autocasts(self) -> bool:
        return True

    def warm_up(self, forward_and_backward: Callable[[], object], model: nn.Module) -> None:
        return

    def own_part(self, batch: Batch, step: int) -> Batch:
        return batch

    def loss_and_gradients(self, model: nn.Module, loss: LossOfBatch, batch: Batch) -> Tensor:
        total = loss.total
        if loss.micro_batches == 1 or total is None:
            with loss.autocast():
                value = loss.mean(model, batch)
            value.backward()
            return value

        def loss_sum_of(model: nn.Module, micro_batch: Batch) -> tuple[Tensor, Tensor | int]:
            with loss.autocast():
                return total(model, micro_batch)

        return accumulate_gradients(model, loss_sum_of, batch.split(loss.micro_batches))

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        return clip_gradients(parameters, max_norm)

    def mean(self, figure: Tensor) -> Tensor:
        return figure

    def sums(self, figures: list[float]) -> list[float]:
        return figures

    def votes(self, wants: tuple[bool, bool]) -> tuple[Tensor, ...]:
        return ()

    def hear(self, votes: Sequence[float]) -> None:
        return

    def decided(self, wants: tuple[bool, bool]) -> tuple[bool, bool]:
        return wants

    def agreed(self, value: Value) -> Value:
        return value

    def log_of(self, metric_log: MetricLog) -> MetricLog:
        return metric_log

    def checkpoints_of(self, whole: RunCheckpoints) -> RunCheckpoints:
        return whole
