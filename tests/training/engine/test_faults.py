"""The end of a run by a signal, a killed rank, a full disk, NaN, and bad
input.
"""

import contextlib
import errno
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from preloaded_python import Program

from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.user_error import UserError
from training.engine.__main__ import _recipe_file
from training.runs import pretraining
from transformer_lm.weights.pretrained import load_model

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from gloo_ranks import Ranks
from tiny_runs import PROJECT, engine, last_weights, make_run, rows, start_ranks, train

PATIENCE = 120.0  # seconds, for processes that share two cores with others


def own_lines(text: str) -> list[str]:
    """Return the lines that the engine wrote, without torchrun's and the progress bar's."""
    return [line for line in text.splitlines() if line.startswith("pretrain: ")]


def start_alone(root: Path, rank: int, size: int, port: int, *arguments: str):
    """Start one rank without torchrun, so that its own exit status is seen."""
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return Program(engine(*arguments), root, environment)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def outcome(processes: list[Program]) -> tuple[list[int], list[str]]:
    """Return the exit statuses, and the lines of all ranks."""
    try:
        texts = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert all("Traceback" not in text for text in texts), texts
    return [process.returncode for process in processes], own_lines("\n".join(texts))


def children(process: subprocess.Popen) -> list[int]:
    """Return the ranks of torchrun, in order."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in listed.split()}
    return [pid for pid, command in commands.items() if b"training.engine" in command]


def wait_for_step(process: subprocess.Popen, root: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not rows(root) or rows(root)[-1]["step"] < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the ranks are too slow"
        time.sleep(0.01)


LONG = ("--set", "pretrain.training.steps=4000")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_saves_and_ends_all_with_status_0(tmp_path, number):
    root = make_run(tmp_path)
    process = start_ranks(root, 2, *LONG)
    wait_for_step(process, root, 3)
    os.kill(children(process)[1], number)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    step = rows(root)[-1]["step"]
    saved = f"after step {step}, which is saved; the same command resumes from there"
    assert [line.endswith(saved) for line in own_lines(error)] == [True], error
    folder = next((root / "runs/tiny/checkpoints/pretrain/sharded").iterdir())
    assert list_checkpoints(folder)[-1].name == f"step_{step:06}"


def test_a_killed_rank_ends_the_others_with_one_line(tmp_path):
    root = make_run(tmp_path)
    batches = ("--set", "pretrain.training.batch_size=6")
    process = start_ranks(root, 3, *LONG, *batches)  # two are left: one line, not one of each
    wait_for_step(process, root, 3)
    os.kill(children(process)[2], signal.SIGKILL)
    killed = time.monotonic()
    _, error = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - killed < 30
    assert process.returncode == 1
    lines = [line for line in own_lines(error) if "resumes" not in line]
    assert len(lines) == 1 and "another rank has ended or does not answer" in lines[0], error
    assert "training_loop.py" not in error, "no traceback but torchrun's own"


@pytest.mark.slow
def test_ranks_with_other_settings_are_refused(tmp_path):
    root, port = make_run(tmp_path), free_port()
    statuses, lines = outcome(
        [
            start_alone(root, 0, 2, port),
            start_alone(root, 1, 2, port, "--set", "pretrain.training.seed=1"),
        ]
    )
    assert statuses == [2, 2]
    assert len(lines) == 1 and "settings or shards of rank 1 differ from those of" in lines[0]


@pytest.mark.slow
def test_a_port_in_use_is_one_line(tmp_path):
    root = make_run(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        statuses, lines = outcome([start_alone(root, 0, 2, port)])
    assert statuses == [2]
    assert lines == [
        f"pretrain: 127.0.0.1:{port}: the port is in use; choose a free port, the "
        "same on all ranks (--master-port)"
    ]


def test_a_damaged_shard_is_one_line(tmp_path):
    root, port = make_run(tmp_path), free_port()
    shard = root / "runs/tiny/shards/train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    statuses, lines = outcome([start_alone(root, rank, 2, port) for rank in range(2)])
    assert statuses == [2, 2]
    assert len(lines) == 1 and "make the shards again with `lm data shard RECIPE`" in lines[0]


def test_bad_input_in_one_process(tmp_path, capsys):
    root = make_run(tmp_path)
    from training.engine.__main__ import main

    assert main([str(root / "recipe.toml"), "--set", "parallel.date=1"]) == 2
    assert "unknown setting parallel.date; did you mean data?" in capsys.readouterr().err
    with contextlib.chdir(tmp_path):
        (root / "runs/tiny/tokenizer.json").unlink()
        assert main(["recipe.toml"]) == 2
    line = capsys.readouterr().err
    assert "tokenizer does not exist; make it with `lm tokenizer train RECIPE`" in line


def spoil_at(step: int, spoil) -> None:
    """Let something happen in the loss of a step, counted from 1, on this rank."""
    loss_sum, batch_at = pretraining.language_model_loss_sum, pretraining.WindowBatches.batch_at
    current = [0]

    def remembered(self, number: int):
        current[0] = number + 1
        return batch_at(self, number)

    def spoiled(model, batch, **settings):
        value, count = loss_sum(model, batch, **settings)
        return (spoil(value) if current[0] == step else value), count

    pretraining.BATCHES["windows"].batch_at = remembered
    pretraining.language_model_loss_sum = spoiled


def train_to_an_error(root: str, overrides: tuple[str, ...]) -> str:
    try:
        train(Path(root), overrides, ranks=True)
    except UserError as error:
        return str(error)
    return ""


def with_a_bad_batch(rank: int, size: int, root: str, overrides: tuple[str, ...]) -> str:
    if rank == 1:
        spoil_at(16, lambda value: value * math.nan)
    return train_to_an_error(root, overrides)


@pytest.mark.slow
def test_a_recipe_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "sub").mkdir(parents=True)
    for name in ("small", "sub/small"):
        (tmp_path / "recipes" / f"{name}.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert _recipe_file(Path("small")) == Path("recipes/small.toml")
    assert _recipe_file(Path("other")) == Path("other")
    assert _recipe_file(Path("sub/small")) == Path("sub/small")


@pytest.mark.parametrize("data", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_a_nan_on_one_rank_stops_all_and_keeps_the_last_good_checkpoint(tmp_path, data):
    root, pool = make_run(tmp_path), Ranks()
    try:
        lines = pool.call(2, with_a_bad_batch, str(root), (f"parallel.data={data}",))
    finally:
        pool.stop()
    assert lines[0] == lines[1]
    assert "the loss became NaN at step 16 (learning rate" in lines[0]
    assert "the batch was windows " in lines[0] and "of the training shards" in lines[0]
    assert [row["step"] for row in rows(root)] == list(range(16))
    train_again = Ranks()
    try:
        state = train_again.call(2, resumed, str(root), (f"parallel.data={data}",))[0]
    finally:
        train_again.stop()
    assert state["resumed_from"] == 14


def resumed(rank: int, size: int, root: str, overrides: tuple[str, ...]) -> dict:
    return vars(train(Path(root), overrides, ranks=True))


def test_a_jump_names_step_and_batch_in_one_process_too(tmp_path, monkeypatch):
    root = make_run(tmp_path)
    loss = pretraining.language_model_loss
    calls = []

    def jumping(model, batch, **settings):
        calls.append(1)
        return loss(model, batch, **settings) * (100 if len(calls) == 110 else 1)

    monkeypatch.setattr(pretraining, "language_model_loss", jumping)
    with pytest.raises(UserError, match=r"jumped to .* at step 110: .*; the batch was windows \d"):
        train(root, ("pretrain.training.steps=120",))


def on_a_full_disk(rank: int, size: int, root: str, choice: str) -> str:
    """The second checkpoint of a rank, that of step 7, meets a full disk."""
    from torch.distributed.checkpoint import filesystem

    write = filesystem._write_item

    def failing(transforms, stream, data, item, *others):
        if "step_000007" in str(getattr(stream, "name", "")):
            stream.write(b"x" * 10)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(transforms, stream, data, item, *others)

    if rank == 1:
        filesystem._write_item = failing
    return train_to_an_error(root, (f"pretrain.training.on_failed_save={choice}",))


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, choice, capfd):
    root, pool = make_run(tmp_path), Ranks()
    try:
        lines = pool.call(2, on_a_full_disk, str(root), choice)
    finally:
        pool.stop()
    line = "the checkpoint of step 7 was not saved: rank 1: no space left on the device"
    folder = next((root / "runs/tiny/checkpoints/pretrain/sharded").iterdir())
    found = [path.name for path in list_checkpoints(folder)]
    assert not list(folder.glob(".unfinished-*"))
    if choice == "stop":
        assert lines[0].startswith(line) and lines[0] == lines[1]
        assert found == ["step_000000"]
    else:
        assert lines == ["", ""]
        assert found == ["step_000014", "step_000020"]
        assert rows(root)[-1]["step"] == 20


def test_a_full_disk_in_one_process(tmp_path, monkeypatch, capsys):
    root = make_run(tmp_path)
    from training.runs import run_checkpoints

    write = run_checkpoints.write_checkpoint

    def failing(folder, *rest):
        if folder.name == "step_000007":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, *rest)

    monkeypatch.setattr(run_checkpoints, "write_checkpoint", failing)
    with pytest.raises(OSError, match="No space left"):
        train(root)
    state = train(root, ("pretrain.training.on_failed_save=continue",))
    assert state.step == 20 and state.resumed_from == 0
    line = "pretrain: the checkpoint of step 7 was not saved: No space left on device; the one"
    assert line in capsys.readouterr().err


def test_a_validation_that_finds_ruined_weights_removes_their_checkpoint(tmp_path):
    root, pool = make_run(tmp_path), Ranks()
    rates = ("pretrain.training.learning_rate=1e38", "pretrain.training.warmup_steps=0")
    changes = (*rates, "pretrain.training.steps=1", "pretrain.training.min_learning_rate=1e38")
    try:
        lines = pool.call(2, only_an_error, str(root), changes)
    finally:
        pool.stop()
    assert "the validation bits per byte became NaN after step 1" in lines[0]
    folder = next((root / "runs/tiny/checkpoints/pretrain/sharded").iterdir())
    assert [path.name for path in list_checkpoints(folder)] == ["step_000000"]
    whole = list_checkpoints(root / "runs/tiny/checkpoints/pretrain")
    assert [path.name for path in whole] == ["step_000000"]
    assert all(torch.isfinite(p).all() for p in load_model(whole[0]).parameters())


def only_an_error(rank: int, size: int, root: str, overrides: tuple[str, ...]) -> str:
    return train_to_an_error(root, overrides)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    root, pool = make_run(tmp_path), Ranks()
    try:
        pool.call(2, resumed, str(root), ())
        pool.stop()
        folder = next((root / "runs/tiny/checkpoints/pretrain/sharded").iterdir())
        part = folder / "step_000020" / "__1_0.distcp"
        part.write_bytes(part.read_bytes()[:100])
        lines = pool.call(2, only_an_error, str(root), ())
    finally:
        pool.stop()
    assert "step_000020: this checkpoint cannot be read (" in lines[0]
    assert "delete its folder to resume from the one before" in lines[0]


def test_a_signal_to_a_process_saves_at_once(tmp_path, monkeypatch):
    """In one process; `lm` then ends as tests/end_to_end/test_interruption.py says."""
    straight, stopped = make_run(tmp_path / "straight"), make_run(tmp_path / "stopped")
    train(straight)
    loss = pretraining.language_model_loss
    calls = []

    def signalling(model, batch, **settings):
        calls.append(1)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGTERM)
        return loss(model, batch, **settings)

    monkeypatch.setattr(pretraining, "language_model_loss", signalling)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM after step 9, which is saved"):
        train(stopped)
    assert signal.getsignal(signal.SIGTERM) is before
    state = train(stopped)
    assert state.resumed_from == 9
    assert rows(stopped) == rows(straight) and last_weights(stopped) == last_weights(straight)
