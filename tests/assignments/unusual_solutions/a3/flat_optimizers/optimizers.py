"""The running means are views of one buffer for each type, and every parameter moves alone."""

import torch
from torch import Tensor


def views_of_one_buffer(parameters):
    """Return zeros of the shape and type of each parameter."""
    found = {}
    for dtype in {p.dtype for p in parameters.values()}:
        names = [name for name, p in parameters.items() if p.dtype == dtype]
        sizes = [parameters[name].numel() for name in names]
        buffer = torch.zeros(sum(sizes), dtype=dtype)
        for name, part in zip(names, buffer.split(sizes), strict=True):
            found[name] = part.view(parameters[name].shape)
    return {name: found[name] for name in parameters}


class AdamW:
    def __init__(self, parameters, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        self.parameters = dict(pair for pair in parameters if pair[1].requires_grad)
        self.settings = betas, eps, weight_decay
        self.means = views_of_one_buffer(self.parameters)
        self.squares = views_of_one_buffer(self.parameters)
        self.steps = 0

    def step(self, learning_rate):
        (beta1, beta2), eps, weight_decay = self.settings
        self.steps += 1
        correction = (1 - beta2**self.steps) ** 0.5
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            weight, mean, square = parameter.detach(), self.means[name], self.squares[name]
            mean += (1 - beta1) * (gradient - mean)
            square += (1 - beta2) * (gradient * gradient - square)
            if weight.ndim > 1:
                weight -= learning_rate * weight_decay * weight
            update = mean / (square.sqrt() + eps * correction)  # both sides times the correction
            weight -= learning_rate * correction / (1 - beta1**self.steps) * update

    def zero_gradients(self):
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self):
        named = {f"mean/{name}": x for name, x in self.means.items()}
        named |= {f"square/{name}": x for name, x in self.squares.items()}
        return {"steps": torch.tensor(self.steps), **named}

    def load_state(self, tensors):
        self.steps = tensors["steps"].item()
        for name in self.parameters:
            self.means[name][...] = tensors[f"mean/{name}"]
            self.squares[name][...] = tensors[f"square/{name}"]


def clip_gradients(parameters, max_norm) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    dtype = torch.promote_types(torch.float32, torch.bfloat16)
    for gradient in gradients:
        dtype = torch.promote_types(dtype, gradient.dtype)
    total = sum(
        (g.double().square().sum() for g in gradients), torch.zeros((), dtype=torch.float64)
    )
    norm = total.sqrt()
    if norm > max_norm:
        for gradient in gradients:
            gradient.copy_(gradient.double() * (max_norm / norm))
    return norm.to(dtype)


def newton_schulz(matrices: Tensor, steps: int = 5) -> Tensor:
    """The small product on either side: X (X^T X) for tall matrices, which transposes nothing."""
    a, b, c = QUINTIC  # noqa: F821
    norms = (matrices * matrices).sum((-2, -1), keepdim=True).sqrt()
    x = matrices / torch.maximum(norms, torch.full_like(norms, SMALLEST_NORM))  # noqa: F821
    is_tall = x.shape[-2] > x.shape[-1]
    for _ in range(steps):
        gram = x.mT @ x if is_tall else x @ x.mT
        polynomial = b * gram + c * (gram @ gram)
        x = a * x + (x @ polynomial if is_tall else polynomial @ x)
    return x


class Muon:
    def __init__(
        self, parameters, momentum=0.95, weight_decay=0.1, shape_scale="original", dtype=None
    ):
        self.parameters = dict(pair for pair in parameters if pair[1].requires_grad)
        if any(p.ndim != 2 for p in self.parameters.values()):
            raise ValueError("only matrices")
        self.momentum, self.weight_decay, self.shape_scale = momentum, weight_decay, shape_scale
        self.scale = SHAPE_SCALES[shape_scale]  # noqa: F821
        self.dtype = dtype or torch.float32
        self.means = views_of_one_buffer(self.parameters)

    def step(self, learning_rate):
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            mean, gradient, weight = self.means[name], parameter.grad, parameter.detach()
            mean.copy_(gradient + self.momentum * (mean - gradient))
            update = gradient + self.momentum * (mean - gradient)
            direction = newton_schulz(update.to(self.dtype)).to(weight.dtype)
            factor = 1 - learning_rate * self.weight_decay
            weight.copy_(factor * weight - learning_rate * self.scale(*weight.shape) * direction)

    def zero_gradients(self):
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self):
        means = {f"mean/{name}": mean for name, mean in self.means.items()}
        return means | {"dtype": torch.empty(0, dtype=self.dtype)}

    def load_state(self, tensors):
        self.dtype = tensors["dtype"].dtype
        for name, mean in self.means.items():
            mean[...] = tensors[f"mean/{name}"]
