"""a3.2 and a3.3: AdamW and clipping."""

import math

import pytest
import torch
from torch import nn

from lm_course.grading.comparisons import check_close, check_true

pytestmark = pytest.mark.usefixtures("own_optimizers")
MODULE = "training.optimizers"


def parameter(values, dtype=torch.float64):
    return nn.Parameter(torch.as_tensor(values, dtype=dtype).clone())


def set_gradients(parameters, a3, seed):
    for number, each in enumerate(parameters):
        each.grad = a3.random(*each.shape, seed=100 * seed + number, dtype=each.dtype)


# a3.2

SETTINGS = {"betas": (0.8, 0.97), "eps": 0.1, "weight_decay": 0.3}
RATES = (0.1, 0.05, 0.2, 0.1)
MISTAKES = {
    "the gradient is added: subtract": "sign",
    "the decay is part of the gradient, so it enters both running means (L2 regularization): "
    "shrink the weight itself": "l2",
    "the weights are not decayed": "no decay",
    "the decay is not multiplied by the learning rate": "whole decay",
    "the decay is divided by the root too: shrink the weight itself": "decay in the step",
    "bias correction is left out: divide both means by 1 - beta^t": "no correction",
    "the mean of the gradient is not corrected": "no first correction",
    "the mean of the squares is not corrected": "no second correction",
    "bias correction is one step ahead: in the first step, t is 1": "late t",
    "t stays 1: count the steps": "t is 1",
    "eps is inside the root: add it to the root": "eps inside",
    "eps is added before the correction of the squares": "eps early",
    "the betas are exchanged": "exchanged",
    "the root of the mean square is missing": "no root",
    "1 - beta is missing in front of the new gradient": "no share",
    "the update is computed with the means of the step before": "old means",
}


def adamw(weight, gradients, mistake=""):
    """AdamW in float64, with one mistake or none."""
    (beta1, beta2), eps, decay = SETTINGS["betas"], SETTINGS["eps"], SETTINGS["weight_decay"]
    beta1, beta2 = (beta2, beta1) if mistake == "exchanged" else (beta1, beta2)
    share1, share2 = (1.0, 1.0) if mistake == "no share" else (1 - beta1, 1 - beta2)
    mean = square = torch.zeros_like(weight)
    for step, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True), 1):
        t = {"late t": step + 1, "t is 1": 1}.get(mistake, step)
        one, two = 1 - beta1**t, 1 - beta2**t
        one = 1.0 if mistake in ("no correction", "no first correction") else one
        two = 1.0 if mistake in ("no correction", "no second correction") else two
        gradient = gradient + decay * weight if mistake == "l2" else gradient
        old = mean
        mean, square = beta1 * mean + share1 * gradient, beta2 * square + share2 * gradient**2
        root = (square / two).sqrt() + eps
        root = (square / two + eps).sqrt() if mistake == "eps inside" else root
        root = (square.sqrt() + eps) / two**0.5 if mistake == "eps early" else root
        root = square / two + eps if mistake == "no root" else root
        update = (old if mistake == "old means" else mean) / one
        update = update + decay * weight if mistake == "decay in the step" else update
        kept = {"no decay": 1.0, "l2": 1.0, "decay in the step": 1.0, "whole decay": 1 - decay}
        weight = weight * kept.get(mistake, 1 - rate * decay)
        weight = weight + (1 if mistake == "sign" else -1) * rate * update / root
    return weight


@pytest.mark.task("a3.2")
def test_adamw_first_step_by_hand(implementation, a3):
    weight = parameter([[4.0]])
    weight.grad = torch.tensor([[-3.0]], dtype=torch.float64)
    optimizer = implementation(MODULE).AdamW([("w", weight)], eps=0.0, weight_decay=0.5)
    optimizer.step(0.1)
    causes = {
        "nothing changed: write into the parameter itself, under torch.no_grad": torch.tensor(
            [[4.0]]
        ),
        "the weight itself is not decayed; a decay that is added to the gradient is divided by "
        "the root, too": torch.tensor([[4.1]]),
        "the gradient is added: subtract": torch.tensor([[3.7]]),
        "the decay is not multiplied by the learning rate": torch.tensor([[2.1]]),
        "bias correction is left out": torch.tensor([[3.8 + 0.01 / 0.05**0.5]]),
    }
    what = "4 with gradient -3 after a step of 0.1 and a decay of 0.5"
    a3.check(weight, torch.tensor([[3.9]]), what, causes, dtype=torch.float64)


@pytest.mark.task("a3.2")
def test_adamw_by_formula(implementation, a3):
    start = a3.random(3, 4, dtype=torch.float64)
    gradients = [a3.random(3, 4, seed=i + 1, dtype=torch.float64) for i in range(len(RATES))]
    weight = parameter(start)
    optimizer = implementation(MODULE).AdamW([("w", weight)], **SETTINGS)
    for gradient, rate in zip(gradients, RATES, strict=True):
        weight.grad = gradient.clone()
        optimizer.step(rate)
    causes = {cause: adamw(start, gradients, mistake) for cause, mistake in MISTAKES.items()}
    what = "a matrix after 4 steps with eps 0.1"
    a3.check(weight, adamw(start, gradients), what, causes, dtype=torch.float64, rtol=1e-10)
    check_true(torch.equal(weight.grad, gradients[-1]), "AdamW.step changes the gradients")


@pytest.mark.task("a3.2")
@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (2, 2, 2)])
def test_only_matrices_are_decayed(implementation, a3, shape):
    weight = parameter(a3.random(*shape, dtype=torch.float64))
    start = weight.detach().clone()
    weight.grad = torch.zeros_like(start)
    implementation(MODULE).AdamW([("norm.weight", weight)], weight_decay=0.5).step(0.1)
    axes = len(shape)
    expected = start * 0.95 if axes >= 2 else start
    causes = {
        "weights of norms and biases are decayed: decay only what has two axes or more": 0.95
        * start,
        "what has two axes or more is decayed, whatever its name is": start,
    }
    what = f"a parameter with {axes} axes, gradient 0 and decay 0.1 * 0.5"
    a3.check(weight, expected, what, causes, dtype=torch.float64)


@pytest.mark.task("a3.2")
def test_a_parameter_without_gradient_stays(implementation, a3):
    weights = {name: parameter(a3.random(2, 2, dtype=torch.float64)) for name in "ab"}
    optimizer = implementation(MODULE).AdamW(weights.items(), weight_decay=0.5)
    set_gradients(weights.values(), a3, 1)
    optimizer.step(0.1)
    before, means = weights["b"].detach().clone(), optimizer.state()["mean/b"].clone()
    for seed in (2, 3):
        set_gradients(weights.values(), a3, seed)
        weights["b"].grad = None
        optimizer.step(0.1)
    check_true(
        torch.equal(weights["b"], before),
        "a parameter whose .grad is None must stay as it is: without a gradient there is no "
        "momentum and no decay",
    )
    check_true(
        torch.equal(optimizer.state()["mean/b"], means),
        "the running mean of a parameter whose .grad is None must stay as it is",
    )


@pytest.mark.task("a3.2")
def test_steps_are_counted_for_all_parameters_together(implementation, a3):
    early, late = parameter([[1.0]]), parameter([[1.0]])
    optimizer = implementation(MODULE).AdamW(
        [("early", early), ("late", late)], betas=(0.5, 0.75), eps=0.0, weight_decay=0.0
    )
    optimizer.step(0.1)  # nobody has a gradient
    early.grad = torch.ones_like(early)
    optimizer.step(0.1)
    late.grad = torch.ones_like(late)
    optimizer.step(0.1)

    def after(t):
        return torch.tensor([[1 - 0.1 * (0.5 / (1 - 0.5**t)) / (0.25 / (1 - 0.75**t)) ** 0.5]])

    causes = {
        "steps are counted for each parameter: count the calls of step": after(1),
        "a call without any gradient is not counted": after(2),
        "the count is of parameters, not of calls": after(4),
    }
    what = "a weight whose first gradient, 1, comes in the third call"
    a3.check(late, after(3), what, causes, dtype=torch.float64)


@pytest.mark.task("a3.2")
def test_two_optimizers_share_nothing(implementation, a3):
    module = implementation(MODULE)
    pair = [parameter(a3.random(2, 3, dtype=torch.float64)) for _ in range(2)]
    alone = parameter(pair[0])
    optimizers = [module.AdamW([("w", weight)]) for weight in (*pair, alone)]
    gradient = a3.random(2, 3, seed=5, dtype=torch.float64)
    pair[0].grad, alone.grad, pair[1].grad = gradient.clone(), gradient.clone(), 30 * gradient
    for _ in range(3):
        optimizers[0].step(0.1)
        optimizers[1].step(0.1)
    for _ in range(3):
        optimizers[2].step(0.1)
    what = "a weight whose optimizer steps in turn with another optimizer"
    sentence = "the two optimizers share their means or their count"
    causes = {sentence: lambda got: True}
    a3.check(pair[0], alone, what, causes, dtype=torch.float64, rtol=1e-9)


@pytest.mark.task("a3.2")
def test_the_means_are_as_large_as_the_parameters(implementation, a3):
    shapes = {"matrix": (3, 4), "vector": (5,), "frozen": (2, 2)}
    weights = {name: parameter(a3.random(*shape), torch.bfloat16) for name, shape in shapes.items()}
    weights["frozen"].requires_grad_(False)
    optimizer = implementation(MODULE).AdamW(weights.items())
    set_gradients(weights.values(), a3, 1)
    before = {name: each.detach().clone() for name, each in weights.items()}
    optimizer.step(0.1)
    check_true(
        torch.equal(weights["frozen"], before["frozen"]),
        "a parameter with requires_grad=False moves: it must be skipped, also if it has a .grad",
    )
    found = {
        name: (tuple(x.shape), x.dtype) for name, x in optimizer.state().items() if name != "steps"
    }
    expected = {
        f"{kind}/{name}": (shapes[name], torch.bfloat16)
        for kind in ("mean", "square")
        for name in ("matrix", "vector")
    }
    check_true(
        found == expected,
        "for each parameter that needs a gradient there are two running means, of its shape and "
        "its type",
        {"expected": expected, "got": found},
    )


@pytest.mark.task("a3.2")
def test_a_tied_weight_moves_once(implementation, a3):
    module = implementation(MODULE)
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embedding"].weight
    weight = model["head"].weight
    with torch.no_grad():
        weight.fill_(2.0)
    weight.grad = torch.ones(4, 3)
    address = weight.data_ptr()
    module.AdamW(model.named_parameters(), eps=0.0, weight_decay=0.5).step(0.1)
    causes = {"the weight was updated twice": lambda got: bool((got < 1.75).all())}
    a3.check(weight, torch.full((4, 3), 1.8), "a tied weight after one step", causes)
    check_true(
        weight.data_ptr() == address,
        "the weight lies in other memory after a step: change it in place (mul_, add_)",
    )


# a3.3


def with_gradients(*gradients, dtype=torch.float32):
    """Parameters with these gradients; None: without one."""
    found = []
    for gradient in gradients:
        values = torch.tensor(0.0 if gradient is None else gradient, dtype=dtype)
        found.append(nn.Parameter(torch.zeros_like(values)))
        found[-1].grad = None if gradient is None else values
    return found


def gradients_of(parameters):
    each = [p.grad.flatten() for p in parameters if p.grad is not None]
    return torch.cat(each)


@pytest.mark.task("a3.3")
def test_clipping_by_hand(implementation, a3):
    parameters = with_gradients([3.0, 0.0], None, [[4.0]])
    norm = implementation(MODULE).clip_gradients(parameters, 1.0)
    causes = {
        "nothing was scaled: multiply the gradients themselves, in place": torch.tensor(
            [3.0, 0, 4]
        ),
        "each parameter is clipped alone: take one norm over all": torch.tensor([1.0, 0, 1]),
        "the root of the sum of squares is missing": torch.tensor([3.0, 0, 4]) / 25,
        "the norms are added: their squares add up": torch.tensor([3.0, 0, 4]) / 7,
        "the largest value is taken for the norm": torch.tensor([3.0, 0, 4]) / 4,
    }
    a3.check(
        gradients_of(parameters), torch.tensor([0.6, 0, 0.8]), "(3, 0, 4) clipped to 1", causes
    )
    causes = {
        "this is the norm after clipping: return the one before": torch.tensor(1.0),
        "the root is missing": torch.tensor(25.0),
        "this is the factor": torch.tensor(0.2),
        "the norms of the parameters are added": torch.tensor(7.0),
    }
    a3.check(norm, torch.tensor(5.0), "the norm that clip_gradients returns", causes)
    check_true(parameters[1].grad is None, "a parameter without gradient must stay without")


@pytest.mark.task("a3.3")
@pytest.mark.parametrize("max_norm", [5.0, 7.5, math.inf])
def test_small_gradients_stay(implementation, a3, max_norm):
    parameters = with_gradients([3.0], [4.0])
    norm = implementation(MODULE).clip_gradients(parameters, max_norm)
    causes = {
        "small gradients are scaled up to max_norm: the factor is at most 1": torch.tensor([3.0, 4])
        * max_norm
        / 5,
        "something is added to the norm before the division: leave gradients as they are if their "
        "norm is not larger than max_norm": lambda got: bool(
            (got - got.round()).abs().max() < 1e-4
        ),
    }
    what = f"gradients of norm 5 with max_norm {max_norm}"
    a3.check(gradients_of(parameters), torch.tensor([3.0, 4]), what, causes, rtol=0.0, atol=0.0)
    check_close(float(norm), 5.0, 0.0, 1e-6, "the norm of gradients that are not clipped")


@pytest.mark.task("a3.3")
def test_parameters_may_be_a_generator(implementation, a3):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for each in model.parameters():
        each.grad = torch.full_like(each, 2.0)
    implementation(MODULE).clip_gradients(model.parameters(), 1.0)
    causes = {
        "nothing was scaled: model.parameters() is a generator, and can be gone through only once: "
        "make a list of the gradients": torch.full((13,), 2.0)
    }
    expected = torch.full((13,), 13**-0.5)
    a3.check(gradients_of(model.parameters()), expected, "clipped model.parameters()", causes)


@pytest.mark.task("a3.3")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned(implementation, value):
    parameters = with_gradients([1.0, value], [2.0])
    norm = float(implementation(MODULE).clip_gradients(parameters, 1.0))
    check_true(
        norm == value or (norm != norm and value != value),
        f"a gradient is {value}, so the norm is too: whoever calls must see it",
        {"got": norm},
    )


@pytest.mark.task("a3.3")
def test_the_norm_of_half_precision_gradients(implementation, a3):
    parameters = with_gradients([30000.0] * 4, [40000.0] * 4, dtype=torch.float16)
    norm = implementation(MODULE).clip_gradients(parameters, 10.0)
    causes = {
        "the squares overflow float16, which ends at 65504: sum them in float32": lambda got: bool(
            got.isinf() or got.isnan()
        )
    }
    a3.check(norm, torch.tensor(1e5), "the norm of float16 gradients", causes)
    expected = torch.tensor([3.0] * 4 + [4.0] * 4)
    what = "float16 gradients clipped from 100,000 to 10"
    a3.check(gradients_of(parameters), expected, what, dtype=torch.float16, rtol=2e-3)


@pytest.mark.task("a3.3")
def test_gradients_are_scaled_where_they_lie(implementation):
    """The gradients may be views of one buffer (task 12)."""
    parameters = with_gradients([0.0, 0.0], [0.0])
    buffer = torch.tensor([3.0, 0.0, 4.0])
    parameters[0].grad, parameters[1].grad = buffer[:2], buffer[2:]
    implementation(MODULE).clip_gradients(iter(parameters), 1.0)
    check_true(
        torch.allclose(buffer, torch.tensor([0.6, 0.0, 0.8])),
        "p.grad was replaced by another tensor: multiply in place (mul_), because others may hold "
        "the same memory",
        {"buffer": buffer.tolist()},
    )


@pytest.mark.task("a3.3")
def test_without_any_gradient_the_norm_is_0(implementation, a3):
    clip = implementation(MODULE).clip_gradients
    for parameters in ([], with_gradients(None, None)):
        a3.check(clip(parameters, 1.0), torch.tensor(0.0), "the norm without any gradient")
    parameters = with_gradients([0.0, 0.0])
    a3.check(clip(parameters, 0.0), torch.tensor(0.0), "the norm of gradients that are 0")
    causes = {"0 / 0 is NaN: do not divide by a norm of 0": lambda got: bool(got.isnan().any())}
    zeros = torch.zeros(2)
    a3.check(gradients_of(parameters), zeros, "gradients of 0 with max_norm 0", causes)
