"""Solution of task 9 of a3, written from the handout alone, another way than the reference's.

What is not a task's comes from the stub.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

MicroBatch = TypeVar("MicroBatch")
LossSum = Callable[[nn.Module, MicroBatch], tuple[Tensor, Tensor | int]]


def accumulate_gradients(
    model: nn.Module, loss_sum_of: LossSum[MicroBatch], micro_batches: Iterable[MicroBatch]
) -> Tensor:
    """Leave the gradient of the whole batch's mean loss in `model`, and return that loss.

    Sums of gradients are kept in float32 (float64 for float64 parameters), also for parameters in
    bfloat16, where a small gradient would vanish next to a large sum.

    Args:
        model: whose parameters have no gradients yet.
        loss_sum_of: (model, micro-batch) -> the sum of the losses of its counted tokens, and their
            number; 0 and 0 if there are none.
        micro_batches: the parts of one batch.

    Raises:
        ValueError: there are gradients already, or no token of the batch counts (seen only if the
            number is on the CPU; otherwise the loss is NaN).
    """
    wanted = [each for each in model.parameters() if each.requires_grad]
    if [each for each in wanted if each.grad is not None]:
        raise ValueError("these parameters have gradients of an earlier batch")
    sums: list[Tensor | None] = [None] * len(wanted)
    losses, number = [], 0
    for part in micro_batches:
        loss, counted = loss_sum_of(model, part)
        found = torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else ()
        for place, gradient in enumerate(found):
            if gradient is not None:
                wide = gradient.double() if gradient.dtype == torch.float64 else gradient.float()
                sums[place] = wide if sums[place] is None else sums[place] + wide
        losses.append(loss.detach())
        number += int(counted)
    if not number:
        raise ValueError("no token counts")
    for parameter, total in zip(wanted, sums, strict=True):
        if total is not None:
            parameter.grad = (total / number).to(parameter.dtype)
    return torch.stack(losses).sum() / number
