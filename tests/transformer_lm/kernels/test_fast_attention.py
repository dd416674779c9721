"""Every row of the table against the lesson's formula, and a name without a row."""

import sys
from types import ModuleType

import pytest
import torch

from lm_core.user_error import UserError
from transformer_lm.attention import causal_mask, scaled_dot_product_attention
from transformer_lm.kernels import fast_attention as fast_attention_module
from transformer_lm.kernels.fast_attention import KERNELS, fast_attention, visible_keys
from transformer_lm.tiled_attention import tiled_attention

ON_CPU = sorted(set(KERNELS) - {"triton"})  # the tests of flash_attention have the kernels


def by_the_lesson(q, k, v, window):
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    mask = causal_mask(q.shape[-2], k.shape[-2], q.device, window)
    return scaled_dot_product_attention(q.double(), k, v, mask)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 50])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 7), (3, 7), (1, 1)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("backend", [*ON_CPU, "auto"])
def test_equals_the_lesson(backend, kv_heads, queries, keys, window):
    generator = torch.Generator().manual_seed(keys)
    q = torch.randn(2, 4, queries, 8, generator=generator)
    k, v = (torch.randn(2, kv_heads, keys, 8, generator=generator) for _ in range(2))
    result = fast_attention(backend, q, k, v, window)
    # float32 against float64: sums of 8 and then at most 7 terms of size 1
    torch.testing.assert_close(result.double(), by_the_lesson(q, k, v, window), atol=2e-6, rtol=0)


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (2, 5), (1, 5)])
def test_visible_keys_are_those_of_the_causal_mask(queries, keys, window):
    q, k = torch.empty(1, 1, queries, 2), torch.empty(1, 1, keys, 2)
    assert torch.equal(visible_keys(q, k, window), causal_mask(queries, keys, q.device, window))


def test_a_name_without_a_row_is_refused(monkeypatch):
    monkeypatch.delitem(KERNELS, "sdpa")
    q = torch.zeros(1, 1, 3, 4)
    with pytest.raises(UserError, match="'sdpa'; expected one of auto, matmul, tiled, triton, or"):
        fast_attention("sdpa", q, q, q)


@pytest.mark.parametrize(("queries", "keys", "window"), [(7, 7, None), (3, 7, 3), (1, 7, 5)])
def test_triton_is_asked_for_the_same(monkeypatch, queries, keys, window):
    """With attention by tiles in place of the kernels, which need a GPU: what they are given."""
    monkeypatch.setattr(fast_attention_module, "choose_backend", lambda wanted, q, k: wanted)
    kernels = ModuleType("transformer_lm.kernels.flash_attention")
    kernels.flash_attention = tiled_attention
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    generator = torch.Generator().manual_seed(keys)
    q = torch.randn(2, 4, queries, 8, generator=generator)
    k, v = (torch.randn(2, 2, keys, 8, generator=generator) for _ in range(2))
    result = fast_attention("triton", q, k, v, window)
    torch.testing.assert_close(result.double(), by_the_lesson(q, k, v, window), atol=2e-6, rtol=0)
