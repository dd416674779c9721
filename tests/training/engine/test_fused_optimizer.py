"""The fused AdamW against the lesson's: the same weights and state, in any type and layout."""

import pytest
import torch
from torch import nn

from training.engine import fused_optimizer
from training.engine.fused_optimizer import FusedAdamW, fused_step_works, why_fused_is_unusable
from training.optimizers import AdamW

OPTIONS = {"betas": (0.8, 0.97), "eps": 1e-3, "weight_decay": 0.3}
# Relative to the largest weight, 2 to 3: the formula rounds after every operation, the kernel once
# per step.
TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 0.06, torch.float16: 0.06}
SHAPES = {"matrix": (40, 33), "vector": (50,), "scale": (), "cube": (2, 3, 4), "still": (3, 3)}


def make_parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = {
        name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in SHAPES.items()
    }
    made["turned"] = nn.Parameter(torch.randn(30, 20, generator=generator).to(dtype).T)
    return made


def set_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    """ "still" has no gradient, "vector" has none in every third step."""
    generator = torch.Generator().manual_seed(step)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    parameters["still"].grad = None
    if step % 3 == 0:
        parameters["vector"].grad = None


@pytest.fixture(autouse=True)
def probe_again():
    fused_step_works.cache_clear()
    yield
    fused_step_works.cache_clear()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_twenty_steps_equal_the_lesson(dtype):
    theirs, ours = make_parameters(dtype), make_parameters(dtype)
    formula, fused = AdamW(theirs.items(), **OPTIONS), FusedAdamW(ours.items(), **OPTIONS)
    assert fused.is_fused
    for step in range(1, 21):
        for parameters, optimizer in ((theirs, formula), (ours, fused)):
            set_gradients(parameters, step)
            optimizer.step(0.1 / step)
    tolerance = {"atol": TOLERANCES[dtype], "rtol": TOLERANCES[dtype]}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)
    expected = formula.state()
    assert fused.state().keys() == expected.keys()
    for name, tensor in fused.state().items():
        torch.testing.assert_close(tensor, expected[name], **tolerance)
    assert torch.equal(ours["still"], make_parameters(dtype)["still"])


def test_the_kernel_does_it_and_not_the_formula(monkeypatch):
    def formula(self, learning_rate):
        raise AssertionError("the lesson's arithmetic ran")

    parameters = make_parameters(torch.float32)
    optimizer = FusedAdamW(parameters.items())
    monkeypatch.setattr(AdamW, "step", formula)
    set_gradients(parameters, 1)
    optimizer.step(0.1)


def test_state_goes_from_the_lesson_to_the_kernel_and_back():
    """A run that began with the formula resumes with the kernel, and vice versa."""
    straight, changing = make_parameters(torch.float64), make_parameters(torch.float64)
    formula, optimizer = AdamW(straight.items()), AdamW(changing.items())
    for step in range(1, 13):
        if step in (5, 9):
            kind = FusedAdamW if step == 5 else AdamW
            saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            optimizer = kind(changing.items())
            optimizer.load_state(saved)
        for parameters, stepping in ((straight, formula), (changing, optimizer)):
            set_gradients(parameters, step)
            stepping.step(0.01)
    for name in straight:
        torch.testing.assert_close(changing[name], straight[name], atol=1e-14, rtol=1e-14)


def test_state_and_a_stop_give_the_same_bits():
    straight, stopped = make_parameters(torch.float32), make_parameters(torch.float32)
    first, second = FusedAdamW(straight.items()), FusedAdamW(stopped.items())
    for step in range(1, 7):
        if step == 4:
            saved = {name: tensor.clone() for name, tensor in second.state().items()}
            second = FusedAdamW(stopped.items())
            second.load_state(saved)
        for parameters, optimizer in ((straight, first), (stopped, second)):
            set_gradients(parameters, step)
            optimizer.step(0.01)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_types_may_be_mixed():
    wide, narrow = make_parameters(torch.float64), make_parameters(torch.bfloat16)
    mixed = {name: (wide if name < "n" else narrow)[name] for name in wide}
    alone = {name: torch.nn.Parameter(p.detach().clone()) for name, p in mixed.items()}
    optimizer = FusedAdamW(mixed.items())
    set_gradients(mixed, 1)
    optimizer.step(0.1)
    for name, p in alone.items():
        one = FusedAdamW([(name, p)])
        p.grad = mixed[name].grad
        one.step(0.1)
        assert torch.equal(mixed[name], p), name


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("missing", "meta, torch.float32: no such kernel"),
        ("wrong", "cpu, torch.float32: its result differs by"),
    ],
)
def test_a_kernel_that_fails_gives_way_to_the_formula(monkeypatch, capsys, broken, reason):
    """ "meta" represents a device of another kind."""

    def kernel(weights, gradients, *rest, **options):
        if broken == "missing":
            raise NotImplementedError("no such kernel\nregistered kernels are ...")
        for weight in weights:
            weight.mul_(0.9)

    monkeypatch.setattr(torch, "_fused_adamw_", kernel)
    device = reason.split(",")[0]
    ours, theirs = (
        {name: nn.Parameter(p.to(device)) for name, p in make_parameters(torch.float32).items()}
        for _ in range(2)
    )
    fused, formula = FusedAdamW(ours.items()), AdamW(theirs.items())
    FusedAdamW(ours.items())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("AdamW: torch's fused kernel is not used")
    assert reason in said[0]
    assert not fused.is_fused
    for parameters, optimizer in ((ours, fused), (theirs, formula)):
        for p in parameters.values():
            p.grad = torch.ones_like(p)
        optimizer.step(0.1)
    assert fused.steps == 1
    if device == "cpu":
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_learners_own_optimizer_is_never_passed_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "loss.py").write_text("")
    monkeypatch.setenv("LM_STAND_INS", str(tmp_path))
    assert why_fused_is_unusable("cpu", torch.float32) is None
    (tmp_path / "training" / "optimizers.py").write_text("")
    assert not FusedAdamW(make_parameters(torch.float32).items()).is_fused
    assert "your own training/optimizers.py is used" in capsys.readouterr().err


def test_a_learners_own_optimizer_may_keep_its_parameters_by_another_name(tmp_path, monkeypatch):
    def keep(self, parameters, betas, eps, weight_decay):
        self.weights = dict(parameters)

    def step(self, learning_rate):
        for weight in self.weights.values():
            weight.sub_(learning_rate)

    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "optimizers.py").write_text("")
    monkeypatch.setenv("LM_STAND_INS", str(tmp_path))
    monkeypatch.setattr(AdamW, "__init__", keep)
    monkeypatch.setattr(AdamW, "step", step)
    parameters = make_parameters(torch.float32)
    FusedAdamW(parameters.items()).step(0.5)
    before = make_parameters(torch.float32)
    assert all(torch.equal(parameters[name], before[name] - 0.5) for name in before)


def test_a_gradient_that_lies_otherwise_in_memory_is_read_right():
    """set_gradients gives "turned" a row-major gradient for a column-major weight; check that it
    does.
    """
    parameters = make_parameters(torch.float32)
    set_gradients(parameters, 1)
    turned = parameters["turned"]
    assert turned.grad.stride() != turned.stride()
    in_order = fused_optimizer._gradient_in_order(turned)
    assert in_order.stride() == turned.stride() and torch.equal(in_order, turned.grad)
    matrix = parameters["matrix"]
    assert fused_optimizer._gradient_in_order(matrix) is matrix.grad, "a needless copy"
