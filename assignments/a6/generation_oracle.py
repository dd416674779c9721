"""Generation in the obvious way: the whole text is read again for every token.

Nothing here imports the code under test: the caller passes the module `inference.sampling` that
draws. What this leaves out: tensors, caches, batches.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def logits_after(model: nn.Module, ids: Sequence[int]) -> Tensor:
    """Return the logits after a text."""
    return model(torch.tensor([list(ids)]))[0, -1]


def greedy(model: nn.Module, prompt: Sequence[int], count: int) -> list[int]:
    """Return the `count` tokens that are most likely, one after the other."""
    answer: list[int] = []
    for _ in range(count):
        answer.append(int(logits_after(model, [*prompt, *answer]).argmax()))
    return answer


def one_text(
    sampling: ModuleType,
    model: nn.Module,
    prompt: Sequence[int],
    settings: Any,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    drawable: Sequence[bool] | None = None,
) -> list[int]:
    """Return the answer to one prompt, until a stop id, the limit, or the end of the context."""
    answer: list[int] = []
    room = model.config.context_length - len(prompt) + 1
    while len(answer) < min(max_new_tokens, room):
        logits = logits_after(model, [*prompt, *answer])
        if drawable is not None:
            logits = logits.masked_fill(~torch.tensor(drawable), -math.inf)
        logits = sampling.penalize(logits, list(prompt), list(answer), settings)
        (token,) = sampling.sample(logits[None], [settings], [len(answer)])
        if token in stop_ids:
            break
        answer.append(token)
    return answer


def steps_of(texts: Sequence[Sequence[int]]) -> list[list[int | None]]:
    """Return what generate_steps yields for these answers."""
    longest = max(map(len, texts))
    return [[text[i] if i < len(text) else None for text in texts] for i in range(longest)]


@contextmanager
def reads_of(model: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Yield a list that gets the shape of the ids of each forward pass of the model."""
    shapes: list[tuple[int, ...]] = []

    def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        shapes.append(tuple((args[0] if args else named["token_ids"]).shape))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()
