"""The fast loss against the lesson, including the boundaries of its pieces."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.engine.fused_loss import ROWS, fused_token_losses
from training.loss import token_losses


@pytest.mark.parametrize("z_loss", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(3, 5), (ROWS,), (ROWS + 1,), (2, ROWS + 7)])
def test_losses_and_gradients_equal_the_lesson(shape, z_loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 19, generator=generator) * 5
    targets = torch.randint(0, 19, shape, generator=generator)
    weights = torch.randn(shape, generator=generator)  # a gradient that differs for every token
    results = []
    for loss in (token_losses, fused_token_losses):
        leaf = logits.clone().requires_grad_()
        losses = loss(leaf, targets, z_loss)
        (losses * weights).sum().backward()
        results.append((losses.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("z_loss", [0.0, 0.2])
def test_the_gradient_is_that_of_finite_differences_in_float64(z_loss):
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 2, 1, 1])
    assert fused_token_losses(logits, targets).dtype == torch.float64
    torch.autograd.gradcheck(lambda x: fused_token_losses(x, targets, z_loss), logits)


def test_bfloat16_gradients_are_float32_ones_rounded_once():
    logits = torch.randn(9, 33, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(9)
    narrow = logits.clone().requires_grad_()
    wide = logits.double().requires_grad_()
    fused_token_losses(narrow, targets).mean().backward()
    torch.nn.functional.cross_entropy(wide, targets).backward()
    assert narrow.grad.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.grad.double(), wide.grad, atol=1e-7, rtol=0.00391)  # 2^-8


class LargeMemory(TorchDispatchMode):
    """Counts tensors of at least `elements` elements that get newly allocated memory."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.count = elements, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        given = [x for x in tree_leaves((arguments, options)) if isinstance(x, torch.Tensor)]
        places = {x.untyped_storage().data_ptr() for x in given}
        for x in tree_leaves(result):
            is_new = x.untyped_storage().data_ptr() not in places
            self.count += is_new and x.numel() >= self.elements
        return result


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, 2), (torch.bfloat16, 3)])
def test_all_pieces_use_the_same_memory(dtype, expected):
    """One piece forward, one backward if the logits are narrow, and the gradient.

    Memory that a single call of PyTorch allocates internally, as logsumexp does, is not counted.
    """
    logits = torch.randn(4 * ROWS, 50).to(dtype).requires_grad_()
    targets = torch.zeros(4 * ROWS, dtype=torch.int64)
    with LargeMemory(ROWS * 50) as memory:
        fused_token_losses(logits, targets).sum().backward()
    assert memory.count == expected
