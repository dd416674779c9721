"""Activation checkpointing: keep only a function's inputs, and compute the rest again for backward.

The backward pass needs the results of the operations in the forward pass, so memory grows with
every layer. `checkpointed` keeps the inputs of a whole function, such as a block of the model, and
nothing of what it computes in between. When the gradient arrives, the function runs once more, this
time with its intermediate results kept, and the gradient goes through them. That costs one more
forward pass, a third of a step's FLOPs at most (transformer_lm/model_cost.py counts both).

The second run must compute the same as the first, so it draws the same random numbers (dropout) and
uses the same autocast setting. The gradients are then equal to the last bit, except that a weight
which is also used outside gets its gradients added in another order.

What this leaves out: `torch.autograd.grad` and second derivatives, because parameters that the
function uses receive their gradients while `backward` runs; and functions that change their inputs.

Chen et al., 2016 ("Training deep nets with sublinear memory cost"), section 4.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lm_core.random_state import capture_random_state, restore_random_state
from lm_core.user_error import UserError


def checkpointed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return function(*inputs), keeping only the inputs for the backward pass.

    Args:
        function: returns a tensor or a tuple of tensors. It may use parameters that are not among
            its inputs, and other checkpointed functions.
        inputs: tensors, and anything else, which is passed on.
    """
    # Autograd calls a backward only if an input needs a gradient. This one does, so the parameters
    # that the function uses get theirs even if none of `inputs` needs one.
    always = torch.empty(0, requires_grad=True)
    return _Checkpointed.apply(function, _autocast_settings(inputs), always, *inputs)


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Any], autocast: dict[str, Any], _: Tensor, *inputs: Any
    ) -> Any:
        ctx.function, ctx.autocast = function, autocast
        ctx.random_state = capture_random_state()
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.is_tensor = [isinstance(x, Tensor) for x in inputs]
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        return function(*inputs)  # without gradients: none are recorded in a Function's forward

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if not torch.autograd._is_checkpoint_valid():
            raise UserError(
                "checkpointed functions need loss.backward(); torch.autograd.grad would leave out "
                "the parameters' gradients"
            )
        saved = iter(ctx.saved_tensors)
        inputs = [
            next(saved).detach().requires_grad_(needed) if is_tensor else other
            for is_tensor, other, needed in zip(
                ctx.is_tensor, ctx.others, ctx.needs_input_grad[3:], strict=True
            )
        ]
        after = capture_random_state()
        restore_random_state(ctx.random_state)
        with torch.enable_grad(), _autocast(ctx.autocast):
            outputs = ctx.function(*inputs)
        restore_random_state(after)
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if isinstance(output, Tensor) and output.requires_grad
        ]
        if pairs:
            torch.autograd.backward(*zip(*pairs, strict=True))
        found = (x.grad if isinstance(x, Tensor) else None for x in inputs)
        return None, None, None, *found


def _autocast_settings(inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Return for the CPU and the inputs' devices whether autocast is on, and its type."""
    devices = {"cpu", *(x.device.type for x in inputs if isinstance(x, Tensor))}
    return {
        device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in sorted(devices)
        if torch.amp.is_autocast_available(device)
    }


@contextmanager
def _autocast(settings: dict[str, Any]) -> Iterator[None]:
    """Switch autocast on or off as `_autocast_settings` found it."""
    with ExitStack() as stack:
        for device, (enabled, dtype) in settings.items():
            stack.enter_context(torch.autocast(device, dtype, enabled=enabled))
        yield


def checkpoint_blocks(model: nn.Module) -> None:
    """Make every block of the model (`model.blocks`) a checkpointed function.

    Names of parameters stay as they are, so checkpoints on disk do too.
    """
    for block in model.blocks:
        block.forward = _checkpointed_forward(block.forward)


def _checkpointed_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any, **named: Any) -> Any:
        return checkpointed(lambda *again: forward(*again, **named), *inputs)

    return run
