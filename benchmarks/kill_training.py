"""Training on two ranks, killed with SIGKILL at random moments, saving included, and started again.

    python benchmarks/kill_training.py [--kills 30] [--data ddp|fsdp] [--seed 0]

Each row is one start of `torchrun -m training.engine` on a tiny recipe that saves every third step.
It is killed with all its processes after a random time since its first row of the log, or, every
second time, at the moment at which a checkpoint is being written (its temporary folder exists).
After the last kill the run is finished, and its weights and its log are compared, bit for bit, with
those of a run that was never killed. A kill after which the next start cannot read the newest
checkpoint would end the script with that start's message.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training" / "engine"))

from tiny_runs import make_run, start_ranks

from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.formats.metric_log import read_metrics

CLOCK = {"seconds", "tokens_per_second"}
HERE = Path(__file__).resolve().parent


def settings(kills: int, data: str) -> list[str]:
    """Return the options: long enough that no start ends before its kill."""
    changes = (
        f"pretrain.training.steps={100 * kills + 200}",
        "pretrain.training.checkpoint_every=3",
        f"parallel.data={data}",
    )
    return [word for change in changes for word in ("--set", change)]


def sharded(root: Path) -> Path | None:
    return next((root / "runs/tiny/checkpoints/pretrain/sharded").glob("*"), None)


def last_step(root: Path) -> int:
    rows = read_metrics(root / "runs/tiny/metrics.jsonl")
    return rows[-1]["step"] if rows else -1


def kill_everything(process: subprocess.Popen) -> None:
    """Kill torchrun and its ranks, which have sessions of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def one_kill(root: Path, options: list[str], aims: bool, wait: float) -> dict:
    """Start the run, kill it, and return where it stood."""
    before = last_step(root)
    process = start_ranks(root, 2, *options)
    started = time.monotonic()
    while last_step(root) <= before or sharded(root) is None:
        if process.poll() is not None:
            raise SystemExit(process.communicate()[1])
        time.sleep(0.005)
    first = time.monotonic()
    time.sleep(wait)
    during = False
    while aims and time.monotonic() - first < wait + 20:
        if during := any(sharded(root).glob(".unfinished-*")):
            break
    if process.poll() is not None:
        raise SystemExit(f"it ended before it was killed:\n{process.communicate()[1]}")
    step = last_step(root)
    kill_everything(process)
    saved = list_checkpoints(sharded(root))[-1].name
    return {"seconds": first - started, "step": step, "saving": during, "newest": saved}


def rows(root: Path) -> list[dict]:
    found = read_metrics(root / "runs/tiny/metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in found]


def last_weights(root: Path) -> bytes:
    folder = list_checkpoints(root / "runs/tiny/checkpoints/pretrain")[-1]
    return (folder / "model.safetensors").read_bytes()


def finish(root: Path, options: list[str]) -> None:
    process = start_ranks(root, 2, *options)
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--data", choices=("ddp", "fsdp"), default="fsdp")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    options = settings(given.kills, given.data)
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = make_run(Path(folder) / "straight"), make_run(Path(folder) / "killed")
        print("| kill | at step | while saving | newest checkpoint afterwards |\n|---|---|---|---|")
        table = []
        for number in range(1, given.kills + 1):
            row = one_kill(killed, options, number % 2 == 0, generator.uniform(0, 0.5))
            table.append(row)
            saving = "yes" if row["saving"] else "no"
            print(f"| {number} | {row['step']} | {saving} | {row['newest']} |", flush=True)
        finish(killed, options)
        finish(straight, options)
        same = {
            "weights": last_weights(killed) == last_weights(straight),
            "log": rows(killed) == rows(straight),
        }
    print(f"weights equal bit for bit: {same['weights']}; log equal: {same['log']}")
    result = {"data": given.data, "kills": table, **same}
    (HERE / f"kill_training_results_{given.data}.json").write_text(
        json.dumps(result, indent=2) + "\n"
    )
    if not all(same.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
