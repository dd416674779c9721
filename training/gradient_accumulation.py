"""Gradient accumulation: the gradient of a large batch, from micro-batches that fit into memory.

Each micro-batch goes forward and backward alone, and the gradients add up. The result is the
gradient of the whole batch's mean loss *per token*, also if micro-batches hold different numbers of
counted tokens (padding and masked tokens do not count). So what adds up is the gradient of each
micro-batch's *sum* of losses, and the total is divided once, by the number of counted tokens of the
whole batch. The mean of the micro-batches' means would give a token more weight the fewer others
its micro-batch holds.

What this leaves out: clipping and the optimizer's step, which come once, after this.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lm_core.user_error import UserError

MicroBatch = TypeVar("MicroBatch")
LossSum = Callable[[nn.Module, MicroBatch], tuple[Tensor, Tensor | int]]


def accumulate_gradients(
    model: nn.Module, loss_sum_of: LossSum[MicroBatch], micro_batches: Iterable[MicroBatch]
) -> Float[Tensor, ""]:
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
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if any(parameter.grad is not None for parameter in parameters):
        raise UserError("the parameters have gradients already; clear them before a new batch")
    sums: dict[Tensor, Tensor] = {}  # for parameters of 16 bits
    total_loss, total_count = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    for micro_batch in micro_batches:
        loss, count = loss_sum_of(model, micro_batch)
        loss.backward()
        total_loss = total_loss.to(loss) + loss.detach()
        total_count = total_count.to(loss.device) + count
        for parameter in parameters:
            if parameter.dtype.itemsize < 4 and parameter.grad is not None:
                gradient = parameter.grad.float()
                sums[parameter] = sums[parameter] + gradient if parameter in sums else gradient
                parameter.grad = None
    if total_count.is_cpu and total_count == 0:
        raise UserError("no token of the batch counts for the loss; leave such batches out")
    for parameter in parameters:
        if parameter in sums:
            parameter.grad = (sums[parameter] / total_count).to(parameter.dtype)
        elif parameter.grad is not None:
            parameter.grad /= total_count
    return total_loss / total_count
