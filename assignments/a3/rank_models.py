"""Models and batches for the checks on ranks. Nothing here imports the code under test."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import check_true, message_of
from lm_course.grading.tensor_comparisons import check_tensor

IDS = 11
Batch = list[tuple[Tensor, Tensor]]  # (ids, targets) of each rank
Tensors = Mapping[str, Tensor | None]


class OddModel(nn.Module):
    """Everything that a wrapper may get wrong: tied and frozen parameters, a module that is used
    only if asked, one that is never used, two types, a scalar, sizes that 2 does not divide, a
    parameter whose values are not in a row, and buffers, one of which is not saved.
    """

    def __init__(self) -> None:
        super().__init__()
        wide = torch.float64
        self.embedding = nn.Embedding(IDS, 5, dtype=wide)
        self.layers = nn.ModuleList(nn.Linear(5, 5, dtype=wide) for _ in range(2))
        self.sometimes = nn.ModuleList([nn.Linear(5, 5, dtype=wide)])
        self.never = nn.ModuleList([nn.Linear(5, 3, dtype=wide)])
        self.frozen = nn.Linear(5, 5, dtype=wide).requires_grad_(False)
        self.narrow = nn.Linear(5, 7, dtype=torch.float32)
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=wide))
        self.wide = nn.Parameter(torch.randn(7, 5, dtype=wide).t())  # [5, 7], columns in a row
        self.head = nn.Linear(5, IDS, bias=False, dtype=wide)
        self.head.weight = self.embedding.weight
        self.register_buffer("offset", torch.randn(5, dtype=wide))
        self.register_buffer("flags", torch.rand(4) > 0.5)
        self.register_buffer("counter", torch.randint(1000, ()))
        self.register_buffer("table", torch.randn(5, dtype=wide), persistent=False)

    def forward(self, ids: Tensor, sometimes: bool = True) -> Tensor:
        x = self.embedding(ids) + self.offset + self.table
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        if sometimes:
            x = x + self.sometimes[0](x)
        x = self.frozen(x) + (self.narrow(x.float()).to(x.dtype) @ self.wide.t()) * self.scale
        return self.head(x)


class Block(nn.Module):
    """A block with two linear maps."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Blocks(nn.Module):
    """An embedding, blocks, and a head of its own."""

    def __init__(self, width: int = 6, inner: int = 7, number: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(IDS, width)
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(number))
        self.head = nn.Linear(width, IDS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def model_of(seed: int, kind: Callable[[], nn.Module] = OddModel) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def simple_model() -> nn.Module:
    layers = [nn.Embedding(IDS, 6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, IDS)]
    return nn.Sequential(*layers).double()


def batch_of(step: int) -> Batch:
    """Return the batch of each of two ranks; rank 1 has more tokens than rank 0."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        tuple(torch.randint(0, IDS, (2, length), generator=generator) for _ in range(2))
        for length in (3, 5)
    ]


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the tokens' losses."""
    flat = logits.flatten(0, -2).log_softmax(-1)
    return -flat.gather(-1, targets.reshape(-1, 1)).sum()


def share(total: Tensor, batch: Batch) -> Tensor:
    """Return a rank's share of the mean over all tokens; the average of both is that mean."""
    return total * len(batch) / sum(targets.numel() for _, targets in batch)


class Momentum:
    """Gradient descent with momentum. Those of PyTorch load its compiler (2 s)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 0.1) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        self.moved: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, then forget the gradients."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                before = self.moved.get(parameter, torch.zeros_like(parameter))
                self.moved[parameter] = 0.9 * before + parameter.grad
                parameter -= self.lr * self.moved[parameter]
                parameter.grad = None


def whole_batch_loss(model: nn.Module, batch: Batch, skips: bool = False) -> Tensor:
    """Return the mean loss of one process; with `skips`, rank 1 leaves a module out."""
    losses = [
        loss_sum(model(ids, not skips or rank == 0) if skips else model(ids), targets)
        for rank, (ids, targets) in enumerate(batch)
    ]
    return sum(losses) / sum(targets.numel() for _, targets in batch)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Return copies of the gradients by name."""
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def check_named(
    found: Tensors,
    expected: Tensors,
    what: str,
    causes: Mapping[str, Tensors] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
) -> None:
    """Fail unless all tensors are those expected, and None where None is expected.

    Args:
        found, expected: by name.
        what: "the gradient", of which the name follows.
        causes: each with all tensors that it gives.
        rtol, atol: as in check_tensor.
    """
    check_true(
        set(found) == set(expected),
        f"{what}: the names are not those of the module's parameters",
        {"expected": sorted(expected), "got": sorted(found)},
    )
    for name, right in expected.items():
        got = found[name]
        if right is None or got is None:
            here = "None" if got is None else f"a tensor, largest value {_largest(got):.3g}"
            if (right is None) != (got is None):
                there = "None" if right is None else "a tensor"
                values = {"expected": there, "got": here}
                raise GradedFailure(message_of(f"{what} of {name} is wrong", values))
            continue
        likely = {c: all_of[name] for c, all_of in (causes or {}).items() if name in all_of}
        likely = {cause: value for cause, value in likely.items() if value is not None}
        check_tensor(
            got, right, f"{what} of {name}", likely, dtype=right.dtype, rtol=rtol, atol=atol
        )


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def part(x: Tensor, dim: int, rank: int) -> Tensor:
    """Return rank's part of x along an axis; of an odd number, rank 0 has one less."""
    half = x.shape[dim] // 2
    return x.narrow(dim, *((0, half) if rank == 0 else (half, x.shape[dim] - half)))


def load(layer: nn.Module, **values: Tensor) -> nn.Module:
    """Put values into the parameters of a layer."""
    for name, value in values.items():
        parameter = getattr(layer, name, None)
        check_true(
            isinstance(parameter, nn.Parameter) and parameter.shape == value.shape,
            f"{type(layer).__name__}.{name} must be a parameter of shape {list(value.shape)}",
            {"got": "no parameter" if parameter is None else list(parameter.shape)},
        )
        setattr(layer, name, nn.Parameter(value.clone()))
    return layer


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0
