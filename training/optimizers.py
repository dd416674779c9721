"""AdamW, Muon, and gradient clipping by the global norm.

Adam: Kingma and Ba, 2015, algorithm 1. Decoupled weight decay: Loshchilov and Hutter, 2019,
algorithm 2. It shrinks the weight itself and never enters the moments, which would divide it by the
gradient's size.

The arithmetic uses `torch._foreach_*`: one call processes the list of all parameters, which a
Python loop would do one small tensor at a time. For the same update in one pass over memory, see
training/engine/fused_optimizer.py.

Muon (Jordan et al., 2024) makes the momentum of each matrix nearly orthogonal. The gradient of a
weight matrix is nearly of low rank: a few directions have almost all of its size. Muon replaces the
momentum U S V^T by U V^T, so that all directions move equally far. An SVD would do that, but is
slow; five steps of Newton-Schulz use matrix products alone, and bfloat16 suffices. That is right
for the matrices of the hidden layers, which turn one vector into another. A row of an embedding or
of the output head belongs to one token and has a gradient of its own, and vectors have no
directions to make equal, so AdamW keeps these (training/runs/optimizer_settings.py joins the two).
Muon's decoupled weight decay and the scale 0.2 sqrt(max(rows, columns)): Liu et al., 2025, section
2.2.

What this leaves out: state split over several processes; in Muon, splitting a matrix that holds
queries, keys and values in one (it is made orthogonal as a whole), and convolutions.
"""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lm_core.user_error import UserError


class AdamW:
    """The AdamW optimizer.

    It keeps a running mean of each gradient and of its square, and moves each weight by the first
    divided by the root of the second.

    Both running means start at 0 and have the type of their parameter.

    Args:
        parameters: by name; those that need no gradient are skipped. What has two axes or more is
            decayed, vectors (the weights of norms) are not.
        betas: the share of each running mean that is kept per step: (of the gradient, of its
            square).
        eps: added to the root, to prevent division by zero.
        weight_decay: share of a weight subtracted at each step, times the learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        self.parameters = {name: p for name, p in parameters if p.requires_grad}
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.steps = 0
        self.means = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.squares = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient, in place; the others and their means stay.

        The steps are counted for all parameters together, and every call counts, also one without
        any gradient.
        """
        self.steps += 1
        names = [name for name, p in self.parameters.items() if p.grad is not None]
        if not names:
            return
        weights = [self.parameters[name] for name in names]
        gradients = [self.parameters[name].grad for name in names]
        means = [self.means[name] for name in names]
        squares = [self.squares[name] for name in names]
        matrices = [weight for weight in weights if weight.ndim >= 2]
        beta1, beta2 = self.betas

        for matrix in matrices:
            matrix.mul_(1 - learning_rate * self.weight_decay)
        torch._foreach_lerp_(means, gradients, 1 - beta1)  # m <- beta1 m + (1 - beta1) g
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        # Both means start at 0; dividing by 1 - beta^t corrects that bias (Kingma and Ba, section
        # 3).
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**self.steps) ** 0.5)
        torch._foreach_add_(roots, self.eps)
        step_size = learning_rate / (1 - beta1**self.steps)
        torch._foreach_addcdiv_(weights, means, roots, value=-step_size)

    def zero_gradients(self) -> None:
        """Clear the gradients, so that the next backward pass does not add to them."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on except the weights, for a checkpoint."""
        tensors = {"steps": torch.tensor(self.steps)}
        tensors |= {f"mean/{name}": tensor for name, tensor in self.means.items()}
        return tensors | {f"square/{name}": tensor for name, tensor in self.squares.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned.

        Raises:
            ValueError: it belongs to a model with other parameters.
        """
        _check_names("the optimizer", self.state(), tensors)
        self.steps = int(tensors["steps"])
        for name in self.parameters:
            self.means[name].copy_(tensors[f"mean/{name}"])
            self.squares[name].copy_(tensors[f"square/{name}"])


def _check_names(owner: str, state: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Raise UserError unless the saved tensors are those that a state has."""
    mismatched = state.keys() ^ tensors.keys()
    if mismatched:
        raise UserError(
            f"{owner}'s saved state belongs to another model ({len(mismatched)} names differ, "
            f"first {min(mismatched)}); train again from the start"
        )


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients in place by one factor, so that their global norm is at most `max_norm`.

    If the norm is not larger, the gradients stay unchanged (Pascanu et al., 2013, algorithm 1).

    Returns:
        The norm before clipping, over all parameters as one vector: a tensor without axes, in
        float32 (float64 if a gradient is). It is NaN or infinite if a gradient is, and 0 if there
        are none.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    is_double = any(gradient.dtype == torch.float64 for gradient in gradients)
    wide = torch.float64 if is_double else torch.float32  # float16 ends at 65504
    norm = torch.stack(torch._foreach_norm(gradients, 2, wide)).norm()
    if norm.is_cpu and norm <= max_norm:
        return norm  # elsewhere, reading the norm would wait for the device
    torch._foreach_mul_(gradients, (max_norm / norm).clamp(max=1.0))
    return norm


# Muon

# x -> a x + b x^3 + c x^5, chosen for a steep slope at 0: after five steps, singular values between
# 0.002 and 1 are between 0.68 and 1.21 (tests/training/test_muon.py), not exactly 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
SMALLEST_NORM = 1e-7  # a smaller matrix is not scaled up to norm 1, so that 0 stays 0

# name: factor of the learning rate, from (rows, columns)
SHAPE_SCALES: dict[str, Callable[[int, int], float]] = {
    # Jordan et al.: the rows of an update have length 1. Those of a tall orthogonal matrix have
    # length sqrt(columns / rows).
    "original": lambda rows, columns: max(1, rows / columns) ** 0.5,
    # Liu et al.: the entries of an update have the size that AdamW's have, about 0.2, so its
    # learning rates fit.
    "match_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


def newton_schulz(
    matrices: Float[Tensor, "*batch rows columns"], steps: int = 5
) -> Float[Tensor, "*batch rows columns"]:
    """Return the nearest orthogonal matrix of each matrix, roughly: U S V^T becomes about U V^T.

    Each step computes X <- a X + b (X X^T) X + c (X X^T)^2 X, which applies `QUINTIC` to every
    singular value and leaves U and V as they are. Before the first, each matrix is divided by its
    Frobenius norm, or by `SMALLEST_NORM` where that is larger. The computation is in the type of
    `matrices`.
    """
    a, b, c = QUINTIC
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices  # X X^T then has the smaller side
    # The Frobenius norm is at least the largest singular value, which must be at most 1.
    norms = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / norms.clamp(min=SMALLEST_NORM)
    batch = x.shape[:-2]
    x = x.reshape(-1, *x.shape[-2:])  # any number of axes becomes one, for baddbmm
    for _ in range(steps):
        products = x @ x.mT
        polynomial = torch.baddbmm(products, products, products, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    x = x.reshape(*batch, *x.shape[-2:])
    return x.mT if is_tall else x


class Muon:
    """The Muon optimizer, for matrices only.

    Args:
        parameters: by name; those that need no gradient are skipped.
        momentum: the share of the running mean of the gradients that is kept per step. The update
            is a mixture of this mean and the gradient with the same share (Nesterov).
        weight_decay: share of a weight subtracted at each step, times the learning rate.
        shape_scale: a key of `SHAPE_SCALES`: "original" or "match_adamw".
        dtype: type in which `newton_schulz` computes. None: bfloat16 on a GPU, float32 on a CPU,
            because many are slow in bfloat16.

    Raises:
        ValueError: a parameter is not a matrix, or no scale has this name.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        shape_scale: str = "original",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.parameters = {name: p for name, p in parameters if p.requires_grad}
        for name, parameter in self.parameters.items():
            if parameter.ndim != 2:
                raise UserError(
                    f"Muon takes matrices, but {name} has {parameter.ndim} axes; give it to AdamW"
                )
        if shape_scale not in SHAPE_SCALES:
            raise UserError(
                f"unknown shape_scale {shape_scale!r}; expected one of {', '.join(SHAPE_SCALES)}"
            )
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.shape_scale = shape_scale
        on_cpu = all(p.device.type == "cpu" for p in self.parameters.values())
        self.dtype = dtype or (torch.float32 if on_cpu else torch.bfloat16)
        self.means = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient, in place; those of equal shape at once. The
        others and their means stay.
        """
        groups: dict[tuple[torch.Size, torch.device, torch.dtype], list[str]] = {}
        for name, weight in self.parameters.items():
            if weight.grad is not None:
                key = weight.shape, weight.device, weight.dtype
                groups.setdefault(key, []).append(name)
        for (shape, _, dtype), names in groups.items():
            weights = [self.parameters[name] for name in names]
            gradients = [self.parameters[name].grad for name in names]
            means = [self.means[name] for name in names]
            torch._foreach_lerp_(means, gradients, 1 - self.momentum)
            updates = torch._foreach_lerp(gradients, means, self.momentum)
            directions = newton_schulz(torch.stack(updates).to(self.dtype)).to(dtype).unbind()
            torch._foreach_mul_(weights, 1 - learning_rate * self.weight_decay)
            step_size = learning_rate * SHAPE_SCALES[self.shape_scale](*shape)
            torch._foreach_add_(weights, directions, alpha=-step_size)

    def zero_gradients(self) -> None:
        """Clear the gradients, so that the next backward pass does not add to them."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on except the weights, for a checkpoint.

        The dtype is part of it, as that of an empty tensor: a resume on a machine with another
        default computes as before.
        """
        tensors = {f"mean/{name}": tensor for name, tensor in self.means.items()}
        return tensors | {"dtype": torch.empty(0, dtype=self.dtype)}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned.

        Raises:
            ValueError: it belongs to a model with other parameters.
        """
        _check_names("Muon", self.state(), tensors)
        self.dtype = tensors["dtype"].dtype
        for name, mean in self.means.items():
            mean.copy_(tensors[f"mean/{name}"])


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon is meant for a parameter: a matrix that is neither embedding nor head.

    The name of its module decides, as in `TransformerLM`: `token_embedding.weight`,
    `output_head.weight`. A tied head is the embedding.
    """
    module = name.removesuffix(".weight").rpartition(".")[2]
    return parameter.ndim == 2 and not module.endswith(("embedding", "head"))
