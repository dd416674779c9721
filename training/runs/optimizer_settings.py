"""The settings that choose the optimizer and the learning rate of every step, and what they make.

What this leaves out: the arithmetic (training/optimizers.py and training/schedules.py).
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import pydantic
import torch
from torch import Tensor, nn

from lm_core.device import faster_dtype
from lm_core.settings import Settings
from lm_core.user_error import UserError
from training.engine.fused_optimizer import FusedAdamW
from training.optimizers import (
    Muon,
    is_hidden_matrix,
    newton_schulz,
)
from training.schedules import learning_rate_at, linear_decay_at, warmup_stable_decay_at

Named = list[tuple[str, nn.Parameter]]  # parameters with their names

# precision: the type of Muon's matrix products
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@runtime_checkable
class Optimizer(Protocol):
    """The interface of every optimizer; see `training.optimizers.AdamW`."""

    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""

    def zero_gradients(self) -> None:
        """Clear the gradients."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on except the weights."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned."""


class OptimizerSettings(Settings):
    """Settings of the optimizer and its schedule.

    Attributes:
        steps: number of optimizer updates.
        schedule: how the learning rate goes down after the warm-up: "cosine", "wsd" (constant, then
            decay) or "linear". See training/schedules.py.
        learning_rate, min_learning_rate, warmup_steps: see training/schedules.py.
        decay_share, decay_shape: for "wsd", the share of the steps that decay, and how: "1-sqrt" or
            "linear".
        optimizer: "adamw", or "muon": Muon for the matrices of the blocks, AdamW for the rest.
        muon_learning_rate: the highest rate of Muon, whose schedule is that of `learning_rate`.
        width_ratio: d_model divided by the width at which the learning rate was chosen; AdamW
            divides the rate of some matrices by it (`matrices_that_sum`).
        weight_decay: see training/optimizers.py; the same for both optimizers.
        beta1, beta2: see training/optimizers.py.
    """

    steps: int = pydantic.Field(gt=0)
    schedule: Literal["cosine", "wsd", "linear"] = "cosine"
    learning_rate: float = pydantic.Field(gt=0)
    min_learning_rate: float = pydantic.Field(default=0.0, ge=0)
    warmup_steps: int = pydantic.Field(default=0, ge=0)
    decay_share: float = pydantic.Field(default=0.2, ge=0, le=1)
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_learning_rate: float = pydantic.Field(default=0.02, gt=0)
    width_ratio: float = pydantic.Field(default=1.0, gt=0)
    weight_decay: float = pydantic.Field(default=0.1, ge=0)
    beta1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    beta2: float = pydantic.Field(default=0.95, ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _rates_fit(self) -> "OptimizerSettings":
        if self.min_learning_rate > self.learning_rate:
            raise UserError(
                f"min_learning_rate = {self.min_learning_rate} is above learning_rate = "
                f"{self.learning_rate}; the schedule ends at the lower of the two"
            )
        if self.warmup_steps >= self.steps:
            raise UserError(
                f"warmup_steps = {self.warmup_steps} leaves none of the {self.steps} steps for "
                "training after the warm-up; a tenth of the steps is enough: warmup_steps = "
                f"{self.steps // 10}"
            )
        self.learning_rate_at(1)  # phases that do not fit are an error
        return self

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of an update, counted from 1; of AdamW, if there are two."""
        wsd = partial(
            warmup_stable_decay_at,
            decay_steps=round(self.decay_share * self.steps),
            decay=self.decay_shape,
        )
        schedules = {"cosine": learning_rate_at, "wsd": wsd, "linear": linear_decay_at}
        return schedules[self.schedule](
            step,
            steps=self.steps,
            warmup_steps=self.warmup_steps,
            learning_rate=self.learning_rate,
            min_learning_rate=self.min_learning_rate,
        )

    def optimizer_of(
        self, parameters: Iterable[tuple[str, nn.Parameter]], precision: str
    ) -> Optimizer:
        """Return the optimizer of these parameters, which are given with their names.

        Args:
            precision: of Muon's matrix products: "float32", "bfloat16", or "auto" for the faster.
        """
        makers = {"adamw": self._adamw, "muon": partial(self._muon, precision=precision)}
        return makers[self.optimizer](list(parameters))

    def _adamw(self, named: Named) -> Optimizer:
        parts, rates = self._adamw_parts(named)
        return parts["adamw"] if "adamw" in parts else OptimizerParts(parts, rates)

    def _muon(self, named: Named, precision: str) -> Optimizer:
        hidden = [(name, p) for name, p in named if is_hidden_matrix(name, p)]
        others = [(name, p) for name, p in named if not is_hidden_matrix(name, p)]
        dtype = faster_for_muon(hidden) if precision == "auto" else DTYPES[precision]
        muon = Muon(hidden, weight_decay=self.weight_decay, dtype=dtype)
        parts, rates = self._adamw_parts(others)
        rate = self.muon_learning_rate / self.learning_rate
        return OptimizerParts({"muon": muon, **parts}, {"muon": rate, **rates})

    def _adamw_parts(self, named: Named) -> tuple[dict[str, Optimizer], dict[str, float]]:
        """Return one AdamW, or one for the matrices whose rate is divided by `width_ratio` and one
        for all else; and the rate of each divided by that of the settings.

        The product of rate and weight decay is the same for both, so weights shrink equally fast.
        """
        make = partial(FusedAdamW, betas=(self.beta1, self.beta2))
        if self.width_ratio == 1:
            return {"adamw": make(named, weight_decay=self.weight_decay)}, {"adamw": 1.0}
        summing = matrices_that_sum(named)
        scaled = [(name, p) for name, p in named if name in summing]
        others = [(name, p) for name, p in named if name not in summing]
        parts = {
            "scaled": make(scaled, weight_decay=self.weight_decay * self.width_ratio),
            "others": make(others, weight_decay=self.weight_decay),
        }
        return parts, {"scaled": 1 / self.width_ratio, "others": 1.0}


def matrices_that_sum(named: Named) -> set[str]:
    """Return the names of the matrices that add up as many inputs as the model is wide: those of
    the blocks and the output head, which is the token embedding if there is none.

    An update of AdamW moves every entry by about the learning rate, so what it adds to a sum of
    d_model products grows with d_model, and a rate of 1 / d_model keeps it (Yang et al., 2022,
    "Tensor Programs V", table 3). Embeddings and vectors add nothing up.
    """
    heads = {name for name, _ in named if name.startswith("output_head.")}
    hidden = {name for name, parameter in named if is_hidden_matrix(name, parameter)}
    return hidden | (heads or {"token_embedding.weight"})


class OptimizerParts:
    """Several optimizers as one, each of other parameters and with a rate of its own, so that one
    schedule serves all.

    Args:
        parts: by a name, under which a checkpoint has the part's state.
        rates: by the same name, the part's learning rate divided by that of a step.
    """

    def __init__(self, parts: dict[str, Optimizer], rates: dict[str, float]) -> None:
        self.parts = parts
        self.rates = rates

    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for name, part in self.parts.items():
            part.step(learning_rate * self.rates[name])

    def zero_gradients(self) -> None:
        """Clear the gradients, so that the next backward pass does not add to them."""
        for part in self.parts.values():
            part.zero_gradients()

    def state(self) -> dict[str, Tensor]:
        """Return the states of all parts, for a checkpoint."""
        return {
            f"{name}/{key}": tensor
            for name, part in self.parts.items()
            for key, tensor in part.state().items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned.

        Raises:
            ValueError: it belongs to a model with other parameters.
        """
        for name, part in self.parts.items():
            prefix = f"{name}/"
            own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            part.load_state({key.removeprefix(prefix): own[key] for key in own})


def faster_for_muon(hidden: list[tuple[str, nn.Parameter]]) -> torch.dtype | None:
    """Return the type in which `newton_schulz` is faster on the parameters' device.

    None, Muon's default, if that is not a CPU.
    """
    if not hidden or hidden[0][1].device.type != "cpu":
        return None
    largest = max((parameter for _, parameter in hidden), key=torch.numel)
    matrices = torch.ones(2, *largest.shape)
    device = torch.device("cpu")
    return faster_dtype(lambda dtype: newton_schulz(matrices.to(dtype)), device, repeats=3)[0]
