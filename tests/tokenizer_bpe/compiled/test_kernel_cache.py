"""Compiled code is kept per state of the sources, and in a place where one may write."""

from pathlib import Path

import numba
import pytest

from tokenizer_bpe.compiled import kernel_cache


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder of sources, in place of the package's own."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("kernel_cache.py", "word_table.py"):
        (folder / name).write_text("x = 1\n")
    monkeypatch.setattr(kernel_cache, "__file__", str(folder / "kernel_cache.py"))
    kernel_cache.cache_folder.cache_clear()
    yield folder
    kernel_cache.cache_folder.cache_clear()


def test_a_change_in_any_source_is_another_folder(package):
    before = kernel_cache.cache_folder()
    assert before.parent == package / "__pycache__"
    (package / "word_table.py").write_text("x = 2\n")
    kernel_cache.cache_folder.cache_clear()
    assert kernel_cache.cache_folder() != before


def test_where_one_may_not_write_it_is_the_users_cache(package, monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_cache.os, "access", lambda path, mode: False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert kernel_cache.cache_folder().parent == tmp_path / ".cache" / "tokenizer_bpe"


def test_numba_keeps_the_code_there_and_its_setting_as_it_was(package):
    before = numba.config.CACHE_DIR
    double = kernel_cache.kernel(lambda x: x + x)
    assert double(4) == 8
    assert before == numba.config.CACHE_DIR
    assert list(kernel_cache.cache_folder().rglob("*.nbi"))
