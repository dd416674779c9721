"""Compiled code is kept on the disk, and made anew when any file of this package changes.

numba looks only at the file of the function itself: a change in word_table.py would leave kernels
of word_counting.py running with the old table. So the folder of the cache is named after the
sources of the whole package, and goes when newer ones have taken its place. A process of older
sources that still runs loses nothing but time: numba compiles what it does not find.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

KEPT_FOLDERS = 2  # two states of the sources in turn, as on two branches, compile once each
SETTLED_SECONDS = 600  # a process that began so long ago has compiled what it needs


@cache
def cache_folder() -> Path:
    """Beside the sources where one may write there, else in the user's cache."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(here.glob("*.py")):
        digest.update(source.read_bytes())
    writable = os.access(here, os.W_OK)
    parent = here / "__pycache__" if writable else Path.home() / ".cache" / "tokenizer_bpe"
    folder = parent / f"kernels-{digest.hexdigest()[:16]}"
    with contextlib.suppress(OSError):  # numba says what is wrong with the place, if it matters
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the time of its last use
        if is_new:
            _remove_older(parent)
    return folder


def _remove_older(parent: Path) -> None:
    """Remove the folders of older sources, but for the last used ones; another process may do the
    same at the same time.
    """
    used: dict[Path, float] = {}
    for folder in parent.glob("kernels-*"):
        with contextlib.suppress(OSError):
            used[folder] = folder.stat().st_mtime
    oldest_first = sorted(used, key=used.__getitem__)
    for folder in oldest_first[:-KEPT_FOLDERS]:
        if used[folder] < time.time() - SETTLED_SECONDS:
            with contextlib.suppress(OSError):  # at once, or half of it would look newly changed
                folder.rename(folder.with_name(f"removed-{folder.name}"))
    for folder in parent.glob("removed-*"):
        shutil.rmtree(folder, ignore_errors=True)


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
