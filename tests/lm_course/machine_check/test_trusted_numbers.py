"""The check of a device's numbers: right here, and wrong where a product or a gradient is."""

import pytest
import torch

from lm_course.machine_check import trusted_numbers
from lm_course.machine_check.trusted_numbers import NumberCheck, number_checks, tolerance

CPU = torch.device("cpu")


def test_this_machine_is_right():
    before = torch.get_rng_state()
    checks = list(number_checks(CPU))
    assert [check.dtype for check in checks] == ["float32", "bfloat16"]
    assert all(check.trusted for check in checks)
    assert not any(check.wrong_gradients for check in checks)
    assert checks[0].repeats and checks[0].gradients < tolerance(torch.float32) / 2
    assert torch.equal(torch.get_rng_state(), before), "the generators changed"


def rounded_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A float32 product of factors with 10 bits, as TF32 has them."""
    if first.dtype != torch.float32:
        return torch.matmul(first, second)
    return torch.matmul(with_10_bits(first), with_10_bits(second))


def with_10_bits(factor: torch.Tensor) -> torch.Tensor:
    cut = (factor.detach().view(torch.int32) & -8192).view(torch.float32)
    return factor + (cut - factor.detach())


def test_a_wrong_product(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded_product)
    checks = {check.dtype: check for check in number_checks(CPU)}
    assert not checks["float32"].trusted
    assert 1e-4 < checks["float32"].product < 2e-3
    assert checks["bfloat16"].trusted, "a tolerance is that of its type"


def test_a_wrong_gradient(monkeypatch):
    loss = trusted_numbers.language_model_loss

    def with_a_larger_gradient(model, batch):
        right = loss(model, batch)
        wide = model.token_embedding.weight.dtype == torch.float64
        return right if wide else right + 0.001 * (right - right.detach())

    monkeypatch.setattr(trusted_numbers, "language_model_loss", with_a_larger_gradient)
    check = next(number_checks(CPU))
    assert not check.trusted
    assert check.logits <= check.tolerance < check.gradients == pytest.approx(1e-3, rel=0.01)


def test_a_type_that_does_not_run(monkeypatch):
    run = trusted_numbers.computed

    def without(missing):
        def computed(model, ids, dtype):
            if dtype == missing and model.token_embedding.weight.dtype == torch.float32:
                raise RuntimeError("not implemented\nand more")
            return run(model, ids, dtype)

        return computed

    monkeypatch.setattr(trusted_numbers, "computed", without(torch.bfloat16))
    last = list(number_checks(CPU))[-1]
    assert last == NumberCheck("bfloat16", failure="not implemented")
    assert last.trusted, "training can do without it"
    monkeypatch.setattr(trusted_numbers, "computed", without(torch.float32))
    assert not next(number_checks(CPU)).trusted


def test_nan_is_not_trusted():
    right = NumberCheck("float32", 0.0, 0.0, 0.0, 0.0, (), 1e-6)
    assert right.trusted
    for figure in ("product", "logits", "loss", "gradients"):
        assert not right._replace(**{figure: float("nan")}).trusted, figure


def test_a_wrong_loss(monkeypatch):
    loss = trusted_numbers.language_model_loss

    def with_a_larger_loss(model, batch):
        right = loss(model, batch)
        wide = model.token_embedding.weight.dtype == torch.float64
        return right if wide else right + 0.01 * right.detach()

    monkeypatch.setattr(trusted_numbers, "language_model_loss", with_a_larger_loss)
    check = next(number_checks(CPU))
    assert not check.trusted and not check.wrong_gradients
    assert check.loss == pytest.approx(0.01, rel=0.01)


def test_the_wrong_gradients_are_named_worst_first(monkeypatch):
    """NaN, and one row that is off by a tenth of the gradient's norm."""
    run = trusted_numbers.computed
    worst, other = "blocks.1.feed_forward.up.weight", "blocks.0.attention.query.weight"

    def with_two_wrong(model, ids, dtype):
        found = run(model, ids, dtype)
        if model.token_embedding.weight.dtype == torch.float32:
            found[worst][5] = float("nan")
            found[other][5] += found[other].norm() / found[other].shape[1] ** 0.5 / 10
        return found

    monkeypatch.setattr(trusted_numbers, "computed", with_two_wrong)
    for check in number_checks(CPU):
        assert check.wrong_gradients == (worst, other), check.dtype
        assert not check.trusted
