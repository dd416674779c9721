"""`lm serve` under the load of 64 clients: speed, mixed up answers, lost blocks, memory.

    python benchmarks/serve_load.py                     # two loads of 3 minutes each
    python benchmarks/serve_load.py --seconds 20 --out FILE

The server is started here, with SmolLM2-135M in int8, and stopped at the end. The first load has
64 clients of which each sends its next request when its last one has ended. In the second, three
of ten clients also leave in the middle of their answer. Every prompt holds a code word of its own.
The result has the figures of `lm bench serve` and the resident memory of the server before and
after each load. Exit status 1 means that an answer held another request's code word, or that a
request or a block was left on the server.
"""

import argparse
import json
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LM = [sys.executable, "-m", "lm_course"]
LOADS = {"all stay": [], "30% leave": ["--hang-up", "0.3"]}
REQUESTS = [
    *("--prompt-tokens", "64-256", "--answer-tokens", "16-64", "--shared-prefix-tokens", "64"),
    "--secrets",
]


@contextmanager
def server(options: argparse.Namespace) -> Iterator[tuple[str, int, list[str]]]:
    """Run `lm serve`; yield its URL, its process number and its options."""
    chosen = ["serve", "--model", options.model, "--weights", options.weights, "--port", "0"]
    chosen += ["--max-running", str(options.max_running)]
    with subprocess.Popen([*LM, *chosen], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "its output is a pipe"
            line = process.stdout.readline()
            found = re.search(r"http://\S+/v1", line)
            if found is None:
                raise SystemExit(f"the server did not start: {line.strip() or 'see above'}")
            yield found[0], process.pid, chosen
        finally:
            process.send_signal(signal.SIGINT)


def resident_megabytes(process: int) -> float | None:
    """Return the memory that a process occupies; None where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return None if found is None else round(int(found[1]) / 1024, 1)


def measured(
    url: str, process: int, more: list[str], seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Run one load and return what it found."""
    with tempfile.TemporaryDirectory() as folder:
        load = ["--concurrency", str(options.clients), "--seconds", f"{options.seconds:g}"]
        load += ["--seed", str(seed)]
        chosen = ["bench", "serve", *load, *REQUESTS, *more]
        print(f"$ lm {shlex.join(chosen)}", flush=True)
        before = resident_megabytes(process)
        ended = subprocess.run([*LM, *chosen, "--url", url, "--out", folder])
        report = Path(folder) / "report.json"
        found = json.loads(report.read_text()) if report.exists() else None
    return {
        "command": f"lm {shlex.join(chosen)}",
        "exit_status": ended.returncode,
        "server_megabytes_before": before,
        "server_megabytes_after": resident_megabytes(process),
        "level": None if found is None else found["levels"][0],
        "secrets": None if found is None else found["secrets"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=180.0, help="of each load")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--model", default="smollm2", help="as for `lm serve --model`")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--max-running", type=int, default=64)
    parser.add_argument("--out", type=Path, default=HERE / "serve_load_results.json")
    options = parser.parse_args()
    loads = {}
    with server(options) as (url, process, chosen):
        for seed, (name, more) in enumerate(LOADS.items()):
            loads[name] = measured(url, process, more, seed, options)
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "server": f"lm {shlex.join(chosen)}",
        "loads": loads,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if any(load["exit_status"] for load in loads.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
