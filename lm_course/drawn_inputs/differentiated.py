"""A result with its gradients: what a call returns if gradients count, and how both are compared.

The gradient of every leaf (an input, a parameter) is part of what is compared with the reference.
The contracts also compute the result again, and compare the gradients with differences of the
function itself (contracts.py). What this leaves out: second derivatives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lm_course.drawn_inputs.result_comparison import Within
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import Words, check_true

ALLOWED = 0.03  # of a derivative, for the differences of functions that compute in float32
ALLOWED_IN_FLOAT64 = 1e-5
LARGEST = 10.0  # input for which differences are computed


@dataclass
class Differentiated:
    """The results of a function, and the gradients of the sum of them, weighted at random.

    Attributes:
        function: computes the results, a tensor or several, from the tensors of `leaves`.
        leaves: the inputs, by name; parameters are used by `function` itself.
        parameters: the parameters, by name.
        weigh: returns the gradient that a result receives, from the result and its number.
        wanted: whether gradients are computed; else the function runs without them.
        step: for the differences; None if the function is not smooth enough here.
        rounds: whether it computes in float32 even for float64, which needs larger differences.
    """

    function: Callable[..., Any]
    leaves: Mapping[str, Tensor]
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)
    weigh: Callable[[Tensor, int], Tensor] | None = None
    wanted: bool = True
    step: float | None = None
    rounds: bool = False

    def __post_init__(self) -> None:
        self.results = self.results_again()
        self.gradients: dict[str, Tensor] = {}
        if self.wanted:
            self.gradients = self._gradients()

    def results_again(self) -> tuple[Tensor, ...]:
        """Compute the results once more; they must not depend on the global generator."""
        state = torch.get_rng_state()
        with torch.set_grad_enabled(self.wanted):
            results = self.function(**self._leaves())
        check_true(
            bool((torch.get_rng_state() == state).all()),
            "the result depends on PyTorch's global random generator: only a new layer draws its "
            "weights from it",
        )
        return results if isinstance(results, tuple) else (results,)

    @torch.no_grad()
    def move_leaves(self) -> None:
        """Move the inputs to memory that the function has read before, with other values in it."""
        inputs = self.leaves
        moved = {name: x.flip(list(range(x.ndim))) for name, x in inputs.items()}
        self.leaves = moved
        self.results_again()
        for name, x in inputs.items():
            moved[name].copy_(x)

    def _leaves(self) -> dict[str, Tensor]:
        if not self.wanted:
            return dict(self.leaves)
        self.inputs = {
            name: x.detach().requires_grad_() if x.is_floating_point() else x
            for name, x in self.leaves.items()
        }
        return self.inputs

    def _weights(self) -> list[Tensor]:
        weigh = self.weigh or weights_of
        return [weigh(result.detach(), number) for number, result in enumerate(self.results)]

    def _gradients(self) -> dict[str, Tensor]:
        inputs = {name: x for name, x in self.inputs.items() if x.requires_grad}
        leaves = {**inputs, **self.parameters}
        for result in self.results:
            check_true(
                isinstance(result, Tensor) and result.requires_grad,
                "the result has no gradient: use only tensor operations, on the parameters "
                "themselves, without .detach(), .data or torch.no_grad()",
            )
        # A sum, as PyTorch imports its compiler's parts (0.7 s) to look at gradients it is given.
        pairs = zip(self.results, self._weights(), strict=True)
        total = sum((result * weight).sum() for result, weight in pairs)
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is None:
                raise GradedFailure(
                    f"no gradient reaches {name}: it is not used, or a .detach(), a .data or a "
                    "torch.no_grad() is on the way"
                )
        return dict(zip(leaves, found, strict=True))

    @torch.no_grad()
    def check_differences(self, name: str) -> None:
        """Fail unless the gradients agree with a difference of the function along a direction."""
        types = {x.dtype for x in [*self.gradients.values(), *self.results]}
        floats = [x for x in self.leaves.values() if x.is_floating_point() and x.numel()]
        if any(x.abs().max() > LARGEST for x in floats):
            return  # large values make sharp corners
        if self.step is None or not self.gradients or types & {torch.bfloat16, torch.float16}:
            return
        generator = torch.Generator().manual_seed(3)
        exact = types == {torch.float64} and not self.rounds
        step = self.step / 100 if exact else self.step
        directions = {
            leaf: torch.randn(x.shape, generator=generator).to(x.dtype)
            for leaf, x in self.gradients.items()
            if leaf in self.parameters or 0 not in self.leaves[leaf].stride()
        }
        parts = [(self.gradients[leaf] * x).sum().item() for leaf, x in directions.items()]
        size = sum(
            (self.gradients[leaf] * x).square().sum().item() ** 0.5
            for leaf, x in directions.items()
        )
        found = (self._moved(directions, step) - self._moved(directions, -step)) / (2 * step)
        allowed = (ALLOWED_IN_FLOAT64 if exact else ALLOWED) * max(size, 0.01)
        check_true(
            abs(found - sum(parts)) <= allowed,
            f"the gradients of {name} are not the derivatives of its results: along a random "
            "direction, the results change by another number",
            {"change": Words(f"{found:.6g}"), "gradients say": Words(f"{sum(parts):.6g}")},
        )

    def check_backward(self, name: str) -> None:
        """Fail if a second backward pass is not the first, or if one changes what it receives."""
        if not self.gradients:
            return
        self.results = self.results_again()
        inputs = [x for x in self.inputs.values() if x.requires_grad]
        beside = [torch.zeros_like(result, requires_grad=True) for result in self.results]
        leaves = [*inputs, *self.parameters.values(), *beside]
        weights = self._weights()
        sums = zip(self.results, beside, weights, strict=True)
        total = sum(((result + other) * weight).sum() for result, other, weight in sums)
        first = torch.autograd.grad(total, leaves, retain_graph=True)
        received = first[len(leaves) - len(beside) :]
        check_true(
            all(torch.equal(*pair) for pair in zip(received, weights, strict=True)),
            f"the backward pass of {name} changes the gradient that it receives",
        )
        try:
            second = torch.autograd.grad(total, leaves)
        except RuntimeError as error:
            raise GradedFailure(
                f"a second backward pass through {name}, with retain_graph=True, fails: "
                f"{str(error).splitlines()[0]}"
            ) from None
        same = all(  # NaN twice is the same
            torch.allclose(*pair, rtol=0, atol=0, equal_nan=True)
            for pair in zip(first, second, strict=True)
        )
        check_true(same, f"a second backward pass through {name} gives other gradients")

    def _moved(self, directions: Mapping[str, Tensor], step: float) -> float:
        """Return the weighted sum of the results with the leaves moved along the directions."""
        kept = {name: x.detach().clone() for name, x in self.parameters.items()}
        moved = {
            name: x.detach() + step * directions[name] if name in directions else x
            for name, x in self.leaves.items()
        }
        for name, parameter in self.parameters.items():
            parameter.add_(directions[name], alpha=step)
        results = self.function(**moved)
        results = results if isinstance(results, tuple) else (results,)
        for name, parameter in self.parameters.items():
            parameter.copy_(kept[name])
        pairs = zip(results, self._weights(), strict=True)
        return sum((result.double() * weight.double()).sum().item() for result, weight in pairs)


def weights_of(result: Tensor, number: int) -> Tensor:
    """Return the gradient that a result receives."""
    generator = torch.Generator().manual_seed(100 + number)
    return torch.randn(result.shape, generator=generator).to(result.dtype)


def differentiated(
    layer: nn.Module, leaves: Mapping[str, Tensor], wanted: bool, step: float | None = 1e-2
) -> Differentiated:
    """Return the results of a layer, called with the leaves by position, and their gradients."""
    layer.train(wanted)
    return Differentiated(
        lambda **inputs: layer(*inputs.values()),
        leaves,
        dict(layer.named_parameters()) if wanted else {},
        wanted=wanted,
        step=step,
    )


def within(
    rtol: float, atol: float, gradients: tuple[float, float] | None = None
) -> Callable[[Any], Any]:
    """Return a view: tensors are right within these tolerances. Gradients have their own, of which
    the absolute one is relative to the largest gradient.
    """

    def view(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Within(value.detach(), rtol, atol)
        if isinstance(value, Differentiated):
            seen = {"result": tuple(view(result) for result in value.results)}
            return seen | {
                f"the gradient of {name}": Within(x.detach(), *_relative(x, gradients, rtol, atol))
                for name, x in sorted(value.gradients.items())
            }
        if isinstance(value, Mapping):
            return {key: view(each) for key, each in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(map(view, value))
        return value

    return view


def _relative(
    x: Tensor, gradients: tuple[float, float] | None, rtol: float, atol: float
) -> tuple[float, float]:
    relative, absolute = gradients or (rtol, atol)
    largest = x.detach().abs().max().item() if x.numel() else 0.0
    return relative, absolute * max(largest, 1.0) if largest == largest else absolute
