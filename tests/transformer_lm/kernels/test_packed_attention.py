"""Packed documents give what each gives alone, in every backend, and wrong borders are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lm_core.user_error import UserError
from transformer_lm.kernels.packed_attention import (
    check_packed,
    document_positions,
    packed_attention,
)
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

BORDERS = torch.tensor([0, 5, 6, 13], dtype=torch.int32)
SHAPE = {"vocab_size": 30, "context_length": 7, "d_model": 16, "num_layers": 2, "num_heads": 4}


def make_model(backend: str = "auto", **changes) -> TransformerLM:
    torch.manual_seed(0)
    config = ModelConfig(**SHAPE | {"num_kv_heads": 2, "d_ff": 24} | changes)
    return TransformerLM(config, backend)


def test_positions_start_again_at_each_border():
    found = document_positions(BORDERS, torch.device("cpu"))
    assert found.tolist() == [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("backend", ["eager", "matmul", "sdpa", "tiled"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "learned"}, {"sliding_window": 3}, {"norm_position": "post"}],
    ids=str,
)
def test_logits_are_those_of_each_document_alone(backend, changes):
    model = make_model(backend, **changes).double()
    ids = torch.randint(0, 30, (1, 13))
    packed = model(ids, cu_seqlens=BORDERS)
    alone = [model(ids[:, start:end]) for start, end in ((0, 5), (5, 6), (6, 13))]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-6, atol=1e-6)


def test_the_backend_gets_one_document_at_a_time():
    seen = []

    def attend(q, k, v):
        seen.append((q.shape[2], k.shape[2], v.shape[2]))
        return q

    q, k = torch.rand(1, 4, 13, 8), torch.rand(1, 2, 13, 8)
    assert torch.equal(packed_attention(attend, q, k, k, BORDERS), q)
    assert seen == [(5, 5, 5), (1, 1, 1), (7, 7, 7)]


@pytest.mark.parametrize(
    ("ids", "borders", "words"),
    [
        ((2, 13), [0, 5, 13], r"one sequence, \[1, tokens\], but token_ids is \[2, 13\]"),
        ((1, 13), [0, 5, 12], r"from 0 to the number of tokens, 13; got \[0, 5, 12\]"),
        ((1, 13), [1, 7, 13], r"must rise from 0"),
        ((1, 13), [0, 7, 7, 13], r"must rise from 0"),
        ((1, 13), [0, 7, 6, 13], r"must rise from 0"),
        ((1, 0), [0], r"must rise from 0"),
        ((1, 30), [0, *range(5, 31, 2), 29], r"got \[0, 5, 7, 9, '...', 25, 27, 29, 29\]"),
        ((1, 13), [0, 5, 13], r"8 tokens of one document are more than the model's context of 7"),
    ],
)
def test_borders_that_do_not_fit_are_refused(ids, borders, words):
    with pytest.raises(UserError, match=words) as error:
        make_model()(torch.zeros(ids, dtype=torch.int64), cu_seqlens=torch.tensor(borders))
    assert "\n" not in str(error.value)


def test_borders_on_another_device_are_refused():
    with pytest.raises(UserError, match="cu_seqlens is on meta; keep it on the CPU"):
        check_packed(torch.zeros(1, 13, dtype=torch.int64), BORDERS.to("meta"), make_model().config)


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(UserError, match="token id 30"):
        make_model()(torch.full((1, 13), 30), cu_seqlens=BORDERS)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
def test_the_kernels_give_the_same_in_the_interpreter():
    """One launch for all documents, whose borders the kernels read; see test_flash_attention.py."""
    code = (
        "import torch\n"
        "from transformer_lm.kernels import flash_attention, packed_attention as p\n"
        "from transformer_lm.tiled_attention import tiled_attention\n"
        "launched = []\n"
        "varlen = flash_attention.flash_attention_varlen\n"
        "counted = lambda *a, **k: launched.append(1) or varlen(*a, **k)\n"
        "flash_attention.flash_attention_varlen = counted\n"
        "q, k, v = (torch.rand(1, h, 13, 8, requires_grad=True) for h in (4, 2, 2))\n"
        "borders = torch.tensor([0, 5, 6, 13], dtype=torch.int32)\n"
        "weights = torch.rand(1, 4, 13, 8)\n"
        "for window in (None, 3):\n"
        "    attend = lambda *x: tiled_attention(*x, is_causal=True, sliding_window=window)\n"
        "    results = []\n"
        "    for backend in ('eager', 'triton'):\n"
        "        o = p.packed_attention(attend, q, k, v, borders, backend, window)\n"
        "        results.append([o, *torch.autograd.grad((o * weights).sum(), (q, k, v))])\n"
        "    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)\n"
        "print(len(launched))\n"
    )
    root = Path(__file__).parents[3]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
