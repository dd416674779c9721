"""a3.4 and a3.5: Newton-Schulz and Muon."""

import pytest
import torch
from torch import nn

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.comparisons import check_true, check_work

pytestmark = pytest.mark.usefixtures("own_optimizers")
MODULE = "training.optimizers"
QUINTIC = (3.4445, -4.7750, 2.0315)


def polynomial(s, steps=5, coefficients=QUINTIC):
    a, b, c = coefficients
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


def by_svd(matrix, steps=5, coefficients=QUINTIC, norm=None):
    """U p(S) V^T in float64: what Newton-Schulz computes, without a product of matrices."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / (s.norm() if norm is None else norm(s))
    return u @ torch.diag(polynomial(s, steps, coefficients)) @ vt


# a3.4


def causes_of(matrix, steps):
    a, b, c = QUINTIC
    number = matrix.shape[-2] * matrix.shape[-1]
    return {
        "NaN or infinite: divide by the norm first, so that no singular value is above 1": (
            lambda got: not bool(got.isfinite().all())
        ),
        "this is the matrix divided by its norm: no step was taken": matrix / matrix.norm(),
        "divided by the largest singular value: divide by the Frobenius norm": by_svd(
            matrix, steps, norm=lambda s: s.max()
        ),
        "divided by the sum of the singular values: divide by the Frobenius norm": by_svd(
            matrix, steps, norm=lambda s: s.sum()
        ),
        "divided by the squared norm: the root is missing": by_svd(
            matrix, steps, norm=lambda s: s.norm() ** 2
        ),
        "divided by the root of the mean square: divide by that of the sum": by_svd(
            matrix, steps, norm=lambda s: s.norm() / number**0.5
        ),
        "b and c are exchanged": by_svd(matrix, steps, (a, c, b)),
        "the sign of b is lost": by_svd(matrix, steps, (a, -b, c)),
        "these are the cubic coefficients 1.5 and -0.5: use QUINTIC": by_svd(
            matrix, steps, (1.5, -0.5, 0.0)
        ),
        "these are the quintic coefficients 15/8, -10/8 and 3/8: use QUINTIC": by_svd(
            matrix, steps, (1.875, -1.25, 0.375)
        ),
        "one step too many": by_svd(matrix, steps + 1),
        "one step too few": by_svd(matrix, steps - 1),
        "this is the exact U V^T: take the steps of Newton-Schulz": by_svd(
            matrix, 0, norm=lambda s: s
        ),
    }


@pytest.mark.task("a3.4")
def test_one_step_by_hand(implementation, a3):
    matrix = torch.tensor([[3.0, 0], [0, 4]], dtype=torch.float64)
    got = implementation(MODULE).newton_schulz(matrix, 1)
    expected = torch.diag(polynomial(torch.tensor([0.6, 0.8], dtype=torch.float64), 1))
    what = "newton_schulz of [[3, 0], [0, 4]] with 1 step"
    a3.check(got, expected, what, causes_of(matrix, 1), dtype=torch.float64, rtol=1e-9)


@pytest.mark.task("a3.4")
@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (5, 1)])
def test_singular_values_are_brought_near_1(implementation, a3, shape):
    matrix = 50 * a3.random(*shape, dtype=torch.float64)
    got = implementation(MODULE).newton_schulz(matrix)
    causes = {"this is the transposed result": by_svd(matrix).mT} | causes_of(matrix, 5)
    what = f"newton_schulz of a {list(shape)} matrix, against the SVD"
    a3.check(got, by_svd(matrix), what, causes, dtype=torch.float64, rtol=1e-8)


@pytest.mark.task("a3.4")
@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (5, 2)])
def test_zero_stays_zero_and_nan_stays(implementation, a3, shape):
    newton_schulz = implementation(MODULE).newton_schulz
    causes = {
        "0 / 0 is NaN: divide by the larger of the norm and SMALLEST_NORM": lambda got: bool(
            got.isnan().any()
        )
    }
    zeros = torch.zeros(shape)
    a3.check(newton_schulz(zeros), zeros, "newton_schulz of zeros", causes)
    got = newton_schulz(torch.full(shape, torch.nan))
    check_true(bool(got.isnan().all()), "newton_schulz of NaN must be NaN, so that it is seen")
    tiny = 1e-9 * torch.eye(*shape, dtype=torch.float64)
    causes = {
        "a matrix with a norm below SMALLEST_NORM is divided by it, not scaled up to norm 1": (
            by_svd(tiny)
        ),
        "SMALLEST_NORM is added to the norm: divide by the larger of both": by_svd(
            tiny, norm=lambda s: s.norm() + 1e-7
        ),
    }
    expected = by_svd(tiny, norm=lambda s: 1e-7)
    what = "newton_schulz of a matrix with a norm near 1e-9"
    a3.check(newton_schulz(tiny), expected, what, causes, dtype=torch.float64, rtol=1e-6)


@pytest.mark.task("a3.4")
@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 4, 2), (2, 2, 3, 3)])
def test_matrices_of_a_batch_are_independent(implementation, a3, shape):
    batch = a3.random(*shape, dtype=torch.float64)
    batch[0] *= 100
    flat = batch.flatten(0, -3)
    together = flat.norm()
    got = implementation(MODULE).newton_schulz(batch)
    expected = torch.stack([by_svd(each) for each in flat]).view(shape)
    causes = {
        "the norm is taken over the whole batch: each matrix has its own": torch.stack(
            [by_svd(each, norm=lambda s: together) for each in flat]
        ).view(shape)
    }
    what = f"newton_schulz of a {list(shape)} batch, one part 100 times as large"
    a3.check(got, expected, what, causes, dtype=torch.float64, rtol=1e-8)
    batch[(0,) * len(shape)] = torch.nan
    got = implementation(MODULE).newton_schulz(batch).flatten(0, -3)
    check_true(bool(got[0].isnan().all()), "newton_schulz of a matrix with a NaN must be NaN")
    causes = {
        "a NaN in one matrix reaches the others: each is computed alone, with no test of the whole "
        "batch": lambda got: bool(got.isnan().any())
    }
    what = f"newton_schulz of a {list(shape)} batch whose first matrix has a NaN: the others"
    expected = expected.view_as(got)[1:]
    a3.check(got[1:], expected, what, causes, dtype=torch.float64, rtol=1e-8)


@pytest.mark.task("a3.4")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_computes_in_the_type_of_the_matrices(implementation, a3, dtype):
    orthogonal, _ = torch.linalg.qr(a3.random(6, 6, dtype=torch.float64))
    matrix = orthogonal.to(dtype)
    before = matrix.clone()
    with TensorCounter() as counter:
        got = implementation(MODULE).newton_schulz(matrix)
    size = polynomial(torch.tensor(6**-0.5, dtype=torch.float64))
    close = 0.05 if dtype == torch.bfloat16 else 1e-5
    what = f"newton_schulz of an orthogonal {dtype} matrix"
    a3.check(got, orthogonal * size, what, dtype=dtype, rtol=close, atol=close)
    check_true(torch.equal(matrix, before), "newton_schulz changes its argument")
    check_true(
        not counter.operations & {"linalg_svd", "_linalg_svd", "linalg_qr", "_linalg_eigh"},
        "newton_schulz calls a decomposition of torch.linalg: matrix products are enough",
    )
    if dtype == torch.bfloat16:
        check_true(
            not torch.equal(got, newton_schulz_in_float32(matrix)),
            "newton_schulz computes in float32 and rounds the result to bfloat16: compute in the "
            "type of the matrices, which the caller has chosen",
        )


def newton_schulz_in_float32(matrix):
    a, b, c = QUINTIC
    x = matrix.float() / matrix.float().norm()
    for _ in range(5):
        products = x @ x.mT
        x = a * x + (b * products + c * products @ products) @ x
    return x.to(matrix.dtype)


@pytest.mark.task("a3.4")
@pytest.mark.parametrize(
    "shape", [(96, 8), (8, 96), (2, 96, 8), (40, 8, 96), (40, 96, 8), (3, 1, 96, 8)]
)
def test_products_have_the_smaller_side(implementation, a3, shape):
    """Also in a batch, which may have more matrices than these have rows."""
    matrix = a3.random(*shape)
    with TensorCounter() as counter:
        implementation(MODULE).newton_schulz(matrix)
    small, large, number = 8, 96, matrix.numel() // (8 * 96)
    check_work(
        counter.flops,
        number * 5 * 2 * (2 * 2 * small * small * large + 2 * small**3),  # twice what is needed
        f"FLOPs of newton_schulz of a {list(shape)} matrix",
        "X X^T has the side of X's rows: transpose a tall matrix before, and the result back",
    )


# a3.5

RATES = (0.1, 0.05, 0.2)
MOMENTUM, DECAY = 0.9, 0.3
SCALES = {
    "original": lambda rows, columns: max(1, rows / columns) ** 0.5,
    "match_adamw": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
}
MISTAKES = {
    "the direction is added: subtract": "sign",
    "the mean alone is made orthogonal: mix it with the gradient once more (Nesterov)": (
        "no nesterov"
    ),
    "the gradient alone is made orthogonal: momentum is missing": "no momentum",
    "momentum and its rest are exchanged": "exchanged",
    "the mixture has the shares of mean and gradient exchanged": "mixture exchanged",
    "the mixture is made with the mean of the step before": "old mean",
    "newton_schulz is left out": "no orthogonal",
    "SHAPE_SCALES is not used": "no scale",
    "rows and columns are exchanged in the scale": "scale of transposed",
    "the weights are not decayed": "no decay",
    "the decay is not multiplied by the learning rate": "whole decay",
    "the decay is multiplied by the shape scale too": "scaled decay",
    "the decay is part of the gradient: shrink the weight itself": "l2",
    "the weight is decayed after the update": "late decay",
}


def muon(weight, gradients, shape_scale, mistake=""):
    """Muon in float64, with one mistake or none."""
    rows, columns = weight.shape
    rows, columns = (columns, rows) if mistake == "scale of transposed" else (rows, columns)
    scale = 1.0 if mistake == "no scale" else SCALES[shape_scale](rows, columns)
    share = 1 - MOMENTUM if mistake == "exchanged" else MOMENTUM
    mean = torch.zeros_like(weight)
    for gradient, rate in zip(gradients, RATES, strict=True):
        gradient = gradient + DECAY * weight if mistake == "l2" else gradient
        old = mean
        mean = share * mean + (1 - share) * gradient
        mixed = MOMENTUM if mistake != "mixture exchanged" else 1 - MOMENTUM
        update = mixed * (old if mistake == "old mean" else mean) + (1 - mixed) * gradient
        update = {"no nesterov": mean, "no momentum": gradient}.get(mistake, update)
        direction = update if mistake == "no orthogonal" else by_svd(update)
        step = (1 if mistake == "sign" else -1) * rate * scale * direction
        kept = {"no decay": 1.0, "l2": 1.0, "whole decay": 1 - DECAY}.get(mistake, 1 - rate * DECAY)
        kept = 1 - rate * scale * DECAY if mistake == "scaled decay" else kept
        weight = (weight + step) * kept if mistake == "late decay" else weight * kept + step
    return weight


@pytest.mark.task("a3.5")
def test_muon_first_step_by_hand(implementation, a3):
    """A multiple of a rotation becomes that rotation, times the polynomial of 1 / sqrt(2)."""
    module = implementation(MODULE)
    weight = nn.Parameter(torch.tensor([[2.0, 0], [0, 2]], dtype=torch.float64))
    weight.grad = torch.tensor([[0.0, -7], [7, 0]], dtype=torch.float64)
    gradient = weight.grad.clone()
    module.Muon([("w", weight)], weight_decay=0.5, dtype=torch.float64).step(0.1)
    size = 0.1 * float(polynomial(torch.tensor(0.5**0.5, dtype=torch.float64)))

    def moved(diagonal, by):
        return torch.tensor([[diagonal, by], [-by, diagonal]], dtype=torch.float64)

    causes = {
        "nothing changed: write into the parameter itself, under torch.no_grad": moved(2.0, 0.0),
        "the weight is not decayed": moved(2.0, size),
        "the decay is not multiplied by the learning rate": moved(1.0, size),
        "the direction is added: subtract": moved(1.9, -size),
        "newton_schulz is left out": lambda got: abs(float(got[0, 1])) > 0.2,
    }
    what = "2 times the identity after a step of 0.1 with a rotation as gradient"
    a3.check(weight, moved(1.9, size), what, causes, dtype=torch.float64)
    check_true(torch.equal(weight.grad, gradient), "Muon.step changes the gradients")


@pytest.mark.task("a3.5")
@pytest.mark.parametrize("shape_scale", SCALES)
@pytest.mark.parametrize("shape", [(6, 2), (2, 6), (3, 3)])
def test_muon_by_formula(implementation, a3, shape, shape_scale):
    start = a3.random(*shape, dtype=torch.float64)
    gradients = [a3.random(*shape, seed=i + 1, dtype=torch.float64) for i in range(len(RATES))]
    weight = nn.Parameter(start.clone())
    optimizer = implementation(MODULE).Muon(
        [("w", weight)], MOMENTUM, DECAY, shape_scale, torch.float64
    )
    for gradient, rate in zip(gradients, RATES, strict=True):
        weight.grad = gradient.clone()
        optimizer.step(rate)
    expected = muon(start, gradients, shape_scale)
    causes = {
        cause: muon(start, gradients, shape_scale, mistake) for cause, mistake in MISTAKES.items()
    }
    what = f'a {list(shape)} matrix after 3 steps with shape_scale "{shape_scale}"'
    a3.check(weight, expected, what, causes, dtype=torch.float64, rtol=1e-8, atol=1e-9)


@pytest.mark.task("a3.5")
@pytest.mark.parametrize("shape_scale", SCALES)
def test_equal_shapes_keep_their_own_updates(implementation, a3, shape_scale):
    """Of three matrices of one shape, one has no gradient; the fourth has another shape."""
    shapes = {"a": (3, 4), "b": (3, 4), "c": (3, 4), "d": (4, 3)}
    start = {name: a3.random(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    weights = {name: nn.Parameter(x.clone()) for name, x in start.items()}
    optimizer = implementation(MODULE).Muon(
        weights.items(), MOMENTUM, DECAY, shape_scale, torch.float64
    )
    gradients = {
        name: [a3.random(*x.shape, seed=10 * i + n, dtype=torch.float64) for i in range(3)]
        for n, (name, x) in enumerate(start.items(), 1)
    }
    for i, rate in enumerate(RATES):
        for name, weight in weights.items():
            weight.grad = None if name == "b" else gradients[name][i].clone()
        optimizer.step(rate)
    check_true(
        torch.equal(weights["b"], start["b"]),
        "a matrix whose .grad is None must stay as it is: no momentum, no decay",
    )
    expected = {name: muon(start[name], gradients[name], shape_scale) for name in "acd"}
    for name, right in expected.items():
        causes = {
            f"this is the matrix {name} with the updates of {other}": muon(
                start[name], gradients[other], shape_scale
            )
            for other in "abc"
            if other != name and name != "d"
        }
        what = f"the matrix {name} of four that are updated together"
        a3.check(weights[name], right, what, causes, dtype=torch.float64, rtol=1e-8, atol=1e-9)


@pytest.mark.task("a3.5")
@pytest.mark.parametrize("types", ["bfloat16 float32", "float32 bfloat16"])
def test_equal_shapes_of_two_types(implementation, a3, types):
    """And the gradient of a third one is NaN."""
    Muon = implementation(MODULE).Muon
    types = [getattr(torch, name) for name in [*types.split(), "float32"]]

    def weights():
        made = [nn.Parameter(torch.zeros(3, 3, dtype=dtype)) for dtype in types]
        for seed, weight in enumerate(made):
            weight.grad = a3.random(3, 3, seed=seed, dtype=weight.dtype)
        made[2].grad[1, 1] = torch.nan
        return made

    together, alone = weights(), weights()
    Muon([(str(i), weight) for i, weight in enumerate(together)]).step(1.0)
    for got, right in zip(together[:2], alone, strict=False):
        Muon([("w", right)]).step(1.0)
        half = right.dtype == torch.bfloat16
        causes = {
            "the NaN of another matrix reaches it": lambda got: bool(got.isnan().any()),
            "the direction was rounded to bfloat16, the type of another matrix of this shape: "
            "convert each to the type of its own weight": lambda got, half=half: not half,
        }
        what = f"a {right.dtype} matrix beside one of another type, against its step alone,"
        close = 2**-7 if half else 1e-4
        a3.check(got, right.detach(), what, causes, dtype=right.dtype, rtol=close, atol=close)


@pytest.mark.task("a3.5")
def test_a_mean_rests_while_there_is_no_gradient(implementation, a3):
    weight = nn.Parameter(a3.random(3, 3, dtype=torch.float64))
    other = nn.Parameter(a3.random(3, 3, dtype=torch.float64))
    frozen = nn.Parameter(a3.random(3, 3, dtype=torch.float64), requires_grad=False)
    weight.grad, other.grad, frozen.grad = (a3.random(3, 3).double() for _ in range(3))
    before = frozen.clone()
    optimizer = implementation(MODULE).Muon([("w", weight), ("o", other), ("f", frozen)])
    optimizer.step(0.1)
    mean, place, address = optimizer.state()["mean/w"].clone(), weight.clone(), weight.data_ptr()
    weight.grad = None
    optimizer.step(0.1)
    optimizer.zero_gradients()
    optimizer.step(0.1)
    check_true(torch.equal(weight, place), "a matrix whose .grad is None must stay as it is")
    check_true(
        torch.equal(optimizer.state()["mean/w"], mean),
        "the running mean of a matrix whose .grad is None must stay as it is",
    )
    check_true(torch.equal(frozen, before), "a matrix with requires_grad=False must stay as it is")
    check_true(
        weight.data_ptr() == address,
        "the weight lies in other memory after a step: change it in place (mul_, add_)",
    )


@pytest.mark.task("a3.5")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_newton_schulz_runs_in_the_type_that_was_chosen(implementation, a3, dtype):
    """A weight that starts at 0 is the direction itself after a step of 1."""
    weight = nn.Parameter(torch.zeros(4, 4))
    weight.grad = a3.random(4, 4)
    implementation(MODULE).Muon([("w", weight)], weight_decay=0.0, dtype=dtype).step(1.0)
    step = weight.detach()
    check_true(bool(step.abs().max() > 0.1), "a step of 1 hardly moved a weight that was 0")
    is_rounded = torch.equal(step, step.bfloat16().float())
    wanted = dtype == torch.bfloat16
    check_true(
        is_rounded == wanted,
        f"Newton-Schulz must run in the optimizer's dtype, here {dtype}: convert the update to "
        "self.dtype before, and the direction to the weight's type after",
    )
    half = nn.Parameter(torch.zeros(4, 4, dtype=torch.bfloat16))
    half.grad = a3.random(4, 4, dtype=torch.bfloat16)
    implementation(MODULE).Muon([("w", half)], dtype=dtype).step(1.0)
    check_true(half.dtype == torch.bfloat16, "a step changes the type of a weight")
