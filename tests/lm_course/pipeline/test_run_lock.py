"""A run's folder has one writer at a time, and is free again however that one ended."""

import os
import signal
import time
from pathlib import Path

import pytest

from lm_core.user_error import UserError
from lm_course.pipeline.run_lock import LOCK_FILE, run_lock


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    with run_lock(folder):
        refused = pytest.raises(UserError, match=r"another lm is running .* --set run.name=NAME")
        with refused as one, run_lock(folder):
            pytest.fail("two at once")
        assert str(one.value).startswith(str(folder))
        with run_lock(tmp_path / "runs" / "other"):  # another run is another lock
            pass


def test_an_error_sets_it_free(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError
    with run_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with run_lock(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(UserError), run_lock(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with run_lock(tmp_path):
        pass
