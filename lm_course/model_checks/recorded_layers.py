"""The inputs and outputs of each module in one forward pass, recorded by hooks; or replaced by the
values of another model.

With replaced values, every module reads what the other model's module read, so that a mistake in
one does not show in those after it.

What this leaves out: further calls of a module in the same pass; the first is recorded.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

INPUT, OUTPUT = "input", "output"
Event = tuple[str, str]  # INPUT or OUTPUT, and the module's name
Replace = Callable[[Event, Tensor], Tensor | None]  # the value to use instead; None for the same


@dataclass
class Recorded:
    """Values by event, in the order in which they came: float tensors as they were.

    Attributes:
        values: what each module read (its first float tensor) and returned (the same).
        called: names of the modules that were called.
    """

    values: dict[Event, Tensor] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)


def record(
    model: nn.Module,
    names: Iterable[str],
    token_ids: Tensor,
    replace: Replace | None = None,
    **arguments: Any,
) -> Recorded:
    """Run a model once without gradients.

    Args:
        model: any module that takes token ids.
        names: the modules to record; "" is the whole model, whose logits are its output.
        token_ids: [batch, seq].
        replace: what a module reads or returns instead. Never asked for the whole model.
        arguments: further arguments of the model.
    """
    recorded = Recorded()
    with ExitStack() as stack, torch.no_grad():
        for name in names:
            module = model.get_submodule(name)
            for handle in _hooks(name, module, recorded, replace):
                stack.callback(handle.remove)
        model(token_ids, **arguments)
    return recorded


def _hooks(name: str, module: nn.Module, recorded: Recorded, replace: Replace | None) -> Any:
    asks = replace is not None and name != ""

    def seen(kind: str, value: Tensor) -> Tensor | None:
        recorded.values.setdefault((kind, name), value.detach())
        return replace((kind, name), value) if asks else None

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorded.called.add(name)
        keys: Mapping[Any, Any] = dict(enumerate(args)) | kwargs
        key = next((key for key, value in keys.items() if is_float(value)), None)
        if key is None:
            return None
        other = seen(INPUT, keys[key])
        if other is None:
            return None
        changed = {**keys, key: other}
        return tuple(changed[i] for i in range(len(args))), {k: changed[k] for k in kwargs}

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        value = output_tensor(output)
        other = None if value is None else seen(OUTPUT, value)
        if other is None:
            return None
        return (other, *output[1:]) if isinstance(output, tuple) else other

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    yield module.register_forward_hook(after)


def is_float(value: Any) -> bool:
    """Return whether this is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def output_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a module returned, alone, first in a tuple, or as logits."""
    value = getattr(output, "logits", output)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if is_float(value) else None
