"""The error of every layer against the same layer of `transformers` in float64, and which is the
first that is wrong.

Two errors are measured for each layer. The error *here* is that of the layer alone: it reads what
the layer of `transformers` read, and the values after it are replaced by those of `transformers`
again. The error *of the whole run* includes that of all layers before. Both are relative to the
tensor's scale, its largest value.

An error is too large above 4 times the larger of two figures:

- the error of `transformers` itself, in the same number type, at the same place;
- the expected rounding error. Errors of either sign add up like a random walk (Higham, 2002,
  section 2.8), so r roundings in a row, to a type of unit roundoff u, give u sqrt(r). A norm or a
  sum of two tensors has r = 4, and an attention or a feed-forward layer 16. A layer that sums up to
  n products, in float32 or wider, adds 2^-24 sqrt(n). An attention with rotary positions adds
  p 2^-24, the error of an angle of p radians, because `transformers` computes the angles of p
  positions in float32.

For the whole run, r = 16 and n are multiplied by the number of layers.

What this leaves out: values that the type cannot hold. Where `transformers` itself overflows,
errors are not compared.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lm_course.model_checks.paired_modules import (
    MODEL,
    Pair,
    in_our_order,
    is_layer,
    shaped_like,
)
from lm_course.model_checks.recorded_layers import INPUT, OUTPUT, Event, Recorded, record
from lm_course.model_checks.rotary_errors import (
    RotaryError,
    checked_rotary,
    recorded_angles,
    worst_by_block,
)
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

ALLOWED = 4.0  # times the expected error; see above
WIDE_ROUNDOFF = 2.0**-24  # of float32
ROUNDINGS = 4  # of a norm: square, root, and two products
ROUNDINGS_OF_A_LAYER = 16  # three projections, rotation, scores, softmax, values, output
IN_ATTENTION = re.compile(r"\.attention(\.|$)")
# Layers and parts that sum products; the others work on single values, or on a mean of squares.
SUMS = re.compile(r"\.(attention|feed_forward)(\.(query|key|value|output|gate|up|down))?$|^logits$")


@dataclass(frozen=True)
class LayerError:
    """The errors at one place, relative to the tensor's scale.

    Attributes:
        name: our module; "logits" and "loss" for the end of the model.
        kind: whether the module reads the tensor ("input") or returns it ("output").
        scale: largest absolute value of the exact tensor.
        here, theirs: error of this layer alone, and that of `transformers`.
        tolerance: the largest allowed value of `here`.
        whole, whole_tolerance: the same for the whole run; NaN for an input.
    """

    name: str
    kind: str
    scale: float
    here: float
    theirs: float
    tolerance: float
    whole: float = math.nan
    whole_tolerance: float = math.nan

    @property
    def comparable(self) -> bool:
        """Return whether `transformers` itself has a finite value here."""
        return math.isfinite(self.theirs) and math.isfinite(self.scale)

    @property
    def verdict(self) -> str:
        """Return "equal", "wrong", "inherited", or "overflow" (of `transformers`)."""
        if not self.comparable:
            return "overflow"
        if not self.here <= self.tolerance:  # NaN is wrong, too
            return "wrong"
        if self.kind == INPUT or self.whole <= self.whole_tolerance:
            return "equal"
        return "inherited"

    def as_json(self) -> dict[str, Any]:
        """Return the fields and the verdict; null for a figure that is not finite."""
        finite = {
            name: value if isinstance(value, str) or math.isfinite(value) else None
            for name, value in vars(self).items()
        }
        return finite | {"verdict": self.verdict}


def with_weights_in(model: nn.Module, rounded: torch.dtype, dtype: torch.dtype) -> nn.Module:
    """Return a copy whose parameters are rounded to one type and stored in another.

    Buffers and tables, such as those of rotary angles, keep their type.
    """
    changed = copy.deepcopy(model)
    for parameter in changed.parameters():
        parameter.data = parameter.data.to(rounded).to(dtype)
    return changed


def relative_error(found: Tensor | None, exact: Tensor) -> float:
    """Return the largest difference, divided by the largest value of `exact`; infinite if nothing
    was found, or a tensor of another size.
    """
    found = None if found is None else found.detach().cpu().double()
    found = None if found is None else shaped_like(found, exact)
    if found is None:
        return math.inf
    largest = exact.abs().max().item()
    difference = (found - exact).abs().max().item()
    return difference / largest if largest else difference


class Reference:
    """The values of `transformers` in one number type, and the exact ones.

    Args:
        theirs: the model of `transformers`, in float32.
        pairs: from `paired_modules`.
        config: our shape.
        dtype: the type to compute in.
        token_ids: [batch, seq].
    """

    def __init__(
        self,
        theirs: nn.Module,
        pairs: Mapping[str, Pair],
        config: ModelConfig,
        dtype: torch.dtype,
        token_ids: Tensor,
    ) -> None:
        self.pairs, self.config, self.dtype, self.token_ids = pairs, config, dtype, token_ids
        self.typed = with_weights_in(theirs, dtype, dtype)
        self.wide = with_weights_in(theirs, dtype, torch.float64)
        names = {pair.theirs for pair in pairs.values()}
        recorded = self._run(self.typed, names)
        self.values = self._by_our_names(recorded)
        with recorded_angles(self.wide) as self.angles:
            self.exact_whole = self._by_our_names(self._run(self.wide, names))
        self.exact_here: dict[bool, dict[Event, Tensor]] = {}
        for parts in (False, True):
            chosen = {pair.theirs for pair in pairs.values() if parts or is_layer(pair)}

            def typed(event: Event, found: Tensor) -> Tensor:
                return recorded.values[event].to(found.dtype)

            found = self._run(self.wide, chosen, typed)
            self.exact_here[parts] = self._by_our_names(found)

    def _run(
        self,
        model: nn.Module,
        names: set[str],
        replace: Callable[[Event, Tensor], Tensor | None] | None = None,
    ) -> Recorded:
        recorded = record(model, names, self.token_ids, replace, use_cache=False)
        missing = sorted(names - recorded.called)
        assert not missing, f"transformers does not call {missing}: the tables name other modules"
        return recorded

    def _by_our_names(self, recorded: Recorded) -> dict[Event, Tensor]:
        """Return the values by our names, in the order in which `transformers` computes them."""
        ours: dict[str, list[Pair]] = {}
        for pair in self.pairs.values():
            ours.setdefault(pair.theirs, []).append(pair)
        head_dim = self.config.head_dim
        return {
            (kind, pair.ours): in_our_order(value, pair, head_dim, kind == INPUT)
            for (kind, theirs), value in recorded.values.items()
            for pair in ours[theirs]
        }

    def tolerance(self, theirs: float, name: str = "logits", whole: bool = False) -> float:
        """Return the largest allowed relative error.

        Args:
            theirs: that of `transformers`.
            name: the layer.
            whole: for the whole run, or for the layer alone.
        """
        config, sums = self.config, whole or SUMS.search(name)
        longest = max(config.d_model, config.d_ff, config.num_heads * config.head_dim)
        layers = 2 * config.num_layers + 2 if whole else 1
        roundings = ROUNDINGS_OF_A_LAYER if sums else ROUNDINGS
        expected = torch.finfo(self.dtype).eps / 2 * math.sqrt(roundings * layers)
        if sums:
            expected += WIDE_ROUNDOFF * math.sqrt(longest * layers)
        if config.position == "rotary" and (whole or IN_ATTENTION.search(name)):
            expected += self.token_ids.shape[1] * WIDE_ROUNDOFF
        return ALLOWED * max(theirs, expected)


def layer_errors(ours: TransformerLM, reference: Reference, parts: bool) -> list[LayerError]:
    """Return the errors at every place, in the order in which `transformers` computes them.

    Args:
        ours: the model to check, in the reference's type, on any device.
        reference: see Reference.
        parts: whether to replace values inside of layers too, and so to separate their parts.
    """
    token_ids = reference.token_ids.to(next(ours.parameters()).device)
    names = [name for name, pair in reference.pairs.items() if parts or is_layer(pair)]
    values = reference.values

    def theirs(event: Event, found: Tensor) -> Tensor | None:
        if event not in values:
            return None
        fitting = shaped_like(values[event], found)
        return None if fitting is None else fitting.to(found)

    with checked_rotary(ours, reference.angles if parts else []) as turns:
        here = record(ours, names, token_ids, theirs)
    whole = record(ours, names, token_ids)
    errors, rotary = [], worst_by_block(turns)
    for event, exact in reference.exact_here[parts].items():
        kind, name = event
        if name not in names or (kind == INPUT and event not in here.values):
            continue  # a module that is not called shows in what the next one reads
        if kind == OUTPUT and name != MODEL and name not in here.called:
            continue
        block = name.removesuffix(".attention.output")
        if kind == INPUT and block != name and block in rotary:
            errors.append(_rotary_row(rotary[block], reference))
        exact, exact_whole = exact.double(), reference.exact_whole[event].double()
        own = relative_error(values[event], exact)
        row = LayerError(
            name=name or "logits",
            kind=kind,
            scale=exact.abs().max().item(),
            here=relative_error(here.values.get(event), exact),
            theirs=own,
            tolerance=reference.tolerance(own, name or "logits"),
        )
        if kind == OUTPUT:
            own_whole = relative_error(values[event], exact_whole)
            found = relative_error(whole.values.get(event), exact_whole)
            limit = reference.tolerance(own_whole, whole=True)
            row = LayerError(**vars(row) | {"whole": found, "whole_tolerance": limit})
        errors.append(row)
    return errors


def _rotary_row(error: RotaryError, reference: Reference) -> LayerError:
    """Return the row of the rotary embedding in one block, which has no error of `transformers`."""
    name = f"{error.block}.attention.rotary"
    return LayerError(
        name=name,
        kind=OUTPUT,
        scale=error.scale,
        here=error.here,
        theirs=0.0,
        tolerance=reference.tolerance(0.0, name),
        whole=0.0,
        whole_tolerance=0.0,
    )
