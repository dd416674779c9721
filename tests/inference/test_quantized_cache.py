"""Rows of the cache in int8: wrong by half a scale at most, and each row by itself."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.quantized_cache import SCALE_BYTES, quantize_rows, restore_rows

ROWS = st.integers(1, 40).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=size, max_size=size), max_size=5
    ).map(lambda rows: torch.tensor(rows).reshape(len(rows), size))
)


@given(ROWS)
def test_half_a_scale_at_most(rows: torch.Tensor) -> None:
    stored = quantize_rows(rows)
    assert stored.dtype == torch.int8
    assert stored.shape == (len(rows), rows.shape[1] + SCALE_BYTES)
    scales = rows.double().abs().amax(-1, keepdim=True) / 127
    errors = (restore_rows(stored).double() - rows.double()).abs()
    assert (errors <= scales * 0.5001 + 2e-43).all()  # float32 below 1e-38 has fewer digits


def test_known_codes() -> None:
    rows = torch.tensor([[[127.0, -127.0, 2.5, 3.5, -0.5]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    stored = quantize_rows(rows)
    assert stored[..., :5].tolist() == [[[127, -127, 2, 4, 0]], [[0, 0, 0, 0, 0]]]
    assert stored[..., 5:].contiguous().view(torch.float32).flatten().tolist() == [1.0, 0.0]


def test_each_row_has_its_own_scale() -> None:
    small = torch.full((1, 8), 0.001)
    beside = restore_rows(quantize_rows(torch.cat([small, 1000 * torch.ones(1, 8)])))
    torch.testing.assert_close(beside[:1], small)


def test_numbers_of_other_types() -> None:
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(quantize_rows(rows), quantize_rows(rows.float()))


def test_what_is_no_number_stays_none() -> None:
    rows = torch.ones(3, 8)
    rows[0, 3], rows[1, 5] = torch.nan, -torch.inf
    stored = quantize_rows(rows)
    assert stored[:2, 8:].contiguous().view(torch.float32).isnan().all()
    restored = restore_rows(stored)
    assert restored[:2].isnan().all()
    torch.testing.assert_close(restored[2], rows[2])


def test_subnormal_numbers_do_not_overflow() -> None:
    rows = torch.tensor([[2e-43, -2e-43]])
    assert (restore_rows(quantize_rows(rows)).sign() == rows.sign()).all()
