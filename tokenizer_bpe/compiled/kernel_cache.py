"""How the kernels of this folder are compiled: lm_core/kernel_cache.py keeps their code on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from lm_core.kernel_cache import compiled


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call; it runs without the interpreter's lock."""
    return compiled(Path(__file__).parent, function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Inline a function into the kernels that call it, so that no table is passed by value."""
    return numba.njit(inline="always")(function)
