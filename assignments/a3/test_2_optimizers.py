"""a3.2: AdamW."""

import pytest
import torch
from torch import nn

from lm_course.grading.comparisons import check_raises, check_true

pytestmark = pytest.mark.usefixtures("own_optimizers")
MODULE = "training.optimizers"


def parameter(values, dtype=torch.float64):
    return nn.Parameter(torch.as_tensor(values, dtype=dtype).clone())


def set_gradients(parameters, a3, seed):
    for number, each in enumerate(parameters):
        each.grad = a3.random(*each.shape, seed=100 * seed + number, dtype=each.dtype)


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
@pytest.mark.parametrize("steps", [1000, 10_000, 100_000])
def test_the_correction_never_ends(implementation, a3, steps):
    """In step 1,000 and later, beta^t is small, and not 0."""
    beta1, beta2 = betas = 1 - 1 / (2 * steps), 1 - 1 / steps
    make = implementation(MODULE).AdamW
    weight = parameter([[1.0]])
    optimizer = make([("w", weight)], betas=betas, eps=0.0, weight_decay=0.0)
    state = optimizer.state()
    found = [1 - beta ** (steps + 1) for beta in betas]
    optimizer.load_state(
        state
        | {"steps": torch.tensor(steps)}
        | {
            key: torch.full_like(x, 1 - beta**steps)
            for key, x, beta in (
                ("mean/w", state["mean/w"], beta1),
                ("square/w", state["square/w"], beta2),
            )
        }
    )  # as after `steps` gradients of 1
    weight.grad = torch.ones_like(weight)
    optimizer.step(0.1)
    causes = {
        "the correction of the squares is left out in late steps": torch.tensor(
            [[1 - 0.1 / found[1] ** 0.5]]
        ),
        "the correction of the mean is left out in late steps": torch.tensor(
            [[1 - 0.1 * found[0]]]
        ),
        "both corrections are left out in late steps": torch.tensor(
            [[1 - 0.1 * found[0] / found[1] ** 0.5]]
        ),
        "the steps of the loaded state are not used": lambda got: True,
    }
    what = f"a weight of 1 after step {steps + 1} of 0.1, if all gradients were 1"
    a3.check(weight, torch.tensor([[0.9]]), what, causes, dtype=torch.float64)


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
def test_autograd_notices_a_step(implementation):
    """A backward pass through the weight as it was must fail, and not use the new weight."""
    weight = parameter([[3.0]])
    square = (weight * weight).sum()
    weight.grad = torch.ones_like(weight)
    implementation(MODULE).AdamW([("w", weight)]).step(0.1)
    check_raises(
        RuntimeError,
        square.backward,
        "backward through a weight that AdamW.step has changed since (.data hides the change from "
        "autograd: change the parameter itself, under torch.no_grad())",
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
