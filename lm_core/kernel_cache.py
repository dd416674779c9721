"""A cache of code compiled with numba on disk, which is renewed when any file of a folder changes.

numba checks only the file of the function itself: after a change in word_table.py, the kernels of
word_counting.py would still use the old table. So the cache folder is named after all sources of
the folder, and is removed once newer ones have replaced it. A running process with older sources
loses only time: numba recompiles missing kernels.
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
from filelock import FileLock

KEPT_FOLDERS = 2  # so that switching between two branches does not recompile each time
SETTLED_SECONDS = 600  # a process that started this long ago has compiled its kernels


@cache
def cache_folder(sources: Path) -> Path:
    """Return a folder next to the sources if it is writable, else one in the user's cache.

    Args:
        sources: the folder of the kernels and of all that is compiled into them.
    """
    digest = hashlib.sha256()
    for source in sorted(sources.glob("*.py")):
        digest.update(source.read_bytes())
    writable = os.access(sources, os.W_OK)
    users = Path.home() / ".cache" / sources.parent.name
    parent = sources / "__pycache__" if writable else users
    folder = parent / f"kernels-{digest.hexdigest()[:16]}"
    with contextlib.suppress(OSError):  # numba reports an unusable folder, if it matters
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the time of its last use
        if is_new:
            _remove_older(parent)
    return folder


def _remove_older(parent: Path) -> None:
    """Remove the folders of older sources except the most recently used ones.

    Another process may do the same at the same time.
    """
    used: dict[Path, float] = {}
    for folder in parent.glob("kernels-*"):
        with contextlib.suppress(OSError):
            used[folder] = folder.stat().st_mtime
    oldest_first = sorted(used, key=used.__getitem__)
    for folder in oldest_first[:-KEPT_FOLDERS]:
        if used[folder] < time.time() - SETTLED_SECONDS:
            with contextlib.suppress(OSError):  # renamed first: half-removed, it would look recent
                folder.rename(folder.with_name(f"removed-{folder.name}"))
    for folder in parent.glob("removed-*"):
        shutil.rmtree(folder, ignore_errors=True)


def compiled(sources: Path, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function at its first call; it runs without the interpreter's lock.

    Args:
        sources: the folder that `cache_folder` takes.
        function: what to compile.
        options: further ones of `numba.njit`.
    """
    previous = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder(sources))
    try:
        kernel = numba.njit(nogil=True, cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = previous
    _let_one_process_write(kernel)
    _pass_on_the_start_of_threads(kernel)
    return kernel


def _let_one_process_write(kernel: Any) -> None:
    """Make processes that keep code of the same function wait for each other.

    numba reads its index, chooses the next free file name, and writes. Two processes at once choose
    the same name for code of different argument types; who loads it later may crash.
    """
    file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    if file is None:  # NUMBA_DISABLE_JIT, or no place for a cache
        return
    save = file.save

    def save_alone(key: Any, data: Any) -> None:
        with FileLock(Path(file._cache_path) / "writing.lock"):
            save(key, data)

    file.save = save_alone


def _pass_on_the_start_of_threads(kernel: Any) -> None:
    """Let code that calls a parallel kernel start numba's threads, also if that kernel came from
    the cache.

    Code from the cache must start them before it runs (`reload_init`). A caller learns this from
    the kernels that were compiled with it, but not from those that were loaded: kept on disk, it
    crashes the next process that loads it (numba issue 8578).
    """
    implementation = getattr(getattr(kernel, "_cache", None), "_impl", None)
    if implementation is None:
        return
    rebuild = implementation.rebuild

    def rebuild_with_start(context: Any, payload: Any) -> Any:
        result = rebuild(context, payload)
        result.library._reload_init.update(result.reload_init)
        return result

    implementation.rebuild = rebuild_with_start
