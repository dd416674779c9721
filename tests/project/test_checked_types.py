"""The tests check signatures: they report a wrong shape and a wrong annotation, in the first calls
of each function in each test.
"""

import jaxtyping
import pytest
import torch

from training.loss import token_losses
from transformer_lm.attention import scaled_dot_product_attention


def test_a_tensor_of_another_shape_is_refused() -> None:
    q, k = torch.zeros(2, 5, 8), torch.zeros(2, 5, 9)
    with pytest.raises(jaxtyping.TypeCheckError, match="scaled_dot_product_attention"):
        scaled_dot_product_attention(q, k, q)


def test_axes_of_one_name_have_one_length() -> None:
    logits, targets = torch.zeros(2, 5, 11), torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(jaxtyping.TypeCheckError, match="token_losses"):
        token_losses(logits, targets)


@pytest.mark.parametrize("test", ["one test", "the next, which checks anew"])
def test_the_first_calls_are_checked(test: str, checked_calls: int) -> None:
    logits, targets = torch.zeros(2, 5, 11), torch.zeros(2, 5, dtype=torch.int64)
    wrong = targets[:, None, :]
    for _ in range(checked_calls - 1):
        token_losses(logits, targets)
    with pytest.raises(jaxtyping.TypeCheckError, match="token_losses"):
        token_losses(logits, wrong)
    with pytest.raises(RuntimeError, match="same number of dimensions"):
        token_losses(logits, wrong)


@pytest.mark.usefixtures("unchecked_types")
def test_where_it_is_switched_off_torch_speaks() -> None:
    q, k = torch.zeros(2, 5, 8), torch.zeros(2, 5, 9)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        scaled_dot_product_attention(q, k, q)
