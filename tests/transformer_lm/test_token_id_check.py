"""Ids of another vocabulary are one clear error at every entry point."""

import pytest
import torch

from lm_core.user_error import UserError
from transformer_lm.token_id_check import check_token_ids


@pytest.mark.parametrize("token_id", [-1, 7, 50_000, -(2**40)])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_the_first_id_outside_is_named(token_id, place):
    ids = torch.zeros(2, 3, dtype=torch.int64)
    ids.view(-1)[place] = token_id
    ids.view(-1)[place + 1 :] = 99
    words = rf"token id {token_id} is outside the model's vocabulary of 7; .*own tokenizer"
    with pytest.raises(UserError, match=words):
        check_token_ids(ids, 7)


def test_ids_inside_pass():
    check_token_ids(torch.tensor([[0, 6], [3, 3]]), 7)
    check_token_ids(torch.empty(0, dtype=torch.int64), 7)
