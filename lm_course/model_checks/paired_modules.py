"""The module of `transformers` that computes the same as one of ours, for every known family.

The pairs follow from the tables that convert the weights (transformer_lm/weights): modules that
share a weight are a pair, and so are the modules around them. A family with a table therefore needs
nothing here.

What this leaves out: functions that have no weights, such as rotary positions and softmax. They
show between the modules before and after them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from lm_core.user_error import UserError
from transformer_lm.weights.weight_layout import Source

MODEL = ""  # the name of the whole model, which returns the logits
HEAD = "output_head"  # compared as the logits, because a tied head has no module


class Pair(NamedTuple):
    """Two modules that compute the same.

    Attributes:
        ours, theirs: their names, as in `named_modules`.
        part, parts: ours returns this part of the last axis of theirs, of so many equal ones.
        halves: theirs returns the values of a head ordered by halves, ours by pairs.
        over_heads: a norm over each head, whose input is ordered in the same way.
    """

    ours: str
    theirs: str
    part: int = 0
    parts: int = 1
    halves: bool = False
    over_heads: bool = False


def paired_modules(sources: Mapping[str, Source]) -> dict[str, Pair]:
    """Return our module's name -> its pair.

    Args:
        sources: our parameter's name -> its source, from the table of a family.
    """
    found: dict[str, Pair] = {}
    for our_parameter, source in sources.items():
        ours, theirs = _outer(our_parameter), _outer(source.name)
        if ours == HEAD:
            continue
        over_heads = source.halves and ours.endswith("_norm")
        found[ours] = Pair(ours, theirs, source.part, source.parts, source.halves, over_heads)
        while "." in _outer(ours):  # blocks.0.attention, then blocks.0
            ours, theirs = _outer(ours), _outer(theirs)
            known = found.setdefault(ours, Pair(ours, theirs))
            assert known.theirs == theirs, f"{ours} is both {known.theirs} and {theirs}"
    return found | {MODEL: Pair(MODEL, MODEL)}


def _outer(name: str) -> str:
    """Return the name of the module around a module or a parameter."""
    return name.rpartition(".")[0]


def is_layer(pair: Pair) -> bool:
    """Return whether this is a layer (blocks.0.attention), not a part of one."""
    return pair.ours.count(".") <= 2


def check_names(pairs: Mapping[str, Pair], ours: nn.Module, theirs: nn.Module) -> None:
    """Raise UserError if a pair names a module that does not exist."""
    for side, model, names in (
        ("the model that is checked", ours, {pair.ours for pair in pairs.values()}),
        ("transformers' model", theirs, {pair.theirs for pair in pairs.values()}),
    ):
        missing = sorted(names - {name for name, _ in model.named_modules()})
        if missing:
            raise UserError(
                f"{side} has no module {', '.join(missing[:3])}, which the tables in "
                "transformer_lm/weights name; its layers cannot be compared"
            )


def in_our_order(value: Tensor, pair: Pair, head_dim: int, is_input: bool) -> Tensor:
    """Return what theirs reads or returns, as ours does.

    Args:
        value: [..., width], or [batch, seq, heads, head_dim] of a norm over each head.
        pair: the modules.
        head_dim: width of a head.
        is_input: whether the module reads the value, or returns it.
    """
    if is_input and not pair.over_heads:
        return value
    if not is_input and pair.parts > 1:
        value = value.chunk(pair.parts, dim=-1)[pair.part]
    if pair.halves:
        halves = value.unflatten(-1, (-1, 2, head_dim // 2))  # [..., heads, member, pair]
        value = halves.transpose(-1, -2).flatten(-3)
    return value.transpose(1, 2) if pair.over_heads else value


def shaped_like(value: Tensor, found: Tensor) -> Tensor | None:
    """Return a value in the shape that our module uses, or None if the sizes do not fit.

    A learner's code may join batch and positions, or normalize heads before it moves their axis.
    """
    if value.shape == found.shape:
        return value
    if value.dim() == 4 and value.transpose(1, 2).shape == found.shape:
        return value.transpose(1, 2)
    return value.reshape(found.shape) if value.numel() == found.numel() else None
