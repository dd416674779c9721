"""AdamW, clipping, Newton-Schulz and Muon, one parameter at a time."""

import math

import torch
from torch import nn

QUINTIC = (3.4445, -4.7750, 2.0315)
SMALLEST_NORM = 1e-7
SHAPE_SCALES = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class _NamedParameters:
    """Parameters by name, with tensors that are kept for each."""

    kept: tuple[str, ...] = ()

    def __init__(self, parameters):
        self.parameters = {}
        for name, parameter in parameters:
            if parameter.requires_grad:
                self.parameters[name] = parameter
        for kind in self.kept:
            zeros = {name: torch.zeros_like(x) for name, x in self.parameters.items()}
            setattr(self, f"{kind}s", zeros)

    def present(self):
        """Yield the name, weight and gradient of every parameter that has a gradient."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                yield name, parameter, parameter.grad

    def zero_gradients(self):
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self):
        tensors = {}
        for kind in self.kept:
            for name, tensor in getattr(self, f"{kind}s").items():
                tensors[f"{kind}/{name}"] = tensor
        return tensors

    def load_state(self, tensors):
        own = _NamedParameters.state(self)
        if set(own) != {key for key in tensors if "/" in key}:
            raise ValueError("the state is another model's")
        for key, tensor in own.items():
            tensor.copy_(tensors[key])


class AdamW(_NamedParameters):
    """Adam with decoupled weight decay."""

    kept = ("mean", "square")

    def __init__(self, parameters, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        super().__init__(parameters)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps = 0

    @torch.no_grad()
    def step(self, learning_rate):
        self.steps += 1
        beta1, beta2 = self.betas
        correction = math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        eps = self.eps * math.sqrt(1 - beta2**self.steps)
        for name, weight, gradient in self.present():
            wide = torch.promote_types(weight.dtype, torch.float32)
            g = gradient.to(wide)
            mean = beta1 * self.means[name].to(wide) + (1 - beta1) * g
            square = beta2 * self.squares[name].to(wide) + (1 - beta2) * g**2
            self.means[name].copy_(mean)
            self.squares[name].copy_(square)
            new = weight.to(wide)
            if weight.dim() > 1:
                new = new - learning_rate * self.weight_decay * new
            weight.copy_(new - learning_rate * correction * mean / (square**0.5 + eps))

    def state(self):
        return {**super().state(), "steps": torch.tensor(self.steps)}

    def load_state(self, tensors):
        super().load_state(tensors)
        self.steps = tensors["steps"].item()


def clip_gradients(parameters, max_norm):
    """Scale all gradients by one factor if their norm is above the limit."""
    gradients = [p.grad.detach() for p in parameters if p.grad is not None]
    wide = torch.float32
    for gradient in gradients:
        wide = torch.promote_types(wide, gradient.dtype)
    flat = [gradient.reshape(-1).to(wide) for gradient in gradients]
    norm = torch.cat([torch.zeros(1), *flat]).square().sum().sqrt()
    if not norm <= max_norm:
        for gradient in gradients:
            gradient *= (max_norm / norm).item()
    return norm


def newton_schulz(matrices, steps=5):
    """Five steps of the quintic for each matrix by itself."""
    rows, columns = matrices.shape[-2:]
    if rows > columns:
        return newton_schulz(matrices.transpose(-1, -2), steps).transpose(-1, -2).contiguous()
    each = [_newton_schulz_of_wide(x, steps) for x in matrices.reshape(-1, rows, columns)]
    return torch.stack(each).reshape(matrices.shape)


def _newton_schulz_of_wide(matrix, steps):
    a, b, c = QUINTIC
    norm = matrix.pow(2).sum().sqrt()
    x = matrix / torch.where(norm < SMALLEST_NORM, torch.full_like(norm, SMALLEST_NORM), norm)
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        gram = x @ x.T
        x = (a * identity + gram @ (b * identity + c * gram)) @ x
    return x


class Muon(_NamedParameters):
    """Momentum, made orthogonal."""

    kept = ("mean",)

    def __init__(
        self, parameters, momentum=0.95, weight_decay=0.1, shape_scale="original", dtype=None
    ):
        super().__init__(parameters)
        for name, parameter in self.parameters.items():
            if parameter.dim() != 2:
                raise ValueError(f"{name} is no matrix")
        if shape_scale not in SHAPE_SCALES:
            raise ValueError(f"unknown shape_scale {shape_scale}")
        self.momentum, self.weight_decay = momentum, weight_decay
        self.shape_scale, self.dtype = shape_scale, dtype or torch.float32

    @torch.no_grad()
    def step(self, learning_rate):
        for name, weight, gradient in self.present():
            mean = self.means[name]
            mean.mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
            update = self.momentum * mean + (1 - self.momentum) * gradient
            direction = newton_schulz(update.to(self.dtype)).to(weight.dtype)
            scale = SHAPE_SCALES[self.shape_scale](*weight.shape)
            weight -= learning_rate * self.weight_decay * weight
            weight -= learning_rate * scale * direction

    def state(self):
        return {**super().state(), "dtype": torch.zeros(0, dtype=self.dtype)}

    def load_state(self, tensors):
        super().load_state(tensors)
        self.dtype = tensors["dtype"].dtype


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon is meant for it."""
    return parameter.dim() == 2 and "embedding" not in name and "head" not in name
