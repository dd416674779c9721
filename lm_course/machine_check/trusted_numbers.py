"""A fixed forward and backward pass on a device, compared with float64 on the CPU.

A small model of ours, with fixed weights and tokens, computes its logits, loss and gradients on the
device as training does: in float32, and in bfloat16 by autocast. The error of a tensor is the norm
of the difference, relative to the norm of the exact tensor.

An error is too large above c u sqrt(r): the unit roundoff u of the type, times the square root of
the number r of roundings in a row, because errors of either sign add up like a random walk (Higham,
2002, section 2.8). c is 1 in bfloat16, and 4 in float32, where each sum inside a product is rounded
to the type as well (bfloat16's are summed in float32). A product that a device rounds to TF32,
where float32 was asked for, is off by a hundred times as much; so is a product with one wrong row.

What this leaves out: float16, in which nothing is trained here. Norms and rotary angles, which the
model computes in float32 even in its float64 pass; their error, 1e-7, is below every tolerance.
Wrong results that occur only at times.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lm_core.random_state import seed_everything
from training.batching import Batch
from training.engine.step_statistics import PRECISIONS
from training.runs.pretraining import language_model_loss
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

SHAPE = ModelConfig(
    vocab_size=257,
    context_length=64,
    d_model=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    d_ff=352,
)
ALLOWED = {torch.float32: 4.0, torch.bfloat16: 1.0}  # c; see above
ROUNDINGS_PER_BLOCK = 14  # two norms, seven products, rotation, softmax, gate, two sums
BACKWARD = 3  # forward, and twice as many operations backward
ROUNDINGS = BACKWARD * ROUNDINGS_PER_BLOCK * SHAPE.num_layers
SEED = 20_260


class NumberCheck(NamedTuple):
    """The errors of one number type on the device, relative to the norm of the exact tensor.

    Attributes:
        dtype: its name.
        product: error of one product of matrices.
        logits: error of the model's logits.
        loss: error of the loss.
        gradients: the largest error of a parameter's gradient.
        wrong_gradients: the parameters whose gradient has too large an error, the worst first.
        tolerance: the largest allowed error.
        repeats: whether a second pass gave the same bits.
        failure: why the type does not run on the device; None if it does.
    """

    dtype: str
    product: float = math.nan
    logits: float = math.nan
    loss: float = math.nan
    gradients: float = math.nan
    wrong_gradients: tuple[str, ...] = ()
    tolerance: float = math.nan
    repeats: bool = True
    failure: str | None = None

    @property
    def trusted(self) -> bool:
        """Return whether no error is too large. bfloat16 may also not run: then it is not used."""
        if self.failure is not None:
            return self.dtype != "float32"
        found = (self.product, self.logits, self.loss, self.gradients)
        return all(error <= self.tolerance for error in found)


def tolerance(dtype: torch.dtype) -> float:
    """Return the largest allowed relative error; see the top of the file."""
    return ALLOWED[dtype] * torch.finfo(dtype).eps / 2 * math.sqrt(ROUNDINGS)


def number_checks(device: torch.device) -> Iterator[NumberCheck]:
    """Return the check of each type that training uses, one after another.

    The random generators are left as they are.
    """
    with torch.random.fork_rng():
        seed_everything(SEED)
        model = TransformerLM(SHAPE)
        ids = torch.randint(0, SHAPE.vocab_size, (4, SHAPE.context_length + 1))
        factors = torch.randn(130, 257), torch.randn(257, 65)  # no multiples of a tile
    exact = computed(model.double(), ids, torch.float32)
    exact_product = factors[0].double() @ factors[1].double()
    for name, dtype in PRECISIONS.items():
        try:
            on_device = copy.deepcopy(model).float().to(device)
            found = computed(on_device, ids.to(device), dtype)
            again = computed(on_device, ids.to(device), dtype)
            product = _product(factors, device, dtype)
        except RuntimeError as error:
            yield NumberCheck(name, failure=first_line(error))
            continue
        errors = {key: relative_error(found[key], exact[key]) for key in exact}
        logits, loss = errors.pop("logits"), errors.pop("loss")
        names = sorted(errors, key=lambda key: _size(errors[key]), reverse=True)
        yield NumberCheck(
            name,
            product=relative_error(product, exact_product),
            logits=logits,
            loss=loss,
            gradients=errors[names[0]],
            wrong_gradients=tuple(key for key in names if not errors[key] <= tolerance(dtype)),
            tolerance=tolerance(dtype),
            repeats=all(torch.equal(found[key], again[key]) for key in found),
        )


def _size(error: float) -> float:
    return math.inf if math.isnan(error) else error


def first_line(error: BaseException) -> str:
    """Return the beginning of an exception's text, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def computed(model: TransformerLM, ids: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the logits, the loss, and the gradient of each parameter by its name, on the CPU.

    Args:
        model: on any device; its gradients are cleared first.
        ids: [batch, seq + 1], on the same device.
        dtype: of autocast; float32 for none.
    """
    model.zero_grad()
    batch = Batch({"token_ids": ids[:, :-1], "targets": ids[:, 1:]}, ids[:, 1:].numel())
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, logits: Tensor) -> None:
        kept.append(logits.detach())

    handle = model.register_forward_hook(keep)
    try:
        autocast = dtype if dtype != torch.float32 else torch.bfloat16
        with torch.autocast(ids.device.type, autocast, enabled=dtype != torch.float32):
            loss = language_model_loss(model, batch)
        loss.backward()
    finally:
        handle.remove()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    named = {"logits": kept[0], "loss": loss.detach()} | gradients
    return {name: tensor.cpu().clone() for name, tensor in named.items() if tensor is not None}


def _product(factors: tuple[Tensor, Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    first, second = (factor.to(device).to(dtype) for factor in factors)
    return (first @ second).cpu()


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference, divided by the norm of `exact`."""
    return ((found.double() - exact).norm() / exact.norm()).item()
