"""A fast version of the AdamW in training/optimizers.py: one pass over memory instead of about
twenty.

PyTorch's fused kernel reads a weight, its gradient and its two means once and writes them once; the
lesson's formula passes over all of them for every operation. State and interface are the lesson's,
so the two share checkpoints. The results agree up to rounding.

A kernel that exists does not necessarily run on this machine, or give the right result. So it is
tested against the lesson on a small problem for each device and type. If it fails, the lesson's
arithmetic is used instead, and one line on stderr says why.
"""

import functools
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lm_core.stand_ins import stand_in_files
from training.optimizers import AdamW


class FusedAdamW(AdamW):
    """AdamW by the fused kernel; see `AdamW` for the arguments."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        parameters = list(parameters)  # a learner's own AdamW may store them under another name
        super().__init__(parameters, betas, eps, weight_decay)
        kinds = {(p.device.type, p.dtype) for _, p in parameters if p.requires_grad}
        self.is_fused = all(fused_step_works(*kind) for kind in kinds)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        if not self.is_fused:
            super().step(learning_rate)
            return
        self.steps += 1
        groups: dict[tuple[torch.device, torch.dtype, bool], list[str]] = {}
        for name, weight in self.parameters.items():
            if weight.grad is not None:
                kind = weight.device, weight.dtype, weight.ndim >= 2
                groups.setdefault(kind, []).append(name)
        for (_, _, are_matrices), names in groups.items():
            decay = self.weight_decay if are_matrices else 0.0
            fused_step(self, names, learning_rate, decay)


def fused_step(
    optimizer: AdamW, names: list[str], learning_rate: float, weight_decay: float
) -> None:
    """Update the parameters of one device and type.

    `torch.optim.AdamW(fused=True)` calls this kernel too, but counts steps for each parameter
    separately; the lesson has one count for all of them.
    """
    weights = [optimizer.parameters[name] for name in names]
    # Filled on the device: copying the value there would wait for the computations in the queue.
    steps = torch.full((), float(optimizer.steps), device=weights[0].device)
    torch._fused_adamw_(
        weights,
        [_gradient_in_order(weight) for weight in weights],
        [optimizer.means[name] for name in names],
        [optimizer.squares[name] for name in names],
        [],
        [steps] * len(weights),
        lr=learning_rate,
        beta1=optimizer.betas[0],
        beta2=optimizer.betas[1],
        weight_decay=weight_decay,
        eps=optimizer.eps,
        amsgrad=False,
        maximize=False,
    )


def _gradient_in_order(weight: nn.Parameter) -> Tensor:
    """Return the gradient in the memory layout of the weight, because the kernel ignores strides.

    Autograd uses that layout; a gradient that was set by hand may have another.
    """
    gradient = weight.grad
    assert gradient is not None, "parameters without a gradient must be filtered out before"
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


@functools.cache
def fused_step_works(device: str, dtype: torch.dtype) -> bool:
    """Return whether the kernel agrees with the lesson; if not, one line on stderr says why."""
    reason = why_fused_is_unusable(device, dtype)
    if reason is not None:
        print(f"AdamW: torch's fused kernel is not used ({reason})", file=sys.stderr)
    return reason is None


def why_fused_is_unusable(device: str, dtype: torch.dtype) -> str | None:
    """Return why the kernel's update of a few numbers differs from the lesson's, None if it does
    not.
    """
    if any(path.name == "optimizers.py" for path in stand_in_files("training")):
        return "your own training/optimizers.py is used"
    start = torch.linspace(-1, 1, 99, device=device).to(dtype)[None]
    formula, kernel = (AdamW([("w", nn.Parameter(start.clone()))]) for _ in range(2))
    try:
        for step in (1, 2):
            for optimizer in (formula, kernel):
                optimizer.parameters["w"].grad = (step * start).cos()
            formula.step(0.01)
            kernel.steps += 1
            with torch.no_grad():
                fused_step(kernel, ["w"], 0.01, kernel.weight_decay)
    except RuntimeError as error:  # a missing kernel raises its subclass NotImplementedError
        first_line = (str(error).splitlines() or [""])[0]
        return f"{device}, {dtype}: {first_line[:120]}"
    if device == "meta":  # which has no values to compare
        return None
    found, expected = (o.parameters["w"].detach() for o in (kernel, formula))
    if torch.allclose(found, expected, rtol=0, atol=4 * torch.finfo(dtype).eps):
        return None
    return f"{device}, {dtype}: its result differs by {(found - expected).abs().max():.1e}"
