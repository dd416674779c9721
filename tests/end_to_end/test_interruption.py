"""A killed run resumes and reaches the same numbers; Ctrl-C and a full disk end in one line with
nothing lost.
"""

import errno
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lm_core.formats.metric_log import read_metrics
from lm_course import cli


@pytest.fixture
def before_pretraining(shrunk_run, tmp_path: Path):
    """A copy of the run in which pretraining has not been done yet."""
    run = shrunk_run.copy(tmp_path)
    shutil.rmtree(run.folder / "checkpoints" / "pretrain")
    (run.folder / "steps" / "pretrain.json").unlink()
    (run.folder / "metrics.jsonl").unlink()
    return run


def losses(run) -> list[tuple[int, float, float | None]]:
    rows = read_metrics(run.folder / "metrics.jsonl", "pretrain")
    return [(r["step"], r.get("loss"), r.get("validation_bits_per_byte")) for r in rows]


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_in_pretraining_it_resumes_to_the_same_numbers(
    shrunk_run, before_pretraining
) -> None:
    run = before_pretraining
    process = run.start(*run.with_recipe("pretrain"))
    wait_for(lambda: any(step > 70 for step, _, _ in losses(run)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 70 < losses(run)[-1][0] < 120
    done = run.lm_recipe("pretrain")
    assert done.returncode == 0, done.stderr
    assert losses(run) == losses(shrunk_run)


def test_ctrl_c_ends_in_one_line_and_the_step_is_not_recorded(before_pretraining) -> None:
    run = before_pretraining
    process = run.start(*run.with_recipe("pretrain"))
    wait_for(lambda: any(step > 5 for step, _, _ in losses(run)), process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("lm: stopped; finished work is complete")
    assert not (run.folder / "steps" / "pretrain.json").exists()
    assert (run.folder / "steps" / "shards.json").exists()
    assert not list(run.folder.rglob(".unfinished-*"))


def test_sigterm_in_training_saves_and_ends_with_status_0(shrunk_run, before_pretraining) -> None:
    run = before_pretraining
    process = run.start(*run.with_recipe("pretrain"))
    wait_for(lambda: any(step > 5 for step, _, _ in losses(run)), process)
    os.kill(process.pid, signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("lm: stopped; finished work is complete")
    assert not (run.folder / "steps" / "pretrain.json").exists()
    stopped = losses(run)[-1][0]
    saved = run.folder / "checkpoints" / "pretrain" / f"step_{stopped:06}"
    assert stopped < 60 and saved.is_dir(), "between two checkpoints"
    done = run.lm_recipe("pretrain")
    assert done.returncode == 0, done.stderr
    assert losses(run) == losses(shrunk_run)


AIMED_AT = """
import os, signal, sys
from pathlib import Path
from lm_core.progress import ProgressBar
from lm_course.cli import main

def ctrl_c():
    os.killpg(0, signal.SIGINT)  # as a terminal does it: to this process and to its workers

fsync, advance = os.fsync, ProgressBar.advance

def interrupted_advance(bar, n=1, note=None):
    advance(bar, n, note)
    ctrl_c()

def interrupted_fsync(descriptor):
    if list(Path("runs/demo").glob(".unfinished-*" + output)):
        ctrl_c()
    fsync(descriptor)

moment, output = sys.argv[1:3]
if moment == "at work":
    ProgressBar.advance = interrupted_advance
else:
    os.fsync = interrupted_fsync
main(sys.argv[3:])
"""
# step -> (what it writes, a setting under which it would write something else)
DATA_STEPS = {
    "collect": ("pages.warc.gz", "collect.max_modules=60"),
    "instructions": ("instructions", "instructions.max_pairs_per_package=30"),
    "documents": ("documents", "documents.quality.min_words=300"),
    "tokenizer": ("tokenizer.json", "tokenizer.vocab_size=512"),
}


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("collect", "at work"),
        ("instructions", "before the rename"),
        ("documents", "at work"),
        ("tokenizer", "before the rename"),
        pytest.param("collect", "before the rename", marks=pytest.mark.slow),
        pytest.param("instructions", "at work", marks=pytest.mark.slow),
        pytest.param("documents", "before the rename", marks=pytest.mark.slow),
        pytest.param("tokenizer", "at work", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_in_the_data_steps_leaves_the_old_artifact(
    shrunk_run, tmp_path: Path, step: str, moment: str
) -> None:
    """At work: when the first unit of work is done. Before the rename: when the new artifact lies
    under its temporary name. Nothing but that moment sends the signal, so 130 says it was reached.
    """
    run = shrunk_run.copy(tmp_path)
    output, setting = DATA_STEPS[step]
    before = run.hashes("settings.json")
    assert any(name == output or name.startswith(f"{output}/") for name in before)
    command = run.with_recipe("run", f"--set={setting}", "--only", step)
    done = run.lm(moment, output, *command, program=("-c", AIMED_AT))
    assert done.returncode == 130, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("lm: stopped; finished work is complete")
    assert run.hashes("settings.json") == before
    assert not list(run.folder.rglob(".unfinished-*"))


LIMITED = """
import resource, signal, sys
from lm_course.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
main(sys.argv[1:])
"""


def test_a_file_past_the_limit_is_one_line_and_leaves_no_half_checkpoint(
    before_pretraining,
) -> None:
    """A limit on the size of a file: the write of the first checkpoint fails in the system."""
    run = before_pretraining
    before = run.hashes("settings.json")
    done = run.lm(*run.with_recipe("pretrain"), program=("-c", LIMITED))
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("lm: ")
    assert "too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((run.folder / "checkpoints" / "pretrain").rglob("*"))
    notes = "errors/pretrain.txt", "steps/pretrain.failed.json"
    assert run.hashes("settings.json", "metrics.jsonl", *notes) == before


class FullDisk:
    """Stands in for os.fdopen: files on a disk with little room, on which a write past it puts down
    what fits and then fails, as on a real one. Not everybody may mount one.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.open = os.fdopen
        self.was_full = False

    def __call__(self, *arguments, **options):
        file = self.open(*arguments, **options)
        write = file.write

        def write_what_fits(data):
            fitting = data[: self.room]
            self.room -= len(fitting)
            written = write(fitting)
            if len(fitting) < len(data):
                file.flush()
                self.was_full = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return written

        file.write = write_what_fits
        return file


def test_a_full_disk_is_one_line_and_leaves_the_old_page(
    shrunk_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run = shrunk_run.copy(tmp_path)
    (run.folder / "steps" / "report.json").unlink()
    before = run.hashes("settings.json")
    room = 50_000
    assert (run.folder / "settings.json").stat().st_size < room
    assert (run.folder / "report.html").stat().st_size > 2 * room
    disk = FullDisk(room)
    monkeypatch.setattr(os, "fdopen", disk)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # it is pytest's here
    monkeypatch.delenv("LM_TRACEBACK", raising=False)
    monkeypatch.chdir(run.working_folder)
    with pytest.raises(SystemExit) as stopped:
        cli.main(run.with_recipe("report"))
    assert disk.was_full
    assert stopped.value.code == 2
    line = "lm: no space left on the device; finished work is complete: free some space and run "
    assert capsys.readouterr().err == f"{line}the same command again\n"
    assert run.hashes("settings.json") == before
    assert not list(run.folder.rglob(".unfinished-*"))
