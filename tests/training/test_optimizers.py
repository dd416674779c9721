"""AdamW step by step against torch's, clipping against torch's, and state that survives."""

import math

import pytest
import torch
from torch import nn

from training.optimizers import AdamW, clip_gradients


def make_parameters(dtype=torch.float64) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (4, 3), "vector": (5,), "other": (2, 2)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        for name, shape in shapes.items()
    }


def set_gradients(parameters: dict[str, nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype) * scale


def test_the_first_step_by_hand():
    # Both means are corrected to g and g^2, so the step is lr * g / |g|; decay takes lr * 0.5 * w.
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[-3.0]], dtype=torch.float64)
    AdamW([("w", weight)], eps=0.0, weight_decay=0.5).step(0.1)
    assert weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 + 0.1)


def test_twenty_steps_equal_torch_in_float64():
    ours, theirs = make_parameters(), make_parameters()
    optimizer = AdamW(ours.items(), betas=(0.8, 0.97), eps=1e-3, weight_decay=0.3)
    matrices = [theirs["matrix"], theirs["other"]]
    groups = [
        {"params": matrices, "weight_decay": 0.3},
        {"params": [theirs["vector"]], "weight_decay": 0.0},
    ]
    oracle = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.97), eps=1e-3)
    for step in range(1, 21):
        learning_rate = 0.1 / step
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(learning_rate)
        for group in oracle.param_groups:
            group["lr"] = learning_rate
        oracle.step()
        for name in ours:
            # float64, in another order of operations
            torch.testing.assert_close(
                ours[name], theirs[name], atol=1e-12, rtol=1e-12, msg=f"{name} at step {step}"
            )


def test_decay_does_not_enter_the_moments():
    parameters = make_parameters()
    optimizer = AdamW(parameters.items(), weight_decay=0.5)
    set_gradients(parameters, 1, scale=0.0)
    optimizer.step(0.1)
    assert all(mean.abs().sum() == 0 for mean in optimizer.means.values())
    expected = make_parameters()["matrix"] * (1 - 0.05)
    torch.testing.assert_close(parameters["matrix"].data, expected.data)


def test_parameters_without_a_gradient_stay():
    parameters = make_parameters()
    parameters["other"].requires_grad_(False)
    set_gradients(parameters, 1)
    parameters["matrix"].grad = None
    before = {name: p.detach().clone() for name, p in parameters.items()}
    AdamW(parameters.items()).step(0.1)
    assert [n for n, p in parameters.items() if not torch.equal(p, before[n])] == ["vector"]


def test_state_carries_the_step_count_and_both_means():
    straight, stopped = make_parameters(), make_parameters()
    first = AdamW(straight.items())
    for step in range(6):
        set_gradients(straight, step)
        first.step(0.01)
    second = AdamW(stopped.items())
    for step in range(6):
        if step == 3:  # a new process
            saved = {name: tensor.clone() for name, tensor in second.state().items()}
            second = AdamW(stopped.items())
            second.load_state(saved)
        set_gradients(stopped, step)
        second.step(0.01)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_state_of_another_model_is_refused():
    with pytest.raises(ValueError, match="another model"):
        AdamW(make_parameters().items()).load_state({"steps": torch.tensor(3)})


def test_zero_gradients_forgets_them():
    parameters = make_parameters()
    set_gradients(parameters, 1)
    AdamW(parameters.items()).zero_gradients()
    assert all(p.grad is None for p in parameters.values())


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e3])
def test_clipping_equals_torch(max_norm):
    ours, theirs = make_parameters(), make_parameters()
    ours["other"].grad = theirs["other"].grad = None
    for parameters in (ours, theirs):
        set_gradients({n: parameters[n] for n in ("matrix", "vector")}, 4)
    expected_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm)
    norm = clip_gradients(ours.values(), max_norm)
    torch.testing.assert_close(norm, expected_norm)
    for name in ("matrix", "vector"):
        # torch divides by the norm + 1e-6, we by the norm
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-5, atol=0)


def test_small_gradients_are_not_scaled_up():
    parameters = make_parameters()
    set_gradients(parameters, 1, scale=1e-3)
    before = {name: p.grad.clone() for name, p in parameters.items()}
    clip_gradients(parameters.values(), 1.0)
    assert all(torch.equal(p.grad, before[name]) for name, p in parameters.items())


def test_clipping_asks_no_device_for_the_norm():
    """Reading a value of a tensor on "meta" is an error; on a GPU it would be a wait."""
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    parameter.grad = torch.zeros(2, device="meta")
    assert clip_gradients([parameter], 1.0).is_meta


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_reported(value):
    parameters = make_parameters()
    set_gradients(parameters, 1)
    parameters["vector"].grad[0] = value
    norm = clip_gradients(parameters.values(), 1.0).item()
    assert norm == value or (math.isnan(norm) and math.isnan(value))


def test_without_any_gradient_nothing_happens():
    """A process that holds no parameter has none."""
    parameters = make_parameters()
    assert clip_gradients(parameters.values(), 1.0).item() == 0.0
    AdamW(parameters.items()).step(0.1)
    AdamW([]).step(0.1)
    before = make_parameters()
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())


def test_the_norm_is_of_all_gradients_together():
    parameters = {"a": nn.Parameter(torch.zeros(1)), "b": nn.Parameter(torch.zeros(1))}
    parameters["a"].grad, parameters["b"].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(parameters.values(), 1.0).item() == 5.0
    torch.testing.assert_close(parameters["a"].grad, torch.tensor([0.6]))


def test_the_norm_of_half_precision_gradients_is_a_float32():
    """Also beside gradients of another type: 8 times 4e4 is more than float16 can hold."""
    half, single = nn.Parameter(torch.zeros(64).half()), nn.Parameter(torch.zeros(1))
    half.grad, single.grad = torch.full((64,), 4e4).half(), torch.tensor([2.4e5])
    norm = clip_gradients([half, single], 4.0)
    assert norm.dtype == torch.float32 and norm.item() == 4e5
    torch.testing.assert_close(half.grad, torch.full((64,), 0.4).half())
    torch.testing.assert_close(single.grad, torch.tensor([2.4]))
