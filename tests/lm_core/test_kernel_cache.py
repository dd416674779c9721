"""Compiled code is cached for each state of the sources, in a writable folder; older states are
removed.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import numba
import pytest

from lm_core import kernel_cache


def double(x):
    return x + x


@pytest.fixture
def package(tmp_path):
    """Create a folder of sources."""
    folder = tmp_path / "tokenizer" / "package"
    folder.mkdir(parents=True)
    for name in ("word_counting.py", "word_table.py"):
        (folder / name).write_text("x = 1\n")
    kernel_cache.cache_folder.cache_clear()
    yield folder
    kernel_cache.cache_folder.cache_clear()


def test_a_change_in_any_source_is_another_folder(package):
    before = kernel_cache.cache_folder(package)
    assert before.parent == package / "__pycache__"
    (package / "word_table.py").write_text("x = 2\n")
    kernel_cache.cache_folder.cache_clear()
    assert kernel_cache.cache_folder(package) != before


def test_where_one_may_not_write_it_is_the_users_cache(package, monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_cache.os, "access", lambda path, mode: False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert kernel_cache.cache_folder(package).parent == tmp_path / ".cache" / "tokenizer"


def test_numba_keeps_the_code_there_and_its_setting_as_it_was(package):
    before = numba.config.CACHE_DIR
    double = kernel_cache.compiled(package, lambda x: x + x)
    assert double(4) == 8
    assert before == numba.config.CACHE_DIR
    assert list(kernel_cache.cache_folder(package).rglob("*.nbi"))


def older_folders(package, ages):
    """Create folders of older sources, by the hours since their last use."""
    folders = {}
    for hours in ages:
        folders[hours] = package / "__pycache__" / f"kernels-{hours}"
        (folders[hours] / "inner").mkdir(parents=True, exist_ok=True)
        (folders[hours] / "inner" / "code.nbc").write_bytes(b"code")
        os.utime(folders[hours], (time.time() - 3600 * hours,) * 2)
    return folders


def test_folders_of_older_sources_go_but_for_the_last_used(package):
    folders = older_folders(package, [3, 1, 4, 2])
    (package / "__pycache__" / "module.pyc").touch()
    (package / "__pycache__" / "removed-kernels-9" / "inner").mkdir(parents=True)  # killed there
    (package / "__pycache__" / "kernels-gone").symlink_to("nowhere")  # as if just removed
    new = kernel_cache.cache_folder(package)
    left = {path for path in (package / "__pycache__").iterdir() if path.exists()}
    assert left == {new, folders[1], package / "__pycache__" / "module.pyc"}


def test_a_folder_in_use_stays(package):
    """Use counts, not age: the folder of the current sources, though the oldest, was used last."""
    present = kernel_cache.cache_folder(package)
    os.utime(present, (1, 1))
    kernel_cache.cache_folder.cache_clear()
    assert kernel_cache.cache_folder(package) == present
    assert present.stat().st_mtime > time.time() - 60
    folders = older_folders(package, [2, 1, 0.1, 0.01])
    (package / "word_table.py").write_text("x = 2\n")
    kernel_cache.cache_folder.cache_clear()
    new = kernel_cache.cache_folder(package)
    left = set((package / "__pycache__").iterdir())
    assert left == {new, present, folders[0.1], folders[0.01]}


def test_several_processes_may_remove_at_once(package):
    parent = package / "__pycache__"
    for _ in range(5):
        older_folders(package, range(1, 60))
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(kernel_cache._remove_older, [parent] * 4))
        assert sorted(path.name for path in parent.iterdir()) == ["kernels-1", "kernels-2"]


def test_two_processes_do_not_choose_the_same_file(package, monkeypatch):
    """While one writes, another comes with code for other arguments of the same function."""
    files = [kernel_cache.compiled(package, double)._cache._cache_file for _ in range(2)]
    Path(files[0]._cache_path).mkdir(parents=True, exist_ok=True)
    other = Thread(target=files[1].save, args=("float", "code for float"))
    write_index = type(files[0])._save_index

    def write_index_late(file, entries):
        if not other.ident:
            other.start()
            other.join(0.5)  # without the lock it would be done by then
        write_index(file, entries)

    monkeypatch.setattr(type(files[0]), "_save_index", write_index_late)
    files[0].save("int", "code for int")
    other.join()
    assert [files[0].load(key) for key in ("int", "float")] == ["code for int", "code for float"]


@pytest.mark.parametrize("gone", ["", "*/*.nbc", "*/*.nbi"], ids=["all", "code", "index"])
def test_who_runs_on_older_sources_compiles_again(package, gone):
    """Its folder is removed after it was made, or between the index and the code that it names."""
    made = kernel_cache.compiled(package, lambda x: x + x)
    assert made(4) == 8
    folder = kernel_cache.cache_folder(package)
    running = kernel_cache.compiled(package, lambda x: x * x)
    again = kernel_cache.compiled(package, made.py_func)
    if gone:
        for path in folder.glob(gone):
            path.unlink()
    else:
        shutil.rmtree(folder)
    assert (again(4), running(4), made(0.5)) == (8, 16, 1.0)
    assert list(folder.rglob("*.nbc"))


def test_a_place_that_cannot_be_written_is_numbas_to_complain_of(package, monkeypatch):
    (package / "__pycache__").touch()  # no folder can be made in a file
    kernel_cache.cache_folder(package)


KERNELS = """
import sys
from pathlib import Path
import numba, numpy as np
from lm_core.kernel_cache import compiled

def fill(numbers):
    for i in numba.prange(len(numbers)):
        numbers[i] = i

def total(numbers):
    fill(numbers)
    return numbers.sum()

fill = compiled(Path(__file__).parent, fill, parallel=True)
total = compiled(Path(__file__).parent, total)
numbers = np.zeros(5)
print(fill(numbers) if sys.argv[1] == "fill" else total(numbers))
"""


def test_a_caller_of_a_parallel_kernel_from_the_cache(package):
    """Three processes: one keeps the kernel, one compiles its caller, one loads the caller."""
    script = package / "kernels.py"
    script.write_text(KERNELS)
    for kernel, printed in (("fill", "None"), ("total", "10.0"), ("total", "10.0")):
        environment = {**os.environ, "PYTHONPATH": str(Path(kernel_cache.__file__).parents[1])}
        command = [sys.executable, str(script), kernel]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout.strip()) == (0, printed), ended.stderr


def test_without_compiling(package):
    """NUMBA_DISABLE_JIT lets a debugger into the kernels; they are then plain functions."""
    script = package / "kernels.py"
    script.write_text(KERNELS)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(kernel_cache.__file__).parents[1]),
        "NUMBA_DISABLE_JIT": "1",
    }
    command = [sys.executable, str(script), "total"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, "10.0"), ended.stderr
