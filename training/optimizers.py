"""AdamW, and gradient clipping by the global norm. Muon is in training/muon.py.

Adam: Kingma and Ba, 2015, algorithm 1. Decoupled weight decay: Loshchilov and Hutter, 2019,
algorithm 2. It shrinks the weight itself and never enters the moments, which would divide it by the
gradient's size.

The arithmetic uses `torch._foreach_*`: one call processes the list of all parameters, which a
Python loop would do one small tensor at a time. For the same update in one pass over memory, see
training/engine/fused_optimizer.py.

What this leaves out: state split over several processes.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lm_core.user_error import UserError


class AdamW:
    """The AdamW optimizer.

    It keeps a running mean of each gradient and of its square, and moves each weight by the first
    divided by the root of the second.

    Args:
        parameters: by name; those that need no gradient are skipped. Matrices are decayed, vectors
            (the weights of norms) are not.
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
        """Update every parameter that has a gradient."""
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
        mismatched = self.state().keys() ^ tensors.keys()
        if mismatched:
            raise UserError(
                f"the optimizer's saved state belongs to another model ({len(mismatched)} names "
                f"differ, first {min(mismatched)}); train again from the start"
            )
        self.steps = int(tensors["steps"])
        for name in self.parameters:
            self.means[name].copy_(tensors[f"mean/{name}"])
            self.squares[name].copy_(tensors[f"square/{name}"])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients by one factor, so that their global norm is at most `max_norm`.

    If the norm is smaller, the gradients stay unchanged (Pascanu et al., 2013, algorithm 1).

    Returns:
        The norm before clipping, over all parameters as one vector; a tensor without axes. It is
        NaN or infinite if a gradient is, and 0 if there are none.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    if norm.is_cpu and norm <= max_norm:
        return norm  # elsewhere, reading the norm would wait for the device
    torch._foreach_mul_(gradients, (max_norm / norm).clamp(max=1.0))
    return norm
