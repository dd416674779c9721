"""Shared parts of the checks of a2. The oracles are in other files of this folder, none of which
imports the code under test: attention_formulas.py, decoder_oracle.py, parameter_shapes.py and
kernel_oracle.py.
"""

import importlib
import os
import sys
from pathlib import Path

# Set before Triton is imported: its kernels then run in Python, on any machine.
os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # the oracles: a folder of tests is not a package

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from attention_formulas import attend, frequencies, rms_norm, rotate, softmax, visible
from decoder_oracle import (
    ATTENTION_MISTAKES,
    BLOCK_MISTAKES,
    MODEL_MISTAKES,
    attention,
    block,
    decoder,
    wrong_by,
)
from interpreter_errors import own_error
from kernel_oracle import (
    check_gradients,
    expected_of,
    forward_causes,
    gradients,
    wrong_gradients,
)
from parameter_shapes import (
    attention_shapes,
    block_shapes,
    check_parameters,
    feed_forward_shapes,
    fill,
    linear_shapes,
    model_shapes,
)
from torch import Tensor

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import check_true
from lm_course.grading.tensor_comparisons import check_tensor
from lm_course.grading.triton_interpreter import load_interpreter


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class GrowingCache:
    """The cache of the handout: it keeps the keys and values that it is given, layer by layer."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.appended: list[int] = []  # the layers, in the order of the calls

    @property
    def length(self) -> int:
        """The number of stored tokens; it changes with the first `append` of a forward pass."""
        return max((keys.shape[2] for keys, _ in self.layers.values()), default=0)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        check_true(
            keys.dim() == values.dim() == 4,
            "cache.append takes keys and values of shape [batch, num_kv_heads, new, head_dim]",
            {"got": f"{tuple(keys.shape)} and {tuple(values.shape)}"},
        )
        self.appended.append(layer)
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return keys, values


def load_what_checks_use() -> None:
    """Load once the parts that PyTorch loads on first use, so that no check pays for them. The
    fixtures below load parts that only some checks use.

    Do not run a backward pass here: its threads would not survive the fork.
    """
    with TensorCounter():
        torch.ones(2, 2) @ torch.ones(2, 2)


@pytest.fixture(scope="session")
def gradients_loaded() -> None:
    """Load the parts for the first gradient of an autograd.Function (half a second, once)."""
    importlib.import_module("torch.fx.experimental.symbolic_shapes")


@pytest.fixture(scope="session")
def compiler_loaded() -> None:
    """Load the parts for the first custom operator, and to count FLOPs (a second or two, once)."""
    importlib.import_module("torch._dynamo")


@pytest.fixture(scope="session")
def triton(compiler_loaded: None) -> None:
    """Load Triton's interpreter; skip the check where Triton is missing."""
    pytest.importorskip("triton", reason="Triton is on Linux only")
    load_interpreter()


@pytest.fixture(scope="session")
def a2() -> Iterator[SimpleNamespace]:
    """Provide the oracles and the comparisons."""
    torch.set_num_threads(1)  # tensors are small, and threads do not survive a fork
    load_what_checks_use()
    yield SimpleNamespace(
        ATTENTION_MISTAKES=ATTENTION_MISTAKES,
        BLOCK_MISTAKES=BLOCK_MISTAKES,
        MODEL_MISTAKES=MODEL_MISTAKES,
        GradedFailure=GradedFailure,
        GrowingCache=GrowingCache,
        attend=attend,
        attention=attention,
        attention_shapes=attention_shapes,
        block=block,
        block_shapes=block_shapes,
        check=check_tensor,
        check_gradients=check_gradients,
        check_parameters=check_parameters,
        decoder=decoder,
        expected_of=expected_of,
        feed_forward_shapes=feed_forward_shapes,
        fill=fill,
        forward_causes=forward_causes,
        frequencies=frequencies,
        gradients=gradients,
        linear_shapes=linear_shapes,
        model_shapes=model_shapes,
        own_error=own_error,
        random=random,
        rms_norm=rms_norm,
        rotate=rotate,
        softmax=softmax,
        visible=visible,
        wrong_by=wrong_by,
        wrong_gradients=wrong_gradients,
    )
