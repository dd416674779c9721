"""Compiled code is kept on the disk, and made anew when any file of this package changes.

numba looks only at the file of the function itself: a change in word_table.py would leave kernels
of word_counting.py running with the old table. So the folder of the cache is named after the
sources of the whole package. What this leaves out: removing the folders of older sources.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


@cache
def cache_folder() -> Path:
    """Beside the sources where one may write there, else in the user's cache."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(here.glob("*.py")):
        digest.update(source.read_bytes())
    writable = os.access(here, os.W_OK)
    parent = here / "__pycache__" if writable else Path.home() / ".cache" / "tokenizer_bpe"
    return parent / f"kernels-{digest.hexdigest()[:16]}"


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without the interpreter's lock while it runs."""
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder())
    try:
        return numba.njit(nogil=True, cache=True)(function)
    finally:
        numba.config.CACHE_DIR = previous


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of the kernels that call it: no call is left, and no table is passed by value."""
    return numba.njit(inline="always")(function)
