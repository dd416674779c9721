"""The commands of recipes/cluster/, run as two nodes of this machine.

What this leaves out: whether SLURM and Kubernetes accept the files, which needs a cluster.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from tiny_runs import PROJECT, make_run, rows, train

yaml = pytest.importorskip("yaml")

CLUSTER = PROJECT / "recipes" / "cluster"
# Stand for SLURM's commands: the job's two tasks, as processes of this machine.
SRUN = """#!/bin/bash
SLURM_NODEID=0 "$@" &
first=$!
SLURM_NODEID=1 "$@" &
wait $! || exit $?
wait $first
"""
SCONTROL = "#!/bin/bash\necho 127.0.0.1\necho another.node\n"


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Return the variables of a node; `torchrun` is that of this Python."""
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    fixed = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PATH": path}
    return os.environ | fixed | {"RANKS_PER_NODE": "1", "MASTER_PORT": free_port()} | changes


def check(root: Path, one: Path) -> None:
    train(one)
    losses = [[row.get("loss", 0.0) for row in rows(each)] for each in (root, one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 21


@pytest.mark.slow
def test_the_slurm_script(tmp_path):
    root, programs = make_run(tmp_path / "two"), tmp_path / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    script = CLUSTER / "pretrain_slurm.sh"
    lines = script.read_text().splitlines()
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    assert "nodes=2" in options and "ntasks-per-node=1" in options
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "123"}
    done = subprocess.run(
        ["bash", str(script), "recipe.toml", "--set", "parallel.data=fsdp"],
        cwd=root,
        env=environment(programs, **slurm),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(root, make_run(tmp_path / "one"))


@pytest.mark.slow
def test_the_kubernetes_job(tmp_path):
    root = make_run(tmp_path / "two")
    text = (CLUSTER / "pretrain_kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    container = job["spec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["NODES"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert values["MASTER_ADDR"] == name, "the name of pod 0"
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    on_this_machine = environment(tmp_path)
    own = {key: on_this_machine[key] for key in ("RANKS_PER_NODE", "MASTER_PORT")}
    node = on_this_machine | values | own | {"MASTER_ADDR": "127.0.0.1"}
    pods = [
        subprocess.Popen(
            container["command"],
            cwd=root,
            env=node | {"JOB_COMPLETION_INDEX": str(index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [pod.communicate(timeout=120)[1] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], errors
    check(root, make_run(tmp_path / "one"))
