"""How the kernels of this folder are compiled: lm_core/kernel_cache.py keeps their code on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_core.kernel_cache import compiled

# Sums in any order, so that they use vector instructions; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract", "nsz"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call; it runs without the interpreter's lock."""
    return compiled(Path(__file__).parent, function)


def parallel_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose `prange` loops are shared by all threads."""
    return compiled(Path(__file__).parent, function, parallel=True)


def fast_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose sums may be added up in any order."""
    return compiled(Path(__file__).parent, function, fastmath=FAST)
