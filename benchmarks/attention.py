"""Memory and time of attention as a formula, in tiles and by PyTorch's kernel; on a GPU, our Triton
kernel against PyTorch's FlashAttention and cuDNN backends.

    python benchmarks/attention.py           # on a CPU: memory and time; about 3 minutes
    python benchmarks/attention.py --gpu     # needs a CUDA device; minutes, mostly for tuning

On the CPU, one float32 head 64 wide, causal, forward and backward. Memory is the peak of a fresh
process minus its memory before the call (Linux: VmHWM). Times are medians of rounds in which every
contestant runs once, with one thread.

On the GPU, bfloat16, causal, 2^15 tokens in sequences of 2^10 to 2^15, 2048 channels in heads of 64
or 128. A causal forward pass counts as half of 4 T^2 d FLOPs per head and a backward pass as 2.5
times that, regardless of the kernel's actual work. The share is relative to a matrix product of
8192^3 measured in the same run.

Results go to attention_results.json (or attention_gpu_results.json) next to this file.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

HERE = Path(__file__).resolve().parent
LENGTHS = (512, 1024, 2048, 4096, 8192)
HEAD_DIM = 64
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def cpu_contestants() -> dict[str, Attention]:
    from transformer_lm.attention import causal_mask, scaled_dot_product_attention
    from transformer_lm.tiled_attention import tiled_attention

    def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = causal_mask(q.shape[2], k.shape[2], q.device)
        return scaled_dot_product_attention(q, k, v, mask)

    return {
        "eager": eager,
        "tiled": lambda q, k, v: tiled_attention(q, k, v, is_causal=True),
        "sdpa": lambda q, k, v: sdpa(q, k, v, is_causal=True),
    }


def forward_and_backward(attention: Attention, length: int) -> None:
    q, k, v = (torch.randn(1, 1, length, HEAD_DIM, requires_grad=True) for _ in "qkv")
    attention(q, k, v).sum().backward()


def status_megabytes(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def print_extra_memory(name: str, length: int) -> None:
    """Print the extra memory, in a separate process that first runs a small call to load
    everything.
    """
    attention = cpu_contestants()[name]
    forward_and_backward(attention, 16)
    before = status_megabytes("VmRSS")
    forward_and_backward(attention, length)
    print(status_megabytes("VmHWM") - before)


def extra_memory() -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for name in cpu_contestants():
        for length in LENGTHS:
            command = [sys.executable, __file__, "--memory-of", name, str(length)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.setdefault(name, {})[length] = round(float(done.stdout), 1)
        print(f"  memory of {name}, MB: {found[name]}", flush=True)
    return found


def cpu_seconds(rounds: int) -> dict[str, dict[int, float]]:
    contestants = cpu_contestants()
    found: dict[str, dict[int, float]] = {name: {} for name in contestants}
    for length in LENGTHS:
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, attention in contestants.items():
                started = time.perf_counter()
                forward_and_backward(attention, length)
                seconds[name].append(time.perf_counter() - started)
        for name, values in seconds.items():
            found[name][length] = statistics.median(values)
    return found


def measure_cpu(rounds: int) -> dict[str, Any]:
    memory, seconds = extra_memory(), cpu_seconds(rounds)
    print("\n| T | " + " | ".join(f"{name}, MB | {name}, ms" for name in memory) + " |")
    print("|---" * (1 + 2 * len(memory)) + "|")
    for length in LENGTHS:
        cells = [f"{memory[n][length]:.1f} | {seconds[n][length] * 1e3:.0f}" for n in memory]
        print(f"| {length} | " + " | ".join(cells) + " |")
    return {
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
        "what": f"one float32 head {HEAD_DIM} wide, causal, forward and backward",
        "rounds": rounds,
        "extra_megabytes": memory,
        "milliseconds": {
            n: {t: round(s * 1e3, 1) for t, s in v.items()} for n, v in seconds.items()
        },
        "times_as_fast_as_eager": {
            name: {t: round(seconds["eager"][t] / s, 2) for t, s in values.items()}
            for name, values in seconds.items()
        },
        "memory_8192_over_4096": {n: round(v[8192] / v[4096], 2) for n, v in memory.items()},
    }


def gpu_contestants() -> dict[str, Attention]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from transformer_lm.kernels.flash_attention import flash_attention

    def with_backend(backend: SDPBackend) -> Attention:
        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return sdpa(q, k, v, is_causal=True)

        return attention

    return {
        "triton": lambda q, k, v: flash_attention(q, k, v, is_causal=True),
        "torch flash": with_backend(SDPBackend.FLASH_ATTENTION),
        "cudnn": with_backend(SDPBackend.CUDNN_ATTENTION),
    }


def gpu_milliseconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return medians of interleaved rounds, after three runs of each for tuning and warm-up."""
    for run in runs.values():
        for _ in range(3):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def runs_of(length: int, head_dim: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return, for forward and backward, a call for each contestant that supports these tensors."""
    shape = 2**15 // length, 2048 // head_dim, length, head_dim
    q, k, v, grad = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in "qkvg")
    leaves = [x.requires_grad_() for x in (q, k, v)]
    runs: dict[str, dict[str, Callable[[], Any]]] = {"forward": {}, "backward": {}}
    for name, attention in gpu_contestants().items():
        try:
            o = attention(*leaves)
        except RuntimeError as error:
            print(f"{name} is skipped: {str(error).splitlines()[0]}")
            continue
        runs["forward"][name] = lambda attention=attention: attention(q, k, v).detach()
        runs["backward"][name] = lambda o=o: torch.autograd.grad(o, leaves, grad, retain_graph=True)
    return runs


def matmul_teraflops(rounds: int) -> float:
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in "xy")
    return 2 * 8192**3 / gpu_milliseconds({"matmul": lambda: x @ y}, rounds)["matmul"] / 1e9


def measure_gpu(rounds: int) -> dict[str, Any]:
    peak = matmul_teraflops(rounds)
    rows = []
    for head_dim in (64, 128):
        for length in (2**power for power in range(10, 16)):
            for direction, runs in runs_of(length, head_dim).items():
                forward_flops = 4 * 2**15 * 2048 * length / 2
                flops = forward_flops * (1 if direction == "forward" else 2.5)
                times = gpu_milliseconds(runs, rounds)
                speed = {name: flops / t / 1e9 for name, t in times.items()}
                row: dict[str, Any] = {"head_dim": head_dim, "T": length, "direction": direction}
                row |= {f"{name}, TFLOP/s": round(value, 1) for name, value in speed.items()}
                row["share of matmul"] = round(speed["triton"] / peak, 3)
                for peer in speed.keys() - {"triton"}:
                    row[f"triton / {peer}"] = round(speed["triton"] / speed[peer], 3)
                rows.append(row)
                print(row, flush=True)
    return {
        "machine": f"{torch.cuda.get_device_name()}, torch {torch.__version__}",
        "matmul_teraflops": round(peak, 1),
        "rounds": rounds,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_extra_memory(options.memory_of[0], int(options.memory_of[1]))
        return
    if options.gpu and not torch.cuda.is_available():
        print(
            "attention.py --gpu: no CUDA device found; run it on a machine with one",
            file=sys.stderr,
        )
        sys.exit(2)
    torch.set_num_threads(1)
    results = measure_gpu(options.rounds) if options.gpu else measure_cpu(options.rounds)
    name = "attention_gpu_results.json" if options.gpu else "attention_results.json"
    out = options.out or HERE / name
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written to {out.name}")


if __name__ == "__main__":
    main()
