"""The settings that choose the optimizer and the learning rate of every step, and what they make.

What this leaves out: the arithmetic (training/optimizers.py and training/schedules.py).
"""

from collections.abc import Callable, Iterable
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
    AdamW,
    Muon,
    MuonWithAdamW,
    is_hidden_matrix,
    newton_schulz,
)
from training.schedules import learning_rate_at, linear_decay_at, warmup_stable_decay_at

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
        width_ratio: d_model divided by the width at which the learning rate was chosen; see
            `WidthScaledAdamW`.
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
                "training after the warm-up; a tenth of the steps is enough"
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

    def _adamw(self, named: list[tuple[str, nn.Parameter]]) -> "AdamW | WidthScaledAdamW":
        make = partial(FusedAdamW, betas=(self.beta1, self.beta2))
        if self.width_ratio == 1:
            return make(named, weight_decay=self.weight_decay)
        return WidthScaledAdamW(named, make, self.width_ratio, self.weight_decay)

    def _muon(self, named: list[tuple[str, nn.Parameter]], precision: str) -> MuonWithAdamW:
        hidden = [(name, p) for name, p in named if is_hidden_matrix(name, p)]
        others = [(name, p) for name, p in named if not is_hidden_matrix(name, p)]
        dtype = faster_for_muon(hidden) if precision == "auto" else DTYPES[precision]
        muon = Muon(hidden, weight_decay=self.weight_decay, dtype=dtype)
        return MuonWithAdamW(
            muon, self._adamw(others), self.muon_learning_rate / self.learning_rate
        )


class WidthScaledAdamW:
    """AdamW with a lower learning rate for the matrices that add up d_model inputs: those of the
    blocks and the output head.

    An update of AdamW moves every entry by about the learning rate, so what it adds to a sum of
    d_model products grows with d_model; a rate of 1 / d_model keeps it (Yang et al., 2022, table
    3). Embeddings and vectors add nothing up. The product of rate and weight decay is the same for
    all, so weights shrink equally fast.

    Args:
        parameters: by name. Without an output head, the token embedding is the head.
        make: (parameters, weight_decay=) -> an AdamW.
        width_ratio: the rate of these matrices is the learning rate divided by it.
        weight_decay: for the others.
    """

    def __init__(
        self,
        parameters: list[tuple[str, nn.Parameter]],
        make: Callable[..., AdamW],
        width_ratio: float,
        weight_decay: float,
    ) -> None:
        heads = [name for name, _ in parameters if name.startswith("output_head.")]
        summing = set(heads or ["token_embedding.weight"])
        summing |= {name for name, p in parameters if is_hidden_matrix(name, p)}
        scaled = [(name, p) for name, p in parameters if name in summing]
        others = [(name, p) for name, p in parameters if name not in summing]
        self.parts = {
            "scaled": make(scaled, weight_decay=weight_decay * width_ratio),
            "others": make(others, weight_decay=weight_decay),
        }
        self.divisors = {"scaled": width_ratio, "others": 1.0}

    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient; the learning rate is that of the others."""
        for name, part in self.parts.items():
            part.step(learning_rate / self.divisors[name])

    def zero_gradients(self) -> None:
        """Clear the gradients, so that the next backward pass does not add to them."""
        for part in self.parts.values():
            part.zero_gradients()

    def state(self) -> dict[str, Tensor]:
        """Return the states of both, for a checkpoint."""
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
            part.load_state({key.removeprefix(prefix): tensor for key, tensor in own.items()})


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
