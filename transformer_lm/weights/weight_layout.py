"""The place of each of our tensors in a foreign file: one table for each family, used in both
directions.

Files differ in four properties, which a `Source` describes: the name; one tensor that contains
several of ours (GPT-2's c_attn is query, key and value); a matrix stored as [d_in, d_out]; and the
order of a head's rows. We rotate adjacent pairs (2i, 2i + 1) of a head, Hugging Face rotates (i, i
+ head_dim / 2), so each head's even rows come first in their file and its odd rows after.

What this leaves out: the families (llama_layout.py, gpt2_layout.py) and the files.

Rotary pairs: Su et al., 2021, equation 34.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig

MOST_PROBLEMS_LISTED = 5
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Source(NamedTuple):
    """The place of one of our tensors.

    Attributes:
        name: name of their tensor.
        part, parts: index of ours, and number of the equal, consecutive parts of their tensor.
        transposed: theirs is [d_in, d_out]; ours is [d_out, d_in].
        halves: their heads' rows are ordered by halves; ours by pairs.
    """

    name: str
    part: int = 0
    parts: int = 1
    transposed: bool = False
    halves: bool = False


class Family(NamedTuple):
    """An architecture in other programs' layout.

    Attributes:
        name: its `model_type` in config.json.
        needs: the values that our config must have for this family to compute the same, by field;
            fields that may have any value are omitted.
        sources: our parameter's name -> its source.
        to_config: our config -> config.json, without the ids of special tokens.
        from_config: config.json -> our config; ValueError for unsupported values.
        prefix: prefix of all names except the output head's; a file without it is also accepted.
        embedding, head: names of the token embedding and of the output head.
        ignored: endings of names that are not weights.
    """

    name: str
    needs: Callable[[ModelConfig], dict[str, Any]]
    sources: Callable[[ModelConfig], dict[str, Source]]
    to_config: Callable[[ModelConfig], dict[str, Any]]
    from_config: Callable[[dict[str, Any]], ModelConfig]
    prefix: str = ""
    embedding: str = ""
    head: str = ""
    ignored: tuple[str, ...] = ()

    def misfits(self, config: ModelConfig) -> dict[str, Any]:
        """Return the fields of `config` that this family does not support, with the values that it
        needs.
        """
        needs = self.needs(config)
        return {field: value for field, value in needs.items() if getattr(config, field) != value}


def pairs_to_halves(
    weight: Float[Tensor, "width *rest"], head_dim: int
) -> Float[Tensor, "width *rest"]:
    """Reorder, within each head, rows (0, 1, 2, 3, ...) -> (0, 2, 4, ..., 1, 3, 5, ...)."""
    pairs = weight.unflatten(0, (-1, head_dim // 2, 2))  # [heads, pair, member, *rest]
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()


def halves_to_pairs(
    weight: Float[Tensor, "width *rest"], head_dim: int
) -> Float[Tensor, "width *rest"]:
    """Reorder rows by the inverse of `pairs_to_halves`."""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))  # [heads, member, pair, *rest]
    return halves.transpose(1, 2).flatten(0, 2).contiguous()


def to_their_layout(
    ours: Mapping[str, Tensor], sources: Mapping[str, Source], head_dim: int
) -> dict[str, Tensor]:
    """Convert our tensors, by our names, to theirs, by their names."""
    theirs = {}
    for name, parts in _by_their_name(sources).items():
        pieces = []
        for our_name in parts:
            weight = ours[our_name]
            halves = sources[our_name].halves
            pieces.append(pairs_to_halves(weight, head_dim) if halves else weight)
        joined = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        transposed = sources[parts[0]].transposed
        theirs[name] = joined.T.contiguous() if transposed else joined
    return theirs


def to_our_layout(theirs: Tensor, source: Source, head_dim: int) -> Tensor:
    """Return the part of their tensor that `source` names, in our order."""
    weight = theirs.T if source.transposed else theirs
    weight = weight.chunk(source.parts)[source.part] if source.parts > 1 else weight
    return halves_to_pairs(weight, head_dim) if source.halves else weight.contiguous()


def their_shapes(
    our_shapes: Mapping[str, Sequence[int]], sources: Mapping[str, Source]
) -> dict[str, tuple[int, ...]]:
    """Return the shape that each of their tensors must have."""
    shapes = {}
    for name, parts in _by_their_name(sources).items():
        _, *rest = our_shapes[parts[0]]
        shape = (sum(our_shapes[part][0] for part in parts), *rest)
        shapes[name] = shape[::-1] if sources[parts[0]].transposed else shape
    return shapes


def _by_their_name(sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """Return their name -> our names, in their order in the tensor."""
    names: dict[str, list[str]] = {}
    for ours, source in sorted(sources.items(), key=lambda item: item[1].part):
        names.setdefault(source.name, []).append(ours)
    return names


def shape_problems(
    found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]
) -> list[str]:
    """Return the names that are missing, unknown, or of another shape.

    They alternate between the kinds, so that the first few show every kind.
    """
    missing = [f"{name} is missing" for name in expected if name not in found]
    unknown = [f"{name} is not known" for name in sorted(found.keys() - expected.keys())]
    misshapen = [
        f"{name} has shape {tuple(found[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    return in_turn(missing, unknown, misshapen)


def in_turn(*kinds: Sequence[str]) -> list[str]:
    """Return the first of every kind, then the second of each, and so on."""
    rows = itertools.zip_longest(*kinds)
    return [problem for row in rows for problem in row if problem is not None]


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], origin: str
) -> None:
    """Raise ValueError if tensors are missing, unknown, of another shape, or not finite.

    Args:
        tensors: the tensors that were found.
        expected: the shape of each.
        origin: the origin of the shapes, for the message ("config.json").
    """
    misfits = shape_problems({name: t.shape for name, t in tensors.items()}, expected)
    problems = []
    for name in (name for name in expected if name in tensors):
        if tensors[name].dtype not in WEIGHT_DTYPES:
            dtype = str(tensors[name].dtype).removeprefix("torch.")
            problems.append(f"{name} holds {dtype}, expected floating-point numbers")
        elif not is_finite(tensors[name]):
            problems.append(f"{name} holds NaN or infinity")
    refuse_all(in_turn(problems, misfits), f"the checkpoint does not fit its {origin}")


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinity, by checking the minimum and the maximum.

    It makes one pass without a copy; `torch.isfinite(tensor).all()` took 20 times as long for 28
    million values (0.54 against 0.02 s, one thread).
    """
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def refuse_overflow(weights: Mapping[str, Tensor], sources: Mapping[str, Source]) -> None:
    """Raise ValueError if finite weights became infinite in another number format.

    Args:
        weights: by our names, after the conversion.
        sources: the source of each, for the message.
    """
    lost = [name for name, weight in weights.items() if not is_finite(weight)]
    if lost:
        dtype = weights[lost[0]].dtype
        kind = str(dtype).removeprefix("torch.")
        way_out = "bfloat16 or float32" if dtype == torch.float16 else "a wider format"
        names = dict.fromkeys(sources[name].name for name in lost)
        refuse_all(
            [f"{name} would hold infinity" for name in names],
            f"{kind} ends at {torch.finfo(dtype).max:.5g}; choose {way_out}",
        )


def refuse_all(problems: Sequence[str], about: str) -> None:
    """Raise ValueError, if there are problems, with the first few and the number of the others."""
    if problems:
        listed = "; ".join(problems[:MOST_PROBLEMS_LISTED])
        more = len(problems) - MOST_PROBLEMS_LISTED
        raise UserError(f"{about}: {listed}" + (f"; and {more} more" if more > 0 else ""))
