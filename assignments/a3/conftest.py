"""Shared parts of the checks of a3."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the oracles: a folder of tests is not a package

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.tensor_comparisons import check_tensor


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def load_what_checks_use() -> None:
    """Load once the parts that PyTorch loads on first use, so that no check pays for them.

    Do not run a backward pass here: its threads would not survive the fork.
    """
    with TensorCounter():
        torch.ones(2, 2) @ torch.ones(2, 2)


def _refusal(name: str) -> Any:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise GradedFailure(f"your code uses {name}: write it yourself")

    return refuse


@pytest.fixture
def own_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's optimizers, schedulers and clipping fail. They are made of the operations that
    a solution uses too, so `forbidden_calls` cannot tell them apart.
    """
    clipping = torch.nn.utils.clip_grad
    for owner, part, name in [
        (torch.optim.Optimizer, "__init__", "torch.optim"),
        (torch.optim.lr_scheduler.LRScheduler, "__init__", "torch.optim.lr_scheduler"),
        (clipping, "_get_total_norm", "torch.nn.utils.clip_grad_norm_"),
        (clipping, "_clip_grads_with_norm_", "torch.nn.utils.clip_grads_with_norm_"),
    ]:
        monkeypatch.setattr(owner, part, _refusal(name))


@pytest.fixture
def own_checkpoint(monkeypatch: pytest.MonkeyPatch, gradients_loaded: None) -> None:
    """Let PyTorch's own checkpoint fail, whatever name it was imported under."""
    refuse = _refusal("torch.utils.checkpoint")
    monkeypatch.setattr(checkpoint, "_checkpoint_without_reentrant_generator", refuse)
    monkeypatch.setattr(checkpoint.CheckpointFunction, "apply", refuse)
    monkeypatch.setattr(checkpoint._checkpoint_hook, "__init__", refuse)


@pytest.fixture(scope="session")
def gradients_loaded() -> None:
    """Load the parts for the first gradient of an autograd.Function (half a second, once)."""
    importlib.import_module("torch.fx.experimental.symbolic_shapes")


@pytest.fixture(scope="session")
def compiler_loaded() -> None:
    """Load the parts for the first optimizer of PyTorch (a second or two, once)."""
    importlib.import_module("torch._dynamo")


@pytest.fixture(scope="session")
def a3() -> Iterator[SimpleNamespace]:
    """Provide the comparisons, with one thread."""
    torch.set_num_threads(1)  # tensors are small, and threads do not survive a fork
    load_what_checks_use()
    yield SimpleNamespace(GradedFailure=GradedFailure, check=check_tensor, nn=nn, random=random)
