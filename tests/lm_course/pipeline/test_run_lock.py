"""A folder of runs has one writer at a time, and is free again however that one ended."""

import os
import signal
import time
from pathlib import Path

import pytest

from lm_core.user_error import UserError
from lm_course.pipeline.run_lock import LOCK_FILE, run_lock

OPTION = "--set run.name=NAME"


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    with run_lock(folder, OPTION):
        refused = pytest.raises(UserError, match=r"another lm is running .* --set run.name=NAME")
        with refused as one, run_lock(folder, OPTION):
            pytest.fail("two at once")
        assert str(one.value).startswith(str(folder))
        with run_lock(tmp_path / "runs" / "other", OPTION):  # another run is another lock
            pass


def test_an_error_sets_it_free(tmp_path: Path) -> None:
    (tmp_path / "pages").touch()
    with pytest.raises(KeyError), run_lock(tmp_path, OPTION):
        raise KeyError
    with run_lock(tmp_path, OPTION):
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK_FILE, "pages"]


def test_a_folder_into_which_nothing_was_written_is_not_left_behind(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "runs" / "demo"):
        with pytest.raises(UserError), run_lock(folder, OPTION):
            raise UserError("a step needs another")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_another_user_of_the_folder_may_take_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with run_lock(tmp_path, OPTION):
            assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            with run_lock(tmp_path, OPTION):
                (tmp_path / "held").touch()
                time.sleep(60)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline, "the child did not take the lock"
        time.sleep(0.01)
    with pytest.raises(UserError), run_lock(tmp_path, OPTION):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with run_lock(tmp_path, OPTION):
        pass
