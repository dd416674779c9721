"""Choose the attention backend: the requested one, if it runs on this machine.

A package that can be imported may still have kernels that do not run: the driver may be too old,
the GPU too small, or the number type not supported. So the Triton kernels are tried once for each
device and type, on a tiny problem with a known answer. If they fail, sdpa is used instead, and one
line on stderr says why. What this leaves out: measuring which backend is the fastest. "auto" uses
matmul for one measured case, short sequences on a CPU with bfloat16 instructions, and sdpa for
everything else, also on a GPU, until benchmarks/attention.py has shown that `triton` is faster.
"""

import functools
import os
import sys
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

AttentionBackend = Literal["auto", "eager", "matmul", "tiled", "sdpa", "triton"]

# Longest table of bfloat16 scores that `matmul` fills faster than `sdpa` on a CPU (measured; see
# transformer_lm/kernels/matmul_attention.py).
LONGEST_MATMUL = 512


def cpu_multiplies_bfloat16() -> bool:
    """Return whether this processor has the AVX-512 instructions that `matmul` was measured with.

    Where PyTorch emulates them, `matmul` takes three times as long as `sdpa` (180 against 56 ms at
    256 positions, 2 cores). oneDNN's own test is not enough: it accepts any AVX-512.
    """
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


HAS_BFLOAT16_PRODUCTS = cpu_multiplies_bfloat16()  # asked once: torch.compile cannot trace it


def choose_backend(
    wanted: AttentionBackend,
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
) -> AttentionBackend:
    """Return the backend for these tensors: `wanted` or its replacement, never "auto"."""
    if wanted == "auto":
        short = q.shape[-2] == k.shape[-2] <= LONGEST_MATMUL
        on_cpu_in_bfloat16 = q.device.type == "cpu" and q.dtype == torch.bfloat16
        return "matmul" if short and on_cpu_in_bfloat16 and HAS_BFLOAT16_PRODUCTS else "sdpa"
    if wanted == "triton":
        return triton_or_sdpa(str(q.device), q.dtype)
    return wanted


def triton_or_sdpa(device: str, dtype: torch.dtype) -> AttentionBackend:
    reason = why_triton_is_unusable(device, dtype)
    if reason is None:
        return "triton"
    say_once(f"attention: triton is not usable here ({reason}); sdpa is used")
    return "sdpa"


# torch.compile calls it at compile time and leaves the probe and the print out of its graph. The
# next line is all that torch.compiler.assume_constant_result does, after importing the compiler for
# 1.4 s.
triton_or_sdpa._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def why_triton_is_unusable(device: str, dtype: torch.dtype) -> str | None:
    """Return why the kernels of flash_attention.py do not run on this device; None if they do."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not device.startswith("cuda") and not interpreted:
        return "no CUDA device" if device == "cpu" else f"no kernels for {device.split(':')[0]}"
    try:
        return wrong_result(device, dtype)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # whatever a compiler, driver or GPU may raise, sdpa still works
        first_line = (str(error).splitlines() or [""])[0]
        return f"{type(error).__name__}: {first_line}"[:200]


def wrong_result(device: str, dtype: torch.dtype) -> str | None:
    """Compare forward and backward of one head with the known answer; None if they are equal.

    With keys of 0, a query returns the mean of the values that it sees: of 0, 2, 4, ... for the
    last one. The gradient of its result is spread evenly over the values.
    """
    from transformer_lm.kernels.flash_attention import (
        flash_attention,  # needs Triton: not on every machine
    )

    rows = torch.arange(16, device=device, dtype=dtype)
    q, k, v = (x.expand(16, 16).T[None, None].clone() for x in (rows, 0 * rows, 2 * rows))
    v.requires_grad_()
    with torch.enable_grad():
        o = flash_attention(q, k, v, is_causal=True)
        o[:, :, -1].sum().backward()
    assert v.grad is not None, "autograd did not reach v"
    expected = rows[:, None].expand(16, 16), torch.full((16, 16), 1 / 16, device=device)
    for found, right in zip((o[0, 0], v.grad[0, 0]), expected, strict=True):
        if not torch.allclose(found.float(), right.float(), atol=1e-2):
            return "its kernels ran, and gave a wrong result"
    return None


@functools.cache
def say_once(message: str) -> None:
    print(message, file=sys.stderr)
