"""The check of a device's numbers: right here, and wrong where a product or a gradient is."""

import pytest
import torch

from lm_course.machine_check import trusted_numbers
from lm_course.machine_check.trusted_numbers import NumberCheck, number_checks, tolerance

CPU = torch.device("cpu")


def test_this_machine_is_right():
    before = torch.get_rng_state()
    checks = list(number_checks(CPU))
    assert [check.dtype for check in checks] == ["float32", "bfloat16", "float16"]
    assert all(check.trusted for check in checks)
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
    run = trusted_numbers.logits_and_gradients

    def without_float16(model, ids, dtype):
        if dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'\nand more")
        return run(model, ids, dtype)

    monkeypatch.setattr(trusted_numbers, "logits_and_gradients", without_float16)
    last = list(number_checks(CPU))[-1]
    assert last == NumberCheck("float16", failure="not implemented for 'Half'")
    assert last.trusted


def test_nan_is_not_trusted():
    right = NumberCheck("float32", 0.0, 0.0, 0.0, "", 1e-6)
    assert right.trusted and not right._replace(logits=float("nan")).trusted
