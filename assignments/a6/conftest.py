"""Shared parts of the checks of a6: comparisons, random tensors, a small model.

Nothing here imports the code under test. The models are the reference's `transformer_lm`, which a6
does not grade. What this leaves out: the oracles, which are beside the checks that use them.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_course.containment.counted_work import watched
from lm_course.containment.step_counter import StepCounter
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import (
    check_close,
    check_equal,
    check_number,
    check_raises,
    check_true,
    message_of,
    shown,
)
from lm_course.grading.tensor_comparisons import check_tensor

sys.path.insert(0, str(Path(__file__).parent))  # for the oracles and strategies beside it


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal random numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    """Return a decoder with random weights, large enough that one token is clearly the likeliest.

    11 tokens, width 8, two layers, 4 heads that share 2 key-value heads; `changes` replace fields
    of its config.
    """
    from transformer_lm.language_model import TransformerLM
    from transformer_lm.model_config import ModelConfig

    shape = {
        "vocab_size": 11,
        "context_length": 24,
        "d_model": 8,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "d_ff": 12,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TransformerLM(ModelConfig(**{**shape, **changes}), attention_backend="eager")
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.add_(random(*weight.shape, seed=1000 * seed + number), alpha=0.5)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small products are faster with one thread, and give the same numbers on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def a6() -> SimpleNamespace:
    """Provide the comparisons and counters."""
    return SimpleNamespace(
        GradedFailure=GradedFailure,
        StepCounter=StepCounter,
        check_number=check_number,
        close=check_close,
        expect=check_equal,
        message_of=message_of,
        raises=check_raises,
        random=random,
        shown=shown,
        tensor=check_tensor,
        tiny_model=tiny_model,
        true=check_true,
        watched=watched,
    )
