"""The fast table against the lesson, at shapes where a wrong axis would show."""

import pytest
import torch

from transformer_lm.attention import causal_mask, scaled_dot_product_attention
from transformer_lm.kernels.matmul_attention import matmul_attention


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (6, 6), (2, 7), (1, 5)])
def test_equals_the_lesson(queries, keys):
    generator = torch.Generator().manual_seed(queries)
    q = torch.randn(2, 3, queries, 8, generator=generator)
    k = torch.randn(2, 3, keys, 8, generator=generator)
    v = torch.randn(2, 3, keys, 4, generator=generator)
    mask = causal_mask(queries, keys, q.device)
    expected = scaled_dot_product_attention(q.double(), k.double(), v.double(), mask)
    result = matmul_attention(q, k, v, mask)
    # float32 against float64: sums of 8 and then at most 7 terms of size 1
    torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=0)


def test_huge_scores_do_not_overflow():
    q = torch.full((1, 1, 2, 4), 1e4)
    result = matmul_attention(q, q, q, causal_mask(2, 2, q.device))
    assert torch.equal(result, q)
