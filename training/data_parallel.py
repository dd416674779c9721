"""Data parallelism: every rank holds the whole model, reads its own part of the batch, and averages
its gradients with those of the others before the optimizer's step.

Three versions, each faster than the one before:

1. `average_each_gradient`: one all-reduce for each parameter, after backward. Each call has a fixed
   cost, and there are many small parameters.
2. `average_flat_gradient`: all gradients in one buffer, one all-reduce. It still begins only when
   backward has ended.
3. `DataParallel`: buckets of gradients. Backward computes the last layers' gradients first, and a
   bucket's all-reduce runs while backward continues with the earlier layers.

The average of the ranks' gradients is the gradient of the whole batch if each rank's loss is a mean
over equally many tokens. Otherwise, compute each rank's loss with `mean_over_ranks`.

What this leaves out: buffers are broadcast once (the running means of a batch norm then differ from
rank to rank); buckets follow the order of registration, not that of the first backward pass; sparse
gradients become dense.

Li et al., 2020 (PyTorch Distributed), section 3.2.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from training.collectives.group_operations import (
    Group,
    any_rank,
    broadcast_from_first,
    rank_and_size,
)
from training.collectives.named_wrapper import NamedWrapper


def average_each_gradient(parameters: Iterable[nn.Parameter], group: Group = None) -> None:
    """Replace each gradient by its mean over the ranks: one all-reduce for each parameter.

    A missing gradient counts as zero, and is zero afterwards if it is missing on every rank. A
    parameter that occurs twice (tied weights) is averaged once.
    """
    _, size = rank_and_size(group)
    for parameter in _trainable(parameters):
        # Contiguous on all ranks: a collective matches memory, whatever the strides are.
        gradient = (_dense_gradient(parameter) / size).contiguous()
        if size > 1:
            dist.all_reduce(gradient, group=group)  # a sum, which the division makes a mean
        parameter.grad = _laid_out_as(parameter, gradient)


def average_flat_gradient(parameters: Iterable[nn.Parameter], group: Group = None) -> None:
    """Do the same with one all-reduce of a flat buffer for each type of numbers."""
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in _trainable(parameters):
        by_type.setdefault(parameter.dtype, []).append(parameter)
    for same_type in by_type.values():
        bucket = _Bucket(same_type)
        bucket.launch(group)
        bucket.wait()
        bucket.write_gradients()


def mean_over_ranks(
    total: Float[Tensor, ""], count: int | Tensor, group: Group = None
) -> Float[Tensor, ""]:
    """Return this rank's share of the mean loss over the tokens of all ranks.

    It is total * ranks / (tokens of all ranks). The average of its gradients over the ranks is the
    gradient of the global mean, however unequal the ranks' numbers of tokens are. The mean of each
    rank's own mean would give a token of a rank with few of them more weight.

    Args:
        total: the sum of this rank's losses; with gradient accumulation, of one micro-batch.
        count: the number of counted tokens of this rank in the whole step, over all micro-batches.
        group: the processes that share the batch.
    """
    _, size = rank_and_size(group)
    counts = torch.as_tensor(count, device=total.device).clone()
    if size > 1:
        dist.all_reduce(counts, group=group)
    return total * size / torch.where(counts == 0, 1, counts)


class DataParallel(NamedWrapper):
    """A module whose gradients are averaged over the ranks while backward runs.

    Call `finish_gradient_synchronization` between backward and clipping or the optimizer's step.
    The parameters and buffers of rank 0 replace those of the other ranks at the start.

    The hooks are on the parameters, so a call of `wrapper.module(x)` is synchronized too. Names are
    the module's own (`state_dict`, `named_parameters`), and so are all other attributes.

    A gradient that is missing on some ranks counts as zero there. A parameter without a gradient on
    any rank keeps `grad = None`, so an optimizer skips it as it would in one process. Parameters
    that are frozen when the wrapper is made are left alone.

    Args:
        module: any module; its parameters are on one device.
        bucket_mb: size at which a bucket is full, in MiB.
        group: the ranks that hold the replicas; None for all.
    """

    def __init__(self, module: nn.Module, bucket_mb: float = 5.0, group: Group = None) -> None:
        super().__init__()
        self.module = module
        self._group = group
        broadcast_from_first([*module.parameters(), *module.buffers()], group)
        trainable = _trainable(module.parameters())
        self._buckets = _fill_buckets(trainable[::-1], bucket_mb * 2**20)
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        self._num_launched = 0
        self._synchronizing = True
        for parameter in trainable if rank_and_size(group)[1] > 1 else []:
            parameter.register_post_accumulate_grad_hook(self._gradient_is_ready)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside only accumulate gradients. Run the last micro-batch outside, so
        that its backward pass starts the all-reduces.

        Without this context, accumulation gives the same result, but its buckets are reduced twice.
        """
        before, self._synchronizing = self._synchronizing, False
        try:
            yield
        finally:
            self._synchronizing = before

    def finish_gradient_synchronization(self) -> None:
        """Wait until every gradient is the mean over the ranks; every rank must call it.

        Buckets that are not on their way yet (a parameter of theirs was not used) start now.
        """
        if rank_and_size(self._group)[1] == 1:
            return
        for bucket in self._buckets[self._num_launched :]:
            bucket.launch(self._group)
        # One more all-reduce of a few bytes: has any rank this gradient, has any rank changed it
        # after its bucket was launched? All ranks must take the same decisions. The buckets are
        # still on their way meanwhile.
        flags = [p.grad is not None for p in self._bucket_of]
        flags = any_rank(
            flags + [bucket.changed for bucket in self._buckets], self._device(), self._group
        )
        has_gradient = dict(zip(self._bucket_of, flags, strict=False))
        for bucket, changed in zip(self._buckets, flags[len(self._bucket_of) :], strict=True):
            bucket.wait()
            if changed:
                bucket.launch(self._group)
                bucket.wait()
            bucket.write_gradients(has_gradient)
            bucket.reset()
        self._num_launched = 0

    def _gradient_is_ready(self, parameter: Tensor) -> None:
        """Autograd calls this when it has added to `parameter.grad`, in the middle of backward."""
        bucket = self._bucket_of[parameter]
        if bucket.flat is not None:
            bucket.changed = True
        elif self._synchronizing:
            bucket.not_ready.discard(parameter)
            # Every rank launches the buckets in the same order, whatever its own backward pass
            # leaves out: collectives are matched by their order.
            while self._num_launched < len(self._buckets):
                following = self._buckets[self._num_launched]
                if following.not_ready:
                    break
                following.launch(self._group)
                self._num_launched += 1

    def _device(self) -> torch.device:
        return next(iter(self._bucket_of)).device if self._bucket_of else torch.device("cpu")

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the module's own, so that a checkpoint loads with and without the wrapper."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state of the module itself; every rank loads the same one."""
        return self.module.load_state_dict(*args, **kwargs)


class _Bucket:
    """Gradients of one type that travel together.

    Attributes:
        parameters: in the order in which they lie in the buffer.
        not_ready: those whose gradient backward has not computed yet.
        flat: the buffer, from launch to reset.
        changed: whether a gradient changed after the launch, in another backward pass.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.reset()

    def reset(self) -> None:
        self.not_ready = set(self.parameters)
        self.flat: Tensor | None = None
        self.work: Any = None
        self.changed = False

    @torch.no_grad()
    def launch(self, group: Group) -> None:
        """Start the all-reduce without waiting for it."""
        _, size = rank_and_size(group)
        self.flat = torch.cat([_dense_gradient(p).reshape(-1) for p in self.parameters])
        self.flat /= size
        self.work = None
        if size > 1:
            self.work = dist.all_reduce(self.flat, group=group, async_op=True)

    def wait(self) -> None:
        if self.work is not None:
            self.work.wait()

    def write_gradients(self, has_gradient: dict[nn.Parameter, bool] | None = None) -> None:
        """Let each gradient be its part of the buffer; no copy, since each launch has a new one."""
        parts = self.flat.split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            if has_gradient is None or has_gradient[parameter]:
                parameter.grad = _laid_out_as(parameter, part.view(parameter.shape))


def _fill_buckets(parameters: list[nn.Parameter], max_bytes: float) -> list[_Bucket]:
    """Return buckets of one type each, in the order in which backward completes them."""
    open_buckets: dict[torch.dtype, list[nn.Parameter]] = {}
    full: list[list[nn.Parameter]] = []
    for parameter in parameters:
        bucket = open_buckets.setdefault(parameter.dtype, [])
        bucket.append(parameter)
        if sum(p.numel() * p.element_size() for p in bucket) >= max_bytes:
            full.append(open_buckets.pop(parameter.dtype))
    return [_Bucket(bucket) for bucket in [*full, *open_buckets.values()]]


def _trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return those that need a gradient, each once."""
    return [p for p in dict.fromkeys(parameters) if p.requires_grad]


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's own layout, which autograd wants."""
    if parameter.is_contiguous():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _dense_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
