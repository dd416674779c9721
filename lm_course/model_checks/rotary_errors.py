"""The error of our rotary embedding, which has no weights and so no pair among the modules.

Every call is compared with the angles of `transformers`, applied to the same vectors in float64.
Its result is then replaced, so that a mistake in it does not show as one of the scores.

What this leaves out: a learner's code that turns vectors without calling the model's `rotary`. It
then shows between the projections and the output of the attention.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lm_course.model_checks.paired_modules import shaped_like

THEIR_NAME = "rotary_emb"


class RotaryError(NamedTuple):
    """The largest error of the calls in one block, relative to the scale of the turned vectors."""

    block: str
    here: float
    scale: float


@contextmanager
def recorded_angles(theirs: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the cosines and sines, [1, seq, head_dim], that `transformers` computes while inside;
    none for a model without rotary positions.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, __: Any, angles: tuple[Tensor, Tensor]) -> None:
        found.append(angles)

    with ExitStack() as stack:
        for name, module in theirs.named_modules():
            if name.rpartition(".")[2] == THEIR_NAME:
                stack.callback(module.register_forward_hook(keep).remove)
        yield found


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return vectors [..., seq, head_dim] of adjacent pairs, turned by angles given by halves."""
    half = x.shape[-1] // 2
    cosines, sines = cosines[..., :half], sines[..., :half]
    first, second = x[..., 0::2], x[..., 1::2]
    pairs = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.stack(pairs, dim=-1).flatten(-2)


@contextmanager
def checked_rotary(ours: nn.Module, angles: list[tuple[Tensor, Tensor]]) -> Iterator[list[Any]]:
    """Check each call of our rotary embedding while inside, and replace its result.

    Args:
        ours: our model.
        angles: from `recorded_angles`, in float64.

    Yields:
        RotaryError of each block that has called it, in order.
    """
    rows: list[RotaryError] = []
    rotary = getattr(ours, "rotary", None)
    if not (angles and isinstance(rotary, nn.Module)):
        yield rows
        return
    (cosines, sines), current = angles[0], [""]

    def enter(name: str) -> Any:
        def hook(_: nn.Module, __: Any) -> None:
            current[0] = name

        return hook

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Tensor) -> Tensor | None:
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        exact = turned(x.detach().cpu().double(), cosines.double(), sines.double())
        scale = exact.abs().max().item()
        found = shaped_like(output.detach().cpu().double(), exact)
        error = torch.inf if found is None else (found - exact).abs().max().item() / (scale or 1.0)
        rows.append(RotaryError(current[0], error, scale))
        fitting = shaped_like(exact, output)
        return None if fitting is None else fitting.to(output)

    with ExitStack() as stack:
        for number, block in enumerate(ours.blocks):
            handle = block.register_forward_pre_hook(enter(f"blocks.{number}"))
            stack.callback(handle.remove)
        stack.callback(rotary.register_forward_hook(check, with_kwargs=True).remove)
        yield rows


def worst_by_block(rows: list[RotaryError]) -> dict[str, RotaryError]:
    """Return the largest error of each block, which calls it for queries and for keys."""
    worst: dict[str, RotaryError] = {}
    for row in rows:
        if row.block not in worst or not row.here <= worst[row.block].here:
            worst[row.block] = row
    return worst
